"""The Lightning hook, in real trainings: what ModelCheckpoint leaves, resuming, being killed, two ranks, a full
disk."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import types
from abc import ABC
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
torch = pytest.importorskip("torch")
fsspec = pytest.importorskip("fsspec")

import ckpt_store
from ckpt_store import NoSpace, NotFound, Store
from ckpt_store.lightning import AsyncStoreCheckpointIO, StoreCheckpointIO, load_from_checkpoint, open_checkpoint
from ckpt_store.lightning import facts as lightning_facts, stub_files
from ckpt_store.lightning.stub import BYTES_MAX, Stub
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_training import Model, trainer_of, uninterrupted


@pytest.fixture(scope="module")
def curve() -> list[float]:
    return uninterrupted()


def same(a: Any, b: Any, of_a: str, of_b: str) -> bool:
    """Whether two checkpoints are equal but for the directories that their ModelCheckpoints remember."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        moved = {key.replace(of_a, of_b) if isinstance(key, str) else key: value for key, value in a.items()}
        return moved.keys() == b.keys() and all(same(value, b[key], of_a, of_b) for key, value in moved.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, of_a, of_b) for x, y in zip(a, b, strict=True))
    return bool((a.replace(of_a, of_b) if isinstance(a, str) else a) == b)


def tree(directory: Path) -> dict[str, str | None]:
    """The names in a directory, and where links lead."""
    return {path.name: os.readlink(path) if path.is_symlink() else None for path in sorted(directory.iterdir())}


def saver(dirpath: Path, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=str(dirpath), **arguments)


def fit(root: Path, keeper: Any, savers: list[Any], resume: Any = None, **arguments: Any) -> tuple[Trainer, Model]:
    model = Model()
    trainer = trainer_of(root, plugins=[keeper] if keeper else None, callbacks=savers, **arguments)
    trainer.fit(model, ckpt_path=resume)
    return trainer, model


SAVERS: dict[str, list[dict[str, Any]]] = {
    "top-k and last": [{"monitor": "val_loss", "save_top_k": 2, "save_last": True}],
    "top-k and link": [{"monitor": "val_loss", "save_top_k": 2, "save_last": "link"}],
    "top-1": [{"save_last": True, "every_n_epochs": 1}],
    "every step's weights": [{"train_time_interval": timedelta(0), "save_weights_only": True, "save_top_k": -1}],
    "two": [
        {"monitor": "val_loss", "save_top_k": 1, "filename": "best"},
        {"every_n_train_steps": 3, "save_top_k": -1, "filename": "{step}", "monitor": "train_loss"},
    ],
    "one name": [{"filename": "same", "every_n_train_steps": 2, "save_top_k": 2, "monitor": "train_loss"}],
    "no versions": [{"filename": "same", "every_n_train_steps": 2, "save_top_k": -1, "enable_version_counter": False}],
}


@pytest.mark.parametrize("kind", [StoreCheckpointIO, AsyncStoreCheckpointIO])
@pytest.mark.parametrize("name", SAVERS)
def test_the_same_files_as_without_a_store(tmp_path: Path, name: str, kind: Any) -> None:
    if name == "one name" and kind is AsyncStoreCheckpointIO:
        pytest.skip("ModelCheckpoint makes versions of a name by looking for the file, which is not yet there")
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain_savers = [saver(plain, **arguments) for arguments in SAVERS[name]]
    our_savers = [saver(ours, **arguments) for arguments in SAVERS[name]]
    fit(tmp_path, None, plain_savers)
    keeper = kind(tmp_path / "store", run="a")
    fit(tmp_path, keeper, our_savers)

    assert tree(ours) == tree(plain)
    assert len(tree(ours)) >= (2 if name != "no versions" else 1)
    for path in plain.iterdir():
        loaded = keeper.load_checkpoint(ours / path.name)
        assert same(torch.load(path), loaded, str(plain), str(ours)), path.name
        assert (ours / path.name).stat().st_size < 8192
    for a, b in zip(plain_savers, our_savers, strict=True):
        assert same(a.state_dict(), b.state_dict(), str(plain), str(ours))
    # What ModelCheckpoint has removed or written over is not in the store either, and nothing is there twice.
    stubs = [stub_files.read(ours / name) for name, link in tree(ours).items() if link is None]
    assert sorted(stub.id for stub in stubs if stub) == sorted(held.id for held in keeper.store.checkpoints())


