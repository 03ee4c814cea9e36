"""Measures what saving and loading a state_dict of 1 GB takes, beside torch itself, in one process.

usage: hooks_state.py MEASUREMENT FOLDER RUNS       MEASUREMENT is one of save, copy, steps, load, memory

Prints one line of JSON: seconds in the order in which they were measured, and bytes. What is compared is done in turn
(A B A B), after a round that does not count. All is made in FOLDER.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ckpt_store import Store

TENSORS, ELEMENTS = 200, 1_250_000  # of fp32: 1 GB
# The training beside a save: a step of about 10 ms on one core.
WIDTH, BATCH = 512, 64
STEPS_ALONE = 100
State = dict[str, torch.Tensor]
Seconds = dict[str, list[float]]


def state(seed: int = 0) -> State:
    """Random weights with the spread of trained ones, so that they compress as those do; all memory is touched."""
    random = torch.Generator().manual_seed(seed)
    spread = lambda i: 0.02 + 0.001 * (i % 24)  # noqa: E731
    return {f"layers.{i}.weight": torch.randn(ELEMENTS, generator=random) * spread(i) for i in range(TENSORS)}


def train(tensors: State) -> None:
    """Changes every tensor, as an optimizer does."""
    for tensor in tensors.values():
        tensor.mul_(1.0001)


def timed(act: Callable[[], Any]) -> float:
    """Lets the disk finish first, so that nothing pays for what was before."""
    os.sync()
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def durable(tensors: State, file: Path) -> None:
    """torch.save, and then fsync of what it wrote, which is what Store.save promises."""
    torch.save(tensors, file)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def in_turn(acts: dict[str, tuple[Callable[[int], None], Callable[[int], Any]]], runs: int) -> Seconds:
    """Times each act after what has to be done before it; both get the number of the round."""
    seconds: Seconds = defaultdict(list)
    for round_ in range(runs + 1):
        for name, (before, act) in acts.items():
            before(round_)
            taken = timed(lambda act=act: act(round_))
            if round_:
                seconds[name].append(taken)
    return seconds


def save(folder: Path, runs: int) -> dict[str, Any]:
    tensors, file = state(), folder / "torch.pt"
    opened: dict[str, Store] = {"kept": Store(folder / "kept")}
    opened["kept"].save(tensors, run="a", step=0)

    def new_store(_: int) -> None:
        opened.pop("new", None)
        shutil.rmtree(folder / "new", ignore_errors=True)
        opened["new"] = Store(folder / "new")

    def no_file(_: int) -> None:
        file.unlink(missing_ok=True)

    seconds = in_turn(
        {
            "first": (new_store, lambda n: opened["new"].save(tensors, run="a", step=n)),
            "durable": (no_file, lambda _: durable(tensors, file)),
            "unchanged": (lambda _: None, lambda n: opened["kept"].save(tensors, run="a", step=n + 1)),
            "torch": (no_file, lambda _: torch.save(tensors, file)),
        },
        runs,
    )
    return {**seconds, "bytes": file.stat().st_size}


def copy(folder: Path, runs: int) -> dict[str, Any]:
    """How long save_async keeps the training from going on."""
    tensors, store = state(), Store(folder / "kept")
    store.save(tensors, run="a", step=0)
    places = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    held: dict[str, Any] = {}

    def again(_: int) -> None:
        held.pop("clone", None)
        held.pop("handle", None)
        store.wait()

    def anew(_: int) -> None:
        again(_)
        # Without the memory that the last save's copy lay in.
        held.pop("opened", None)
        held["opened"] = Store(folder / "kept")

    def asynchronous(store: Store, step: int) -> None:
        held["handle"] = store.save_async(tensors, run="a", step=step)

    def clone(_: int) -> None:
        held["clone"] = {name: tensor.clone() for name, tensor in tensors.items()}

    def into_places(_: int) -> None:
        for name, tensor in tensors.items():
            places[name].copy_(tensor)

    def finish(_: int) -> None:
        if "opened" in held:
            held["opened"].wait()
        again(_)

    seconds = in_turn(
        {
            "clone": (finish, clone),
            "again": (finish, lambda n: asynchronous(store, 2 * n + 1)),
            "places": (finish, into_places),
            "first": (anew, lambda n: asynchronous(held["opened"], 2 * n + 2)),
        },
        runs,
    )
    finish(0)
    return dict(seconds)


def steps(folder: Path, runs: int) -> dict[str, Any]:
    """Steps of a training on one core while a save goes on, and without; the store uses all threads of its pool."""
    torch.set_num_threads(1)
    tensors, store = state(), Store(folder / "kept")
    model = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)])
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = torch.randn(BATCH, WIDTH)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - start

    store.save_async(tensors, run="a", step=0).result()
    # Seconds of a step beside a save over those just before it, and those of the save.
    found: Seconds = {"alone": [], "changed": [], "unchanged": [], "changed_save": [], "unchanged_save": []}
    for round_ in range(runs + 1):
        for kind, number in (("changed", 2 * round_ + 1), ("unchanged", 2 * round_ + 2)):
            if kind == "changed":
                train(tensors)
            os.sync()
            alone = mean(step() for _ in range(STEPS_ALONE))
            handle = store.save_async(tensors, run="a", step=number)
            start, beside = time.perf_counter(), []
            while not handle.done():
                beside.append(step())
            seconds = time.perf_counter() - start
            handle.result()
            if round_:
                found["alone"].append(alone)
                # The last step may have gone on when the save was over.
                found[kind].append(mean(beside[:-1] or beside) / alone)
                found[f"{kind}_save"].append(seconds)
    return dict(found)


def load(folder: Path, runs: int) -> dict[str, Any]:
    tensors, file = state(), folder / "torch.pt"
    store = Store(folder / "kept")
    store.save(tensors, run="a", step=0)
    durable(tensors, file)
    held: dict[str, Any] = {}

    def drop(_: int) -> None:
        held.clear()

    def keep(loaded: State) -> None:
        held["loaded"] = loaded

    seconds = in_turn(
        {
            "store": (drop, lambda _: keep(store.load("a@0"))),
            "torch": (drop, lambda _: keep(torch.load(file, weights_only=True))),
        },
        runs,
    )
    drop(0)
    loaded = store.load("a@0")
    assert list(loaded) == list(tensors) and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    # Two tensors of 200.
    before = bytes_read()
    few = store.load_tensors("a@0", "layers.7.weight", "layers.77.weight")
    read = bytes_read() - before
    assert len(few) == 2 and all(torch.equal(tensor, tensors[name]) for name, tensor in few.items())
    wanted = sum(tensor.nbytes for tensor in few.values())
    return {**seconds, "few_read": read, "few_wanted": wanted}


def memory(folder: Path, _runs: int) -> dict[str, Any]:
    """How much more memory there is at the most during a save than before it."""
    tensors, store = state(), Store(folder / "kept")
    peaks = {}
    for number, name in enumerate(("first", "unchanged")):
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        store.save(tensors, run="a", step=number)
        peaks[name] = resident("VmHWM") - before
    return peaks


def bytes_read() -> int:
    """What this process has read from files so far, the page cache included."""
    return counted("io", "rchar")


def resident(what: str) -> int:
    return 1024 * counted("status", what)


def counted(file: str, what: str) -> int:
    """A number that the kernel tells of this process."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


MEASUREMENTS = {function.__name__: function for function in (save, copy, steps, load, memory)}

if __name__ == "__main__":
    measured = MEASUREMENTS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(measured))
