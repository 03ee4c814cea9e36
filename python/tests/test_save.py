"""Store.save against torch.save: the bytes, what torch reads of them, and what the store takes for them."""

from __future__ import annotations

import copy
import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import ckpt_store as ckpt

ID = "archive/.data/serialization_id"


def objects() -> dict[str, object]:
    """Objects of every kind that torch.save treats differently."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(50, 300), torch.nn.Linear(300, 50), torch.nn.BatchNorm1d(50))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)).sum().backward()
    optimizer.step()
    matrix = torch.arange(60000.0).reshape(200, 300)
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64]
    kinds += [torch.float8_e4m3fn, torch.uint16]
    return {
        "a model with tied weights and its optimizer": {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        "a whole module": model,
        "views": [matrix, matrix[3:7, ::2], matrix.t(), matrix[5], matrix.expand(2, 200, 300)],
        "types": {str(kind): torch.ones(1000).to(kind) for kind in kinds},
        "nothing": None,
        "no tensor": {"a": [1, 2.5, "text", None, (True, b"bytes")], "b": OrderedDict(x=1)},
        "empty tensors": [torch.empty(0), torch.empty(0, 3), torch.tensor(3.5), torch.empty(4, device="meta")],
        "storages": [torch.arange(10).untyped_storage(), torch.arange(3).storage()],
        "sparse and quantized": [
            torch.eye(30).to_sparse(),
            torch.eye(30).to_sparse_csr(),
            torch.quantize_per_tensor(torch.randn(30), 0.1, 3, torch.quint8),
        ],
        "a parameter that needs a gradient": torch.nn.Parameter(torch.ones(3), requires_grad=True),
        "conjugated": torch.ones(5, dtype=torch.complex64).conj(),
        "more than a few chunks": [torch.randn(700_001), torch.randn(262_144), torch.randn(262_145)],
        "many small ones": {f"layer{n}.bias": torch.full((n,), float(n)) for n in range(300)},
    }


def written_by_torch(obj: object) -> bytes:
    to = io.BytesIO()
    torch.save(obj, to)
    return to.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None, "the sums are right"
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.mark.parametrize("name", objects())
def test_a_save_is_what_torch_writes(store: ckpt.Store, tmp_path: Path, name: str) -> None:
    obj = objects()[name]
    expected = written_by_torch(obj)
    for step in (1, 2):
        store.save(obj, run="a", step=step)
        saved = store.get(f"a@{step}", tmp_path / f"{step}.pt").read_bytes()
        assert list(members(saved)) == list(members(expected))
        # All bytes are torch's but for the id that torch makes up, which stands there with its sum, and in the
        # directory.
        start = saved.index(ID.encode()) + len(ID)
        assert saved[:start] == expected[:start]
        assert len(saved) == len(expected)
        assert {**members(saved), ID: b""} == {**members(expected), ID: b""}
    # The same object gives the same bytes, which torch's own id does too.
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()
    assert store.checkpoint("a@2").added_bytes == 0


def test_torch_loads_it_with_mmap_and_with_calculated_offsets(store: ckpt.Store, tmp_path: Path) -> None:
    state = {"w": torch.randn(300, 400), "b": torch.arange(7.0), "tied": None}
    state["tied"] = state["w"]
    store.save(state, run="a")
    path = store.get("a", tmp_path / "back.pt")
    for calculated in (False, True):
        from torch.utils.serialization import config

        config.load.calculate_storage_offsets = calculated
        try:
            loaded = torch.load(path, mmap=True)
        finally:
            config.load.calculate_storage_offsets = False
        assert all(torch.equal(loaded[key], state[key]) for key in state)
        assert loaded["tied"].data_ptr() == loaded["w"].data_ptr()


def test_what_is_unchanged_is_not_written_again(store: ckpt.Store) -> None:
    frozen, trained = torch.randn(1_000_000), torch.randn(50_000)
    first = store.save({"frozen": frozen, "trained": trained}, run="a", step=1)
    assert first.added_bytes >= frozen.nbytes
    # In place and without a new version: the content alone tells.
    with torch.no_grad():
        trained.data.numpy()[:] += 1
    second = store.save({"frozen": frozen, "trained": trained}, run="a", step=2)
    assert trained.nbytes <= second.added_bytes < trained.nbytes + 40_000
    frozen.numpy()[123_456] += 1
    third = store.save({"frozen": frozen, "trained": trained}, run="a", step=3)
    assert third.added_bytes < 1_100_000, "one chunk of the frozen tensor"
    assert torch.equal(store.load("a@3")["frozen"], frozen)


def test_saving_and_putting_the_same_file_share_everything(store: ckpt.Store, tmp_path: Path) -> None:
    state = {f"layer{n}": torch.randn(n * 1000) for n in range(1, 60)}
    torch.save(state, tmp_path / "x.ckpt")
    store.put(tmp_path / "x.ckpt", run="files", step=1)
    assert store.save(state, run="memory", step=1).added_bytes < 20_000, "names and headers"


def test_what_torch_refuses_is_refused(store: ckpt.Store) -> None:
    numbers = torch.arange(4.0)
    two_types = [numbers.untyped_storage(), numbers]
    for bad in ({"f": lambda: 1}, two_types):
        for save in (
            lambda: torch.save(bad, io.BytesIO()),
            lambda: store.save(bad, run="a"),
            lambda: store.save_async(bad, run="a"),
        ):
            with pytest.raises((AttributeError, RuntimeError, TypeError, ValueError)):
                save()
    assert store.runs() == []


def test_an_asynchronous_save_is_of_the_moment(store: ckpt.Store) -> None:
    state = {"w": torch.randn(600_000), "n": [1, 2], "t": torch.randn(300, 200).t(), "e": torch.empty(0)}
    before = copy.deepcopy(state)
    handle = store.save_async(state, run="a", step=1, metrics={"loss": torch.tensor(0.5)})
    state["w"].zero_()
    state["n"].append(3)
    saved = handle.result()
    assert handle.done()
    assert saved == store.checkpoint("a@1")
    assert saved.metrics == {"loss": 0.5}
    loaded = store.load("a@1")
    assert loaded["n"] == [1, 2]
    assert all(torch.equal(loaded[key], before[key]) for key in "wte")
    # The next one uses the same memory.
    second = store.save_async(state, run="a", step=2)
    assert torch.equal(store.load(second.result().ref)["w"], torch.zeros(600_000))
    store.wait()


def test_an_error_of_an_asynchronous_save_never_vanishes(store: ckpt.Store, caplog: pytest.LogCaptureFixture) -> None:
    state = {"w": torch.ones(10)}
    store.save(state, run="a", step=1)
    with pytest.raises(ckpt.Exists):
        store.save_async(state, run="a", step=1).result()
    store.save_async(state, run="a", step=2).result()
    assert "a@1" in caplog.text, "it is logged as soon as it happens"
    # Nobody asks this one: the next save says so.
    store.save_async(state, run="a", step=1)
    with pytest.raises(ckpt.Exists):
        store.save_async(state, run="a", step=3)
    store.save_async(state, run="a", step=3)
    store.save_async(state, run="a", step=1)
    with pytest.raises(ckpt.Exists):
        store.wait()
    store.wait()
    assert [one.step for one in store.checkpoints("a")] == [1, 2, 3]


def test_a_label_takes_what_trainings_have(store: ckpt.Store) -> None:
    import numpy as np

    saved = store.save(
        {},
        run="a/b",
        step=np.int64(5),
        metrics={"x": torch.tensor(1.5), "y": np.float32(2)},
        meta={"lr": 1},
        tags=["t"],
    )
    assert (saved.run, saved.step, saved.metrics, saved.tags) == ("a/b", 5, {"x": 1.5, "y": 2.0}, {"t"})
    assert store.checkpoint("a/b@t").id == saved.id
    with pytest.raises(ckpt.Invalid, match="tags"):
        store.save({}, run="a/b", step=6, tags="t")
    for bad in ("", "a@b", "/a", "a//b"):
        with pytest.raises(ckpt.Invalid):
            store.save({}, run=bad)
    with pytest.raises(ckpt.Invalid):
        store.save({}, run="a", file="../x.pt")
