"""StoreCheckpoint in real trainings: killed and resumed, ModelCheckpoint's arguments, retention, a full disk."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Or Keras would leave a file of settings in the home directory.
_home = tempfile.TemporaryDirectory()
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": _home.name}

import keras
import numpy as np
import pytest

import ckpt_store as ckpt
from ckpt_store.keras import StoreCheckpoint, load_model, load_weights

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras_fit.py"
X = np.linspace(0, 1, 40, dtype="float32").reshape(40, 1)
Y = 2 * X + 1


def example() -> Any:
    spec = importlib.util.spec_from_file_location("keras_fit", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(optimizer: Any = "sgd", **more: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse", **more)
    return model


def fit(model: keras.Model, *callbacks: Any, epochs: int = 1, **more: Any) -> keras.callbacks.History:
    """Four batches an epoch."""
    arguments = {"batch_size": 10, "epochs": epochs, "shuffle": False, "verbose": 0} | more
    return model.fit(X, Y, callbacks=list(callbacks), **arguments)


def steps(store: ckpt.Store, run: str = "a") -> list[int]:
    return sorted(held.step or 0 for held in store.checkpoints(run))


class Meddle(keras.callbacks.Callback):
    """Gives each epoch the next number as its ``val_loss``."""

    def __init__(self, name: str, *numbers: float) -> None:
        super().__init__()
        self.name, self.numbers = name, numbers

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.numbers[epoch] is not None:
            logs[self.name] = self.numbers[epoch]


class Kill(keras.callbacks.Callback):
    """Ends the process as a power cut would."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.optimizer.iterations) == 28:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def store(tmp_path: Path) -> ckpt.Store:
    (tmp_path / "disk").mkdir()
    return ckpt.Store(tmp_path / "disk" / "store")


def beside(store: ckpt.Store) -> list[str]:
    return [name for name in os.listdir(store.path.parent) if name != "store"]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    place = tmp_path / "disk" / "store"
    place.parent.mkdir()
    killed = subprocess.run([sys.executable, __file__, "kill", str(place)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = ckpt.Store(place, create=False)
    assert steps(store, "fit") == [5, 10, 15, 20, 25]
    # From the end of an epoch, as Keras has no way to go on in the middle of one and say its loss.
    store.rm("fit@25")
    train = example().train
    whole = train(str(tmp_path / "whole"), 5, False)
    resumed = train(str(place), 5, True)
    assert len(whole.epoch) == 5 and resumed.epoch == [2, 3, 4]
    for name in whole.history:
        assert resumed.history[name] == whole.history[name][2:], name
    assert steps(store, "fit") == list(range(5, 55, 5))
    assert store.verify()["damaged"] == []
    assert beside(store) == []


def test_what_did_not_change_costs_next_to_nothing(store: ckpt.Store) -> None:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(600, trainable=False), keras.layers.Dense(600, trainable=False), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((600,)), *layers])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    data = np.ones((40, 600), "float32"), np.ones((40, 1), "float32")
    model.fit(*data, batch_size=10, epochs=2, verbose=0, callbacks=[StoreCheckpoint(store, run="a", save_freq=1)])
    held = sorted(store.checkpoints("a"), key=lambda one: one.step or 0)
    assert [one.step for one in held] == list(range(1, 9))
    assert held[0].logical_bytes > 2_800_000
    assert all(one.added_bytes < 60_000 and one.written_bytes < 20_000 for one in held[1:]), held


def test_steps_and_metrics(store: ckpt.Store) -> None:
    hook = StoreCheckpoint(store, run="a", save_freq=3, tags=["newest"], meta={"who": "me"})
    history = fit(line("adam", metrics=["mae"]), hook, epochs=3, validation_data=(X, Y))
    assert steps(store) == [3, 6, 9, 12]
    assert set(store.checkpoint("a@3").metrics) == {"loss", "mae"}
    assert hook.last_checkpoint == store.checkpoint("a@newest") and hook.last_checkpoint.step == 12
    fit(line(metrics=["mae"]), StoreCheckpoint(store, run="epochs"), epochs=3, validation_data=(X, Y))
    held = sorted(store.checkpoints("epochs"), key=lambda one: one.step or 0)
    assert [one.step for one in held] == [4, 8, 12]
    assert [set(one.metrics) for one in held] == [{"loss", "mae", "val_loss", "val_mae"}] * 3
    assert len(history.epoch) == 3


