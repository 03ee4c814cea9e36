"""The Lightning hook when something goes wrong: a full disk, Ctrl-C, and saves in the background that fail or wait."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
torch = pytest.importorskip("torch")
pytest.importorskip("fsspec")

import ckpt_store
from ckpt_store import NoSpace, Store
from ckpt_store.lightning import AsyncStoreCheckpointIO, StoreCheckpointIO
from ckpt_store.lightning import stub_files

from lightning_training import Model, fit, saver, state, trainer_of, tree


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
    assert "y/epoch=1-step=8.ckpt is not stored, and the training goes on" in caplog.text
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
    assert "2.ckpt is not stored" in caplog.text
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
