"""Tensors on a GPU: saved through pinned memory, and copied for a save behind the training's back. Skipped without a
GPU."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
import torch

import ckpt_store as ckpt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {f"layer{n}": torch.randn(n * 70_000 + 5, device="cuda") for n in range(20)}
    tensors |= {"half": torch.randn(3000, 2000, device="cuda").half(), "empty": torch.empty(0, device="cuda")}
    tensors |= {"turned": tensors["half"].t(), "near": torch.randn(300_000), "one": torch.tensor(2.5, device="cuda")}
    return tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key].cpu(), b[key].cpu()) for key in a)


def test_a_save_is_what_torch_writes(store: ckpt.Store, tmp_path: Path) -> None:
    saved = state()
    to = io.BytesIO()
    torch.save(saved, to)
    store.save(saved, run="a", step=1)
    data = store.get("a", tmp_path / "a.pt").read_bytes()
    start = data.index(b"archive/.data/serialization_id")
    assert len(data) == len(to.getvalue())
    assert data[:start] == to.getvalue()[:start]
    loaded = store.load("a")
    assert same(loaded, saved)
    assert loaded["half"].is_cuda
    assert not loaded["near"].is_cuda
    assert same(store.load("a", map_location="cpu"), saved)
    assert same(store.load_tensors("a", device="cuda"), saved)
    assert store.save(saved, run="a", step=2).added_bytes == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_waits_for_what_is_queued_and_no_later(store: ckpt.Store, asynchronous: bool) -> None:
    matrix = torch.eye(4000, device="cuda") * 1.0001
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        result = matrix.clone()
        for _ in range(200):
            result = result @ matrix
        if asynchronous:
            handle = store.save_async({"result": result}, run="a")
        else:
            store.save({"result": result}, run="a")
        expected = result.cpu()
        result.zero_()
    if asynchronous:
        handle.result()
    torch.cuda.synchronize()
    assert torch.equal(store.load("a", map_location="cpu")["result"], expected)
    assert expected[0, 0] > 1.01


def test_saves_of_several_threads(tmp_path: Path) -> None:
    stores = [ckpt.Store(tmp_path / f"store{n}") for n in range(3)]
    states = [{"w": torch.full((3_000_000,), float(n), device="cuda"), **state()} for n in range(3)]

    def work(n: int) -> None:
        for step in range(3):
            states[n]["w"] += 1
            stores[n].save(states[n], run="a", step=step)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(3):
        assert same(stores[n].load("a@2"), states[n])
        assert (stores[n].load("a@0")["w"] == n + 1).all()


def test_a_save_takes_little_memory_of_the_host(store: ckpt.Store) -> None:
    import resource

    tensors = {f"w{n}": torch.randn(64_000_000, device="cuda") for n in range(8)}
    store.save({"w": tensors["w0"][:1000]}, run="warm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.save(tensors, run="a")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 300_000_000, "2 GB of tensors, a few buffers of the host"