def test_what_the_store_tells_of_a_training(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    savers = [saver(tmp_path / "x", monitor="val_loss", save_top_k=-1, save_last=True)]
    trainer, _ = fit(tmp_path, StoreCheckpointIO(store, run="se/one"), savers)
    held = store.checkpoints("se/one")
    assert [checkpoint.step for checkpoint in held] == [4, 8, 12]
    scores = {Path(path).name: score.item() for path, score in savers[0].best_k_models.items()}
    for checkpoint, (name, score) in zip(held, scores.items(), strict=True):
        assert checkpoint.metrics["val_loss"] == pytest.approx(score)
        assert set(checkpoint.metrics) == {"val_loss", "train_loss"}
        assert stub_files.read(tmp_path / "x" / name).id == checkpoint.id  # type: ignore[union-attr]
    # The frozen 64 KiB are there once, with "last" and all.
    last = store.checkpoints("se/one/last")
    assert [checkpoint.step for checkpoint in last] == [12]
    assert last[0].metrics == held[-1].metrics
    assert all(checkpoint.added_bytes < 40_000 < 65_536 < checkpoint.logical_bytes for checkpoint in [*held[1:], *last])
    best = store.best("se/one", "val_loss")
    assert best and stub_files.read(savers[0].best_model_path).id == best.id  # type: ignore[union-attr]
    # Where the Trainer is out of reach, as in another thread, what ModelCheckpoint wrote down remains.
    dumped = trainer._checkpoint_connector.dump_checkpoint()
    path = savers[0].best_model_path
    assert lightning_facts.metrics_of(dumped, path, None) == {"val_loss": pytest.approx(scores[Path(path).name])}
    assert lightning_facts.metrics_of(dumped, tmp_path / "elsewhere.ckpt", None) == {}


def test_resuming_from_anything(tmp_path: Path, curve: list[float]) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a")
    savers = [saver(tmp_path / "x", every_n_train_steps=2, save_top_k=-1, save_last="link")]
    _, model = fit(tmp_path, keeper, savers, max_steps=6)
    assert model.losses == curve[:6]
    plain = tmp_path / "plain.ckpt"
    with open_checkpoint(tmp_path / "x" / "last.ckpt") as file:
        plain.write_bytes(file.read())
    stub = savers[0].best_model_path
    store.tag("a@6", "good")
    refs = ["a@latest", "a", "a@6", "a@good", "a@best:train_loss", store.checkpoint("a").id]
    for resume in (stub, Path(stub), f"{tmp_path}/x/last.ckpt", *refs, plain):
        trainer, model = fit(tmp_path, keeper, [], resume, max_steps=8)
        assert model.losses == curve[6:8], resume
    with pytest.raises(FileNotFoundError, match="a@7.*no such checkpoint"):
        fit(tmp_path, keeper, [], "a@7")
    # To the end, and then what Lightning itself finds: best and last.
    trainer, model = fit(tmp_path, keeper, savers, "a@latest")
    assert model.losses == curve[6:]
    assert [held.step for held in store.checkpoints("a")] == [2, 4, 6, 8, 10, 12]
    for which in ("best", "last"):
        (results,) = trainer.validate(model, ckpt_path=which, verbose=False)
        assert "val_loss" in results


def state(step: int = 1, value: float = 0.0, **more: Any) -> dict[str, Any]:
    weights = {"w": torch.full((9000,), value)}
    return {"global_step": step, "epoch": 0, "pytorch-lightning_version": "2.6.6", "state_dict": weights, **more}


def test_removing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a", gc_every=None)
    paths = [tmp_path / f"{step}.ckpt" for step in range(6)]
    for step, path in enumerate(paths):
        keeper.save_checkpoint(state(step), path)
    store.pin("a@0")
    store.tag("a@1", "paper")
    shutil.copy(paths[2], tmp_path / "copy.ckpt")
    (tmp_path / "links").mkdir()
    for link, target in ((tmp_path / "link.ckpt", "4.ckpt"), (tmp_path / "links" / "last.ckpt", "../4.ckpt")):
        link.symlink_to(target)
        keeper.remove_checkpoint(link)
        assert not link.is_symlink() and paths[4].exists()
    for path in paths[:4]:
        keeper.remove_checkpoint(path)
        assert not path.exists()
    # Pinned, tagged, and named by a copy of its stub: those stay.
    assert [held.step for held in store.checkpoints("a")] == [0, 1, 2, 4, 5]
    keeper.remove_checkpoint(tmp_path / "copy.ckpt")
    assert [held.step for held in store.checkpoints("a")] == [0, 1, 4, 5]
    keeper.remove_checkpoint(tmp_path / "never.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(b"anything")
    (tmp_path / "sharded.ckpt").mkdir()
    (tmp_path / "sharded.ckpt" / "0").write_bytes(b"x")
    for name in ("plain.ckpt", "sharded.ckpt"):
        keeper.remove_checkpoint(tmp_path / name)
        assert not (tmp_path / name).exists()
    # Dropped behind our back, and told so.
    store.rm("a@4")
    with pytest.raises(NotFound, match=r"4\.ckpt is a stub of a@4 .*dropped"):
        keeper.load_checkpoint(paths[4])
    keeper.remove_checkpoint(paths[4])
    StoreCheckpointIO(store, run="a", drop_removed=False).remove_checkpoint(paths[5])
    assert not paths[5].exists() and store.checkpoint("a@5").step == 5


def test_room_is_freed_as_it_goes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a", gc_every=3)
    for step in range(8):
        keeper.save_checkpoint(state(step, step), tmp_path / "one.ckpt")
    packs = [path for path in (tmp_path / "store" / "packs").rglob("*") if path.is_file()]
    assert 1 <= len(packs) <= 3
    keeper.teardown()
    assert [held.step for held in store.checkpoints()] == [7]
    assert len([path for path in (tmp_path / "store" / "packs").rglob("*") if path.is_file()]) == 1


def test_a_step_saved_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a")
    for name, value in (("best-1.ckpt", 0.0), ("last.ckpt", 0.0), ("ema-1.ckpt", 5.0), ("last-v1.ckpt", 6.0)):
        keeper.save_checkpoint(state(1, value, name=name), tmp_path / name)
    assert {held.run for held in store.checkpoints()} == {"a", "a/last", "a/2", "a/3"}
    for name, value in (("best-1.ckpt", 0.0), ("last.ckpt", 0.0), ("ema-1.ckpt", 5.0), ("last-v1.ckpt", 6.0)):
        loaded = keeper.load_checkpoint(tmp_path / name)
        assert loaded["name"] == name and loaded["state_dict"]["w"][0] == value
    assert store.checkpoint("a/last@1").added_bytes < 4096
    assert not caplog.records
    # The same path again takes its place, unless it is pinned.
    before = store.checkpoint("a@1")
    keeper.save_checkpoint(state(1, 7.0), tmp_path / "best-1.ckpt")
    after = store.checkpoint("a@1")
    assert after.id != before.id and keeper.load_checkpoint("a@1")["state_dict"]["w"][0] == 7.0
    store.pin("a@1")
    keeper.save_checkpoint(state(1, 8.0), tmp_path / "best-1.ckpt")
    assert store.checkpoint("a@1").id == after.id
    assert keeper.load_checkpoint(tmp_path / "best-1.ckpt")["state_dict"]["w"][0] == 8.0
    # Another training under the same name takes nothing away, and hears of it once.
    other = StoreCheckpointIO(store, run="a")
    other.save_checkpoint(state(1, 9.0), tmp_path / "other-1.ckpt")
    assert "run a has step 1 already" in caplog.text
    assert len(store.checkpoints()) == 6


class Full(Store):
    """A store on a disk that is full while ``full`` is true."""

    full = True

    def save(self, *arguments: Any, **named: Any) -> Any:
        if self.full:
            raise NoSpace("no room left for it: it needs about 5.22 MB, 1 MB is free")
        return super().save(*arguments, **named)


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture, curve: list[float]) -> None:
    store = Full(tmp_path / "store")
    with pytest.raises(NoSpace, match="needs about"):
        fit(tmp_path, StoreCheckpointIO(store, run="a"), [saver(tmp_path / "x")])
    assert not store.checkpoints() and not list(tmp_path.glob("x/*"))

    # Full while the second of three is saved: top-1 would have removed the first before there is another.
    class Filling(Model):
        def on_train_epoch_start(self) -> None:
            store.full = self.current_epoch in at

    at = {1}
    model, savers = Filling(), [saver(tmp_path / "y", save_top_k=1, save_last=True)]
    plugins = [StoreCheckpointIO(store, run="b", on_no_space="warn")]
    trainer = trainer_of(tmp_path, plugins=plugins, callbacks=savers, max_epochs=2, max_steps=-1)
    trainer.fit(model)
    assert model.losses == curve[:8]
    assert "y/epoch=1-step=8.ckpt was not saved, and the training goes on" in caplog.text
    assert "y/epoch=0-step=4.ckpt stays" in caplog.text
    assert [held.step for held in store.checkpoints("b")] == [4]
    assert sorted(tree(tmp_path / "y")) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    model = Filling()
    trainer = trainer_of(tmp_path, plugins=plugins, max_epochs=2, max_steps=-1)
    trainer.fit(model, ckpt_path=str(tmp_path / "y" / "last.ckpt"))
    assert model.losses == curve[4:8]


def test_a_disk_too_full_for_the_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = Store(tmp_path / "store"), os.fsync

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    keeper = StoreCheckpointIO(store, run="a")
    keeper.save_checkpoint(state(1), tmp_path / "x.ckpt")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match=r"stub .*x\.ckpt"):
        keeper.save_checkpoint(state(2), tmp_path / "x.ckpt")
    StoreCheckpointIO(store, run="a", on_no_space="warn").save_checkpoint(state(3), tmp_path / "x.ckpt")
    monkeypatch.setattr(os, "fsync", real)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "x.ckpt"]
    assert keeper.load_checkpoint(tmp_path / "x.ckpt")["global_step"] == 1


