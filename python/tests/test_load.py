"""Reading from a store: load, load_tensors, open, get, and what they say when there is nothing to read."""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckpt_store as ckpt
from ckpt_store.file import StoreFile


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    tensors = {f"encoder.layer{n}.weight": torch.randn(40 * n, 300) for n in range(1, 20)}
    tensors |= {f"encoder.layer{n}.bias": torch.randn(300) for n in range(1, 20)}
    tensors |= {"head.weight": torch.randn(1500, 400).half(), "head.scale": torch.tensor(2.5)}
    tensors["tied"] = tensors["head.weight"]
    tensors["turned"] = tensors["encoder.layer3.weight"].t()
    return tensors


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def test_load_gives_what_was_saved(store: ckpt.Store) -> None:
    saved = state()
    store.save(saved, run="a", step=1)
    loaded = store.load("a@1")
    assert same(loaded, saved)
    assert loaded["tied"].data_ptr() == loaded["head.weight"].data_ptr(), "tied weights stay tied"
    loaded["tied"].zero_()
    assert same(store.load("a"), saved), "what is loaded belongs to whoever loads it"
    assert all(tensor.is_meta for tensor in store.load("a", map_location="meta").values())


def test_load_runs_no_code_unless_told_to(store: ckpt.Store) -> None:
    store.save(torch.nn.Linear(3, 4), run="a")
    with pytest.raises(Exception, match="weights_only"):
        store.load("a")
    assert store.load("a", weights_only=False).out_features == 4


def test_tensors_come_by_name(store: ckpt.Store) -> None:
    saved = state()
    store.save({"state_dict": saved, "epoch": 3}, run="a", step=1)
    loaded = store.load_tensors("a@1")
    assert same(loaded, {f"state_dict.{name}": tensor for name, tensor in saved.items()})
    some = store.load_tensors("a@1", "state_dict.encoder.*.bias", "state_dict.turned")
    assert len(some) == 20
    assert torch.equal(some["state_dict.turned"], saved["turned"])
    assert not some["state_dict.turned"].is_contiguous()
    with pytest.raises(ckpt.NotFound, match="state_dict"):
        store.load_tensors("a@1", "decoder.*")


def test_tensors_of_any_format(store: ckpt.Store, tmp_path: Path) -> None:
    saved = {name: tensor.contiguous() for name, tensor in state().items() if name != "tied"}
    save_file(saved, tmp_path / "model.safetensors")
    np.savez(tmp_path / "x.npz", **{name: tensor.numpy() for name, tensor in saved.items()})
    store.put(tmp_path / "model.safetensors", run="s")
    store.put(tmp_path / "x.npz", run="n")
    assert same(store.load("s"), saved)
    assert same(store.load_tensors("s"), saved)
    assert same(store.load_tensors("n"), saved)
    types = (torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool)
    kinds = {str(kind): torch.ones(64).to(kind) for kind in types}
    store.save(kinds, run="k")
    assert same(store.load_tensors("k"), kinds)
    assert store.load_tensors("k", "torch.bool")["torch.bool"].dtype == torch.bool


