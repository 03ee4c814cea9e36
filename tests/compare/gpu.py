"""Saving and loading tensors on a GPU, beside what torch does with them; for a machine that has one.

usage: gpu.py DIR [GB]    DIR: an empty directory on the disk to measure. Needs ckpt_store on PYTHONPATH
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

import ckpt_store as ckpt

RUNS = 4


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, with all that it queues on the GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def show(words: str, ours: list[float], theirs: list[float]) -> None:
    took, stands = median(ours) * 1000, median(theirs) * 1000
    print(f"{words:<58}{took:9.0f} ms {stands:9.0f} ms {took / stands:7.3f}x")


def torch_save(state: dict[str, torch.Tensor], path: Path) -> None:
    """torch.save that is as durable as a save into a store."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def steps_until(over: Callable[[], bool]) -> list[float]:
    """Steps of a training that uses the GPU alone, until it is over."""
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def step() -> None:
        result = matrix
        for _ in range(8):
            result = (result @ matrix) * 1e-2

    step()
    taken = [seconds(step)]
    while not over():
        taken.append(seconds(step))
    return taken


def main(folder: Path, gigabytes: float) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    count = round(gigabytes * 200)
    state = {f"layer{n}": torch.randn(1_250_000, generator=generator, device="cuda") * 0.02 for n in range(count)}
    store = ckpt.Store(folder / "store")
    name = torch.cuda.get_device_name()
    print(f"{name}, {os.cpu_count()} processors, torch {torch.__version__}: {count} tensors, {count / 200:.1f} GB")

    theirs = [seconds(lambda: torch_save(state, folder / "torch.pt")) for _ in range(RUNS)]
    first = seconds(lambda: store.save(state, run="a", step=0))
    again = [seconds(lambda step=step: store.save(state, run="a", step=step)) for step in range(1, RUNS + 1)]
    show("save, the first, beside torch.save + fsync", [first], theirs)
    show("save, unchanged, beside torch.save + fsync", again, theirs)

    copied = [seconds(lambda: {key: tensor.cpu() for key, tensor in state.items()}) for _ in range(RUNS)]
    pinned = {key: torch.empty(tensor.shape, pin_memory=True) for key, tensor in state.items()}
    places = [
        seconds(lambda: [pinned[key].copy_(tensor, non_blocking=True) for key, tensor in state.items()])
        for _ in range(RUNS)
    ]
    del pinned
    blocked = []
    for step in range(RUNS + 1):
        blocked.append(seconds(lambda step=step: store.save_async(state, run="b", step=step)))
        store.wait()
    show("save_async returns, the first, beside tensor.cpu()", blocked[:1], copied)
    show("save_async returns, later, beside tensor.cpu()", blocked[1:], copied)
    show("save_async returns, later, beside copies to pinned memory", blocked[1:], places)

    end = time.perf_counter() + 1
    alone = steps_until(lambda: time.perf_counter() > end)
    for tensor in state.values():
        tensor.mul_(1.0001)
    handle = store.save_async(state, run="b", step=100)
    show("a step while all that changed is saved, beside one alone", steps_until(handle.done), alone)
    saved = handle.result()

    path = store.get(saved.ref, folder / "back.pt")
    for device in ("cpu", "cuda"):
        by_torch = [seconds(lambda: torch.load(path, map_location=device)) for _ in range(RUNS)]
        by_store = [seconds(lambda: store.load(saved.ref, map_location=device)) for _ in range(RUNS)]
        show(f"load to {device}, beside torch.load", by_store, by_torch)
    loaded = store.load(saved.ref)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4.0)
