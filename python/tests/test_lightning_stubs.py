"""The stubs of the Lightning hook: what others make of them, moved, elsewhere, and damaged."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("lightning")
torch = pytest.importorskip("torch")
fsspec = pytest.importorskip("fsspec")

from ckpt_store import NotFound
from ckpt_store.lightning import StoreCheckpointIO, load_from_checkpoint, open_checkpoint
from ckpt_store.lightning import stub_files
from ckpt_store.lightning.stub import BYTES_MAX, Stub
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_training import Model, fit, same, state, trainer_of


def test_what_others_make_of_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = StoreCheckpointIO(tmp_path / "of many" / "store", run="a")
    trainer, model = fit(tmp_path, keeper, [], max_steps=4)
    path = tmp_path / "x" / "it's one.ckpt"
    trainer.save_checkpoint(path, storage_options={"tags": ["paper"], "metrics": {"f1": 0.5}})
    held = keeper.store.checkpoint("a@paper")
    assert held.metrics["f1"] == 0.5 and held.metrics["train_loss"] > 0 and held.step == 4
    with pytest.raises(TypeError, match="storage_options"):
        trainer.save_checkpoint(path, storage_options={"speed": 3})
    words = r"THIS FILE IS A STUB AND NOT DAMAGED\. Its checkpoint, a@4, is in the store .*of many/store\. To load it: "
    for arguments in ({}, {"weights_only": False}, {"weights_only": True, "map_location": "cpu"}, {"mmap": True}):
        with pytest.raises(RuntimeError, match=words):
            torch.load(path, **arguments)
    with pytest.raises(RuntimeError, match=words):
        Model.load_from_checkpoint(path)
    assert b"THIS FILE IS A STUB" in path.read_bytes()[:200]
    # The command in it does what it says.
    command = str(stub_files.read(path).words).partition("in the place of this stub: ")[2]  # type: ignore[union-attr]
    ckpt = os.environ.get("CKPT_BIN") or shutil.which("ckpt")

    for loaded in (load_from_checkpoint(Model, path), load_from_checkpoint(Model, "a@4", store=keeper.store)):
        assert isinstance(loaded, Model) and loaded.hparams["width"] == 256
        assert same(dict(loaded.state_dict()), dict(model.state_dict()), "", "")

    class Other(Model):
        def __init__(self, width: int = 256) -> None:
            super().__init__(width)
            self.more = torch.nn.Linear(1, 1)

    with pytest.raises(RuntimeError, match="Missing key.*more.weight"):
        load_from_checkpoint(Other, path, strict=True)
    assert load_from_checkpoint(Other, path, strict=False).more.weight.shape == (1, 1)
    with pytest.raises(RuntimeError, match="Missing key.*more.weight"):
        trainer_of(tmp_path, plugins=[keeper]).validate(Other(), ckpt_path="a@4", verbose=False)
    with pytest.raises(FileNotFoundError, match="in which store"):
        load_from_checkpoint(Model, "a@4")
    if ckpt:
        command = command.replace("ckpt", ckpt, 1)
        done = subprocess.run(command, shell=True, cwd=path.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert Model.load_from_checkpoint(path).hparams["width"] == 256
        assert load_from_checkpoint(Model, path).hparams["width"] == 256


def test_a_stub_that_was_moved(tmp_path: Path) -> None:
    project = tmp_path / "project"
    keeper = StoreCheckpointIO(project / "store", run="a")
    keeper.save_checkpoint(state(3), project / "x" / "3.ckpt")
    project.rename(tmp_path / "moved")
    with open_checkpoint(tmp_path / "moved" / "x" / "3.ckpt") as file:
        assert torch.load(file)["global_step"] == 3
    (tmp_path / "alone").mkdir()
    (tmp_path / "moved" / "x" / "3.ckpt").rename(tmp_path / "alone" / "3.ckpt")
    with pytest.raises(NotFound, match="has been moved"):
        open_checkpoint(tmp_path / "alone" / "3.ckpt")
    with open_checkpoint(tmp_path / "alone" / "3.ckpt", store=tmp_path / "moved" / "store") as file:
        assert torch.load(file)["global_step"] == 3


def test_stubs_elsewhere(tmp_path: Path) -> None:
    keeper = StoreCheckpointIO(tmp_path / "store")
    url = "memory://bucket/logs/version_1/checkpoints"
    savers = [ModelCheckpoint(dirpath=url, monitor="val_loss", mode="max", save_top_k=1, save_last=True)]
    fit(tmp_path, keeper, savers)
    # Step 4 was the best before step 8, and was removed.
    assert [held.ref for held in keeper.store.checkpoints()] == ["logs/version_1@8", "logs/version_1/last@8"]
    assert keeper.load_checkpoint(savers[0].best_model_path)["global_step"] == 8
    with open_checkpoint(f"{url}/last.ckpt") as file:
        assert torch.load(file)["global_step"] == 8
    fs = fsspec.filesystem("memory")
    fs.cp_file("/bucket/logs/version_1/checkpoints/last.ckpt", "/bucket/logs/version_1/checkpoints/copy.ckpt")
    keeper.remove_checkpoint(f"{url}/last.ckpt")
    assert not fs.exists(f"{url}/last.ckpt") and keeper.load_checkpoint(f"{url}/copy.ckpt")["global_step"] == 8
    with pytest.raises(FileNotFoundError):
        keeper.load_checkpoint(f"{url}/none.ckpt")


def test_stubs_are_read_with_care(tmp_path: Path) -> None:
    stub = Stub(store="/data/store", relative="../store", id="01k", run="a", step=3, file="x.ckpt")
    held = stub.to_bytes()
    assert Stub.from_bytes(held) == stub and stub.to_bytes() == held
    for at in range(len(held)):
        for other in (held[:at], held[:at] + bytes([held[at] ^ 0x41]) + held[at + 1 :]):
            assert Stub.from_bytes(other) in (stub, None) or at > 0
    assert Stub.from_bytes(held + b"x" * BYTES_MAX) is None
    assert Stub.from_bytes(b"PK\x03\x04" + bytes(200)) is None
    os.mkfifo(tmp_path / "fifo")
    assert stub_files.read(tmp_path / "fifo") is None
    assert stub_files.read(tmp_path) is None
    (tmp_path / "large").write_bytes(bytes(BYTES_MAX + 1))
    assert stub_files.read(tmp_path / "large") is None


def test_unpickling_what_asks_for_more(tmp_path: Path) -> None:
    keeper = StoreCheckpointIO(tmp_path / "store", run="a")
    keeper.save_checkpoint(state(1, hyper=timedelta(3)), tmp_path / "x.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="timedelta"):
        keeper.load_checkpoint(tmp_path / "x.ckpt")
    assert keeper.load_checkpoint(tmp_path / "x.ckpt", weights_only=False)["hyper"] == timedelta(3)