def test_a_file_is_a_file(store: ckpt.Store, tmp_path: Path) -> None:
    store.save(state(), run="a")
    path = store.get("a", tmp_path / "a.pt")
    data = path.read_bytes()
    with store.open("a") as file:
        assert (file.seek(0, io.SEEK_END), file.tell(), file.read(10)) == (len(data), len(data), b"")
        for at in (0, 5, 1_000_000, len(data) - 3):
            file.seek(at)
            assert file.read(100_000) == data[at : at + 100_000]
        file.seek(-10, io.SEEK_END)
        assert file.read() == data[-10:]
        file.seek(0)
        assert file.read() == data
        assert zipfile.ZipFile(file).testzip() is None
        with pytest.raises(OSError, match="can't go"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_many_threads_read_one_file(store: ckpt.Store, tmp_path: Path) -> None:
    store.save(state(), run="a")
    data = store.get("a", tmp_path / "a.pt").read_bytes()
    file = store.open("a")
    wrong: list[int] = []

    def read(seed: int) -> None:
        numbers = np.random.default_rng(seed)
        for _ in range(60):
            at, count = int(numbers.integers(len(data))), int(numbers.integers(1, 300_000))
            buffer = bytearray(count)
            got = file.pread_into(buffer, at)
            if buffer[:got] != data[at : at + count]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_dropped_checkpoint_stays_while_it_is_open(store: ckpt.Store) -> None:
    store.save({"w": torch.randn(2_000_000)}, run="a", step=1)
    store.save({"w": torch.zeros(3)}, run="a", step=2)
    file = store.open("a@1")
    store.rm("a@1")
    store.gc()
    assert torch.load(file)["w"].shape == (2_000_000,)
    file.close()
    del file
    assert store.gc().freed_bytes > 1_000_000


def test_which_file_is_meant(store: ckpt.Store, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    torch.save({"a": torch.ones(3)}, folder / "optimizer.pt")
    torch.save({"b": torch.ones(3)}, folder / "model.bin")
    (folder / "config.json").write_text("{}")
    store.put(folder, run="a", step=5)
    assert [file.path for file in store.files("a")] == ["config.json", "model.bin", "optimizer.pt"]
    assert set(store.load("a", file="model.bin")) == {"b"}
    assert store.open("a", "config.json").read() == b"{}"
    with pytest.raises(ckpt.Invalid, match=r"optimizer\.pt"):
        store.load("a")
    with pytest.raises(ckpt.NotFound, match=r"model\.bin"):
        store.load("a", file="model.pt")


def test_what_is_not_there(store: ckpt.Store, tmp_path: Path) -> None:
    store.save({}, run="train", step=100)
    for call in (
        lambda: store.load("train@1000"),
        lambda: store.load("trian"),
        lambda: store.get("train@tag", tmp_path / "x"),
        lambda: store.rm("train@7"),
        lambda: ckpt.Store(tmp_path / "none", create=False),
    ):
        with pytest.raises(ckpt.NotFound):
            call()
    assert isinstance(pytest.raises(ckpt.NotFound, store.load, "trian").value, LookupError)
    assert "train" in str(pytest.raises(ckpt.NotFound, store.load, "trian").value), "a slip is understood"
    assert store.latest("trian") is None
    assert store.best("train", "loss") is None


def test_small_reads_bring_a_block_along(
    store: ckpt.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 4096
    (tmp_path / "f.bin").write_bytes(data)
    store.put(tmp_path / "f.bin", run="a", step=1)
    turns = []
    pread_into = StoreFile.pread_into
    monkeypatch.setattr(StoreFile, "pread_into", lambda *given: turns.append(given[2]) or pread_into(*given))
    with store.open("a@1") as file:
        assert b"".join(iter(lambda: file.read(100), b"")) == data
        assert len(turns) < 20, "as many as there are blocks, and not one for each read"
        random = torch.Generator().manual_seed(0)
        for _ in range(300):
            at, count = torch.randint(0, len(data) + 50, (2,), generator=random).tolist()
            count %= 5000
            file.seek(at)
            assert file.peek(10)[:10] == data[at : at + 10]
            assert file.read(count) == data[at : at + count] and file.tell() == min(at + count, max(at, len(data)))
        file.seek(0)
        turns.clear()
        assert file.readline() == data[: data.index(10) + 1] and len(turns) == 1


def test_old_and_short_files_are_told_apart(store: ckpt.Store, tmp_path: Path) -> None:
    torch.save({"w": torch.arange(5.0)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    store.put(tmp_path / "old.pt", run="old")
    assert torch.equal(store.load("old")["w"], torch.arange(5.0))
    (tmp_path / "x").write_bytes(b"x")
    store.put(tmp_path / "x", run="short")
    with store.open("short") as file:
        assert not zipfile.is_zipfile(file)
    with pytest.raises((pickle.UnpicklingError, EOFError, RuntimeError)):
        store.load("short")


def test_a_file_of_safetensors_is_loaded_whatever_it_is_called(store: ckpt.Store, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("model[1].safetensors", "other.safetensors"):
        save_file({"w": torch.full((3,), float(len(name)))}, folder / name)
    store.put(folder, run="two", step=1)
    for name in ("model[1].safetensors", "other.safetensors"):
        assert store.load("two", file=name)["w"].tolist() == [len(name)] * 3
    (folder / "other.safetensors").unlink()
    store.put(folder, run="one", step=1)
    assert store.load("one", map_location={"cuda:0": "cpu"})["w"].device.type == "cpu"
    assert store.load("one", map_location=torch.device("meta"))["w"].is_meta
    with pytest.raises(ckpt.Invalid, match="map_location"):
        store.load("one", map_location=lambda storage, _: storage)


def test_where_new_tensors_go_by_default_does_not_matter(store: ckpt.Store) -> None:
    saved = state()
    store.save(saved, run="a", step=1)
    with torch.device("meta"):
        assert same(store.load_tensors("a@1"), {name: tensor for name, tensor in saved.items()})
        assert same(store.load("a@1"), saved)
        store.save_async(saved, run="a", step=2).result()
    assert same(store.load("a@2"), saved)