class Interrupted(Store):
    """Ctrl-C while step 8 is saved."""

    def save(self, obj: Any, **named: Any) -> Any:
        if obj["global_step"] == 8:
            raise KeyboardInterrupt
        return super().save(obj, **named)


def test_ctrl_c_while_saving(tmp_path: Path, curve: list[float]) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            fit(tmp_path, StoreCheckpointIO(Interrupted(tmp_path / "store"), run="a"), [saver(tmp_path / "x")])
    finally:
        signal.signal(signal.SIGINT, before)
    # What was there stays, stub and all, though top-1 had another in mind.
    assert list(tree(tmp_path / "x")) == ["epoch=0-step=4.ckpt"]
    keeper = StoreCheckpointIO(tmp_path / "store", run="a")
    assert [held.step for held in keeper.store.checkpoints("a")] == [4]
    _, model = fit(tmp_path, keeper, [], "a@latest")
    assert model.losses == curve[4:]


class Failing(Store):
    """Its asynchronous saves fail when they come to be written."""

    def save_async(self, obj: Any, **named: Any) -> Any:
        if obj["global_step"] == 2:
            failed = types.SimpleNamespace()

            def result(timeout: float | None = None) -> None:
                raise NoSpace("no room left for a@2")

            failed.result = result
            return failed
        return super().save_async(obj, **named)