def test_when_several_batches_are_one_call(store: ckpt.Store) -> None:
    """As with ``steps_per_execution=2``, which Keras has not with torch: it tells of every second batch only."""
    hook = StoreCheckpoint(store, run="a", save_freq=3)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])  # Not compiled: the batches are the steps.
    hook.set_model(model)
    hook.on_train_begin()
    for epoch in range(3):
        hook.on_epoch_begin(epoch)
        for batch in (1, 3):
            hook.on_train_batch_end(batch, {"loss": 1.0, "text": "x", "many": np.ones(3), "one": np.float32(2)})
    assert steps(store) == [4, 8, 12]
    assert store.checkpoint("a@8").metrics == {"loss": 1.0, "one": 2.0}


def test_only_the_best(store: ckpt.Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ckpt_store")
    numbers = Meddle("val_loss", 3.0, 4.0, 2.0, 2.0, 1.0)
    fit(line(), numbers, StoreCheckpoint(store, run="a", save_best_only=True, verbose=1), epochs=5)
    assert steps(store) == [4, 12, 20]
    assert store.best("a", "val_loss", mode="min") == store.checkpoint("a@20")
    told = [record.getMessage() for record in caplog.records]
    assert any("improved from 3.00000 to 2.00000" in one for one in told)
    assert any("did not improve from 2.00000" in one for one in told)

    threshold = StoreCheckpoint(store, run="b", save_best_only=True, initial_value_threshold=2.5)
    fit(line(), Meddle("val_loss", 3.0, 2.6, 2.0), threshold, epochs=3)
    assert steps(store, "b") == [12]
    # Which end is good: said, told by Keras's metric, or refused.
    up = StoreCheckpoint(store, run="c", monitor="val_score", mode="max", save_best_only=True)
    fit(line(), Meddle("val_score", 3.0, 2.0, 4.0), up, epochs=3)
    assert steps(store, "c") == [4, 12]
    told_by_metric = StoreCheckpoint(store, run="d", monitor="val_accuracy", save_best_only=True)
    fit(line(metrics=["accuracy"]), Meddle("val_accuracy", 0.1, 0.3, 0.2), told_by_metric, epochs=3)
    assert steps(store, "d") == [4, 8]
    with pytest.raises(ValueError, match="val_score"):
        unknown = StoreCheckpoint(store, run="e", monitor="val_score", save_best_only=True)
        fit(line(), Meddle("val_score", 3.0, 2.0), unknown, epochs=2)
    # Without the number it is stored rather than lost.
    fit(line(), StoreCheckpoint(store, run="f", monitor="val_acc", save_best_only=True, mode="max"), epochs=2)
    assert steps(store, "f") == [4, 8]

    # Trained on from the store, it has to beat the best of the run.
    model = load_model(store, "a@latest")
    fit(model, Meddle("val_loss", 1.5, 0.5), StoreCheckpoint(store, run="a", save_best_only=True), epochs=2)
    assert steps(store) == [4, 12, 20, 28]


def test_what_was_not_stored_is_not_the_best(store: ckpt.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put, calls = ckpt.Store.put, []

    def full_at_first(*given: Any, **more: Any) -> ckpt.Checkpoint:
        calls.append(more["step"])
        if len(calls) == 1:
            raise ckpt.NoSpace("no room left")
        return put(*given, **more)

    monkeypatch.setattr(ckpt.Store, "put", full_at_first)
    only = StoreCheckpoint(store, run="a", save_best_only=True, on_no_space="warn")
    fit(line(), Meddle("val_loss", 1.0, 2.0, 3.0), only, epochs=3)
    assert steps(store) == [8]
    # Nothing is better than what is no number.
    only = StoreCheckpoint(store, run="b", save_best_only=True)
    fit(line(), Meddle("val_loss", float("nan"), 2.0, 3.0), only, epochs=3)
    assert steps(store, "b") == [4, 8]


def test_weights_only_and_the_ways_to_load(store: ckpt.Store) -> None:
    model = line("adam")
    fit(model, StoreCheckpoint(store, run="w", save_weights_only=True), StoreCheckpoint(store, run="m"), epochs=2)
    expected = model.predict(X, verbose=0)
    fresh = line("adam")
    load_weights(fresh, store, "w@latest")
    assert np.array_equal(fresh.predict(X, verbose=0), expected)
    # The optimizer's state came with them.
    assert int(fresh.optimizer.iterations) == 8
    whole = load_model(store.path, "m@latest")
    assert np.array_equal(whole.predict(X, verbose=0), expected) and int(whole.optimizer.iterations) == 8
    bare = load_model(store, "m@latest", compile=False)
    assert not bare.compiled
    other = line("adam")
    load_weights(other, store, "m@8")
    assert np.array_equal(other.predict(X, verbose=0), expected)
    with pytest.raises(ckpt.Invalid, match="load_weights"):
        load_model(store, "w@latest")
    wider = keras.Sequential([keras.Input((1,)), keras.layers.Dense(5), keras.layers.Dense(1)])
    with pytest.raises(ValueError):
        load_weights(wider, store, "w@latest")
    with pytest.raises(ckpt.NotFound):
        load_model(store, "m@7")
    assert beside(store) == []


def test_retention_and_a_pin(store: ckpt.Store) -> None:
    fit(line(), StoreCheckpoint(store, run="a", save_freq=1), epochs=3)
    store.pin("a@2")
    store.gc(run="a", keep_last=3)
    assert steps(store) == [2, 10, 11, 12]
    assert load_model(store, "a@2") is not None


def test_a_new_training_does_not_overwrite_an_older_one(store: ckpt.Store) -> None:
    fit(line(), StoreCheckpoint(store, run="a"), epochs=2)
    before = {held.id for held in store.checkpoints("a")}
    with pytest.raises(ckpt.Exists, match="up to step 8.*load_model"):
        fit(line(), StoreCheckpoint(store, run="a"), epochs=2)
    assert {held.id for held in store.checkpoints("a")} == before
    # Gone back to an earlier step on purpose.
    fit(load_model(store, "a@4"), StoreCheckpoint(store, run="a"), epochs=1)
    assert steps(store) == [4, 8] and store.checkpoint("a@8").id not in before
    fit(line(), StoreCheckpoint(store, run="a", replace=True), epochs=1)
    assert store.checkpoint("a@4").id not in before
    # One callback for several fits.
    hook, model = StoreCheckpoint(store, run="several"), line()
    for _ in range(3):
        fit(model, hook)
    assert steps(store, "several") == [4, 8, 12]


def test_a_full_disk(store: ckpt.Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = ckpt.Store.put
    full = True

    def put(self: ckpt.Store, *args: Any, **more: Any) -> ckpt.Checkpoint:
        if full:
            raise ckpt.NoSpace("no room left")
        return real(self, *args, **more)

    monkeypatch.setattr(ckpt.Store, "put", put)
    with pytest.raises(ckpt.NoSpace):
        fit(line(), StoreCheckpoint(store, run="a"))
    history = fit(line(), StoreCheckpoint(store, run="a", on_no_space="warn"), epochs=2)
    assert len(history.epoch) == 2 and "training goes on" in caplog.text
    full = False
    # HDF5 tells of a full disk in words.
    words = "Can't write data (file write failed: errno = 28, error message = 'No space left on device')"
    with monkeypatch.context() as patched:
        patched.setattr(keras.Model, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(words)))
        with pytest.raises(ckpt.NoSpace):
            fit(line(), StoreCheckpoint(store, run="a"))
        fit(line(), StoreCheckpoint(store, run="a", on_no_space="warn"))
    assert beside(store) == []
    assert store.checkpoints() == []


@pytest.mark.parametrize(
    "wrong", [{"save_freq": 0}, {"save_freq": 1.5}, {"mode": "up"}, {"on_no_space": "ignore"}, {"tags": "paper"}]
)
def test_what_is_wrong_is_said_at_once(store: ckpt.Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StoreCheckpoint(store, run="a", **wrong)


def test_the_example_is_a_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--epochs", "2"], ["--resume", "--epochs", "3"]):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "store"), *more])
        example().main()
    told = capsys.readouterr().out
    assert "fit@30: loss" in told and "would drop" in told
    store = ckpt.Store(tmp_path / "store")
    assert steps(store, "fit") == [5, 10, 15, 20, 25, 30] and store.checkpoint("fit@10").pinned


def main(action: str, place: str) -> None:
    if action == "kill":
        example().train(place, 5, False, Kill())


if __name__ == "__main__":
    main(*sys.argv[1:])