def test_asynchronous(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Failing(tmp_path / "store")
    keeper = AsyncStoreCheckpointIO(store, run="a")
    first = state(1, 1.0)
    keeper.save_checkpoint(first, tmp_path / "1.ckpt")
    first["state_dict"]["w"].zero_()  # the training goes on
    assert keeper.load_checkpoint(tmp_path / "1.ckpt")["state_dict"]["w"][0] == 1.0
    keeper.save_checkpoint(state(2), tmp_path / "2.ckpt")
    keeper.remove_checkpoint(tmp_path / "1.ckpt")
    with pytest.raises(NoSpace, match="a@2"):
        while True:
            keeper.save_checkpoint(state(3), tmp_path / "3.ckpt")
    # What was to be removed for its sake is still there.
    assert (tmp_path / "1.ckpt").exists() and not (tmp_path / "2.ckpt").exists()
    keeper.save_checkpoint(state(4), tmp_path / "4.ckpt")
    keeper.teardown()
    assert {1, 4} <= {held.step for held in store.checkpoints("a")}
    keeper.save_checkpoint(state(2, 2.0), tmp_path / "2.ckpt")
    with pytest.raises(NoSpace, match="a@2"):
        keeper.teardown()
    keeper.teardown()
    tolerant = AsyncStoreCheckpointIO(store, run="a", on_no_space="warn")
    tolerant.save_checkpoint(state(2, 2.0), tmp_path / "2.ckpt")
    tolerant.teardown()
    assert "2.ckpt was not saved" in caplog.text
    # One step under two names while neither is written.
    for name in ("best-9.ckpt", "last.ckpt", "last.ckpt"):
        tolerant.save_checkpoint(state(9, name=name), tmp_path / name)
    tolerant.teardown()
    for name in ("best-9.ckpt", "last.ckpt"):
        assert tolerant.load_checkpoint(tmp_path / name)["name"] == name
    assert sum(held.step == 9 for held in store.checkpoints()) == 2


class Slow(Store):
    """Its asynchronous saves end when ``go`` is set."""

    go = threading.Event()

    def save_async(self, obj: Any, **named: Any) -> Any:
        handle = super().save_async(obj, **named)
        return types.SimpleNamespace(result=lambda: self.go.wait(60) and handle.result())


def test_nothing_goes_before_what_replaces_it_is_safe(tmp_path: Path) -> None:
    store = Slow(tmp_path / "store")
    keeper = AsyncStoreCheckpointIO(store, run="a", gc_every=None)
    store.go.set()
    keeper.save_checkpoint(state(1), tmp_path / "1.ckpt")
    keeper.teardown()
    store.go.clear()
    keeper.save_checkpoint(state(2), tmp_path / "2.ckpt")
    keeper.remove_checkpoint(tmp_path / "1.ckpt")
    assert stub_files.read(tmp_path / "1.ckpt") and store.checkpoint("a@1")
    # One copy of a state is enough: the next save waits.
    third = threading.Thread(target=keeper.save_checkpoint, args=(state(3), tmp_path / "3.ckpt"))
    third.start()
    third.join(0.3)
    assert third.is_alive()
    with pytest.raises(ckpt_store.Busy):
        pickle.dumps(keeper)
    store.go.set()
    third.join(60)
    keeper.teardown()
    assert [held.step for held in store.checkpoints("a")] == [2, 3]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["2.ckpt", "3.ckpt"]


def test_lightnings_own_wrapper(tmp_path: Path, curve: list[float]) -> None:
    store = Store(tmp_path / "store")
    keeper = AsyncCheckpointIO(StoreCheckpointIO(store, run="a"))
    savers = [saver(tmp_path / "x", monitor="val_loss", save_top_k=-1)]
    fit(tmp_path, keeper, savers, max_steps=8)
    assert [held.step for held in store.checkpoints("a")] == [4, 8]
    assert all(set(held.metrics) == {"val_loss"} for held in store.checkpoints("a"))
    _, model = fit(tmp_path, keeper, [], "a@4")
    assert model.losses == curve[4:]


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


def test_fabric(tmp_path: Path) -> None:
    keeper = StoreCheckpointIO(tmp_path / "store", run="a")
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[keeper])
    model = torch.nn.Linear(3, 2)
    fabric.save(tmp_path / "x" / "5.ckpt", {"model": model, "step": 5})
    assert keeper.store.checkpoint("a@5").step == 5
    other = {"model": torch.nn.Linear(3, 2), "step": 0}
    for source in (tmp_path / "x" / "5.ckpt", "a@5"):
        fabric.load(source, other)
        assert other["step"] == 5 and same(dict(model.state_dict()), dict(other["model"].state_dict()), "", "")


def test_runs_of_those_who_name_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, run in (
        ("lightning_logs/version_3/checkpoints/epoch=0.ckpt", "lightning_logs/version_3"),
        (tmp_path / "out" / "deep" / "er" / "x.ckpt", "out/deep/er"),
        ("/data/me/exp@7/checkpoints/x.ckpt", "me/exp_7"),
        ("s3://bucket/project/one/checkpoints/x.ckpt", "project/one"),
        ("x.ckpt", "lightning"),
    ):
        assert lightning_facts.run_of(place) == run
    keeper = StoreCheckpointIO("store", run=lambda path, saved: f"a/{Path(path).stem}/{saved['epoch']}")
    keeper.save_checkpoint(state(1), "y.ckpt")
    assert keeper.store.runs() == ["a/y/0"]


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


def test_for_both_packages_and_spawned_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class CheckpointIO(ABC):
        """As the other package would have it."""

    other = types.ModuleType("lightning_fabric.plugins.io.checkpoint_io")
    other.CheckpointIO = CheckpointIO  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, other.__name__, other)
    for kind in (StoreCheckpointIO, AsyncStoreCheckpointIO):
        keeper = kind(tmp_path / "store", run="a")
        assert isinstance(keeper, CheckpointIO)
        keeper.save_checkpoint(state(5), tmp_path / "5.ckpt")
        keeper.teardown()
        again = pickle.loads(pickle.dumps(keeper))
        assert again._opened is None
        assert again.load_checkpoint(tmp_path / "5.ckpt")["global_step"] == 5
    with pytest.raises(ckpt_store.Invalid, match="on_no_space"):
        StoreCheckpointIO(tmp_path / "store", on_no_space="ignore")  # type: ignore[arg-type]
    # A wrong path is told when the Trainer is made, not when it saves.
    (tmp_path / "file").write_text("x")
    with pytest.raises(ckpt_store.CkptError):
        StoreCheckpointIO(tmp_path / "file")


def test_one_rank_of_several_computes_no_metric() -> None:
    class Several:
        world_size = 2
        _logger_connector = types.SimpleNamespace(_callback_metrics={"loss": torch.tensor(0.5)})

        @property
        def callback_metrics(self) -> dict[str, Any]:
            raise AssertionError("would wait for the other ranks")

    assert lightning_facts.metrics_of({}, "x.ckpt", Several()) == {"loss": 0.5}
    alone = types.SimpleNamespace(world_size=1, callback_metrics={"loss": 0.25, "name": "x", " bad": 1.0})
    assert lightning_facts.metrics_of({}, "x.ckpt", alone) == {"loss": 0.25}


def test_numbers_are_what_was_logged() -> None:
    # A float32 has no more digits than it needs, and is the same number when it is one again.
    for text in ("0.1", "2.670884", "1.0000001", "1e-07", "16777216.0", "0.0", "-3.25", "inf"):
        value = torch.tensor(float(text))
        assert repr(lightning_facts.number(value)) == text
    assert lightning_facts.number(torch.tensor(0.1, dtype=torch.float64)) == 0.1
    assert lightning_facts.number(torch.tensor([1 / 3], dtype=torch.bfloat16)) == 0.33398438
    assert lightning_facts.number(torch.tensor(7)) == 7.0
    assert lightning_facts.number(2.670883893966675) == 2.670883893966675
    assert str(lightning_facts.number(torch.tensor(float("nan")))) == "nan"
    for other in (True, "1", None, torch.zeros(2), torch.tensor(1j)):
        assert lightning_facts.number(other) is None


def test_unpickling_what_asks_for_more(tmp_path: Path) -> None:
    keeper = StoreCheckpointIO(tmp_path / "store", run="a")
    keeper.save_checkpoint(state(1, hyper=timedelta(3)), tmp_path / "x.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="timedelta"):
        keeper.load_checkpoint(tmp_path / "x.ckpt")
    assert keeper.load_checkpoint(tmp_path / "x.ckpt", weights_only=False)["hyper"] == timedelta(3)
