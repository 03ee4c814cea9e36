"""CheckpointManager: what is saved comes back, what does not fit is named, and no rule drops what it must keep."""

from __future__ import annotations

import logging
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from ckpt_store import Store, errors
from ckpt_store.torch import CheckpointManager


def training(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 300), nn.BatchNorm1d(300), nn.Linear(300, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return {"model": model, "optimizer": optimizer}


def step_once(parts: dict[str, Any]) -> float:
    loss = parts["model"](torch.randn(8, 40)).square().mean()
    parts["optimizer"].zero_grad()
    loss.backward()
    parts["optimizer"].step()
    return loss.item()


def test_everything_comes_back_and_random_numbers_go_on(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a")
    parts = training()
    step_once(parts)
    seen = {"epoch": 3, "order": [2, 0, 1], "name": "x"}
    ema = torch.arange(5.0)
    saved = manager.save(7, {"loss": torch.tensor(0.5)}, seen=seen, ema=ema, best=0.25, **parts)
    assert saved.step == 7 and saved.metrics == {"loss": 0.5}
    expected = [step_once(parts) for _ in range(3)], random.random(), numpy.random.rand(), numpy.random.randn()

    again = training(seed=1)
    fresh = {"epoch": 0, "gone": True}
    ema_again = torch.zeros(5)
    other = CheckpointManager(manager.store, "a")
    assert other.restore_latest(seen=fresh, ema=ema_again, **again) == 7
    assert fresh == seen and torch.equal(ema_again, ema)
    assert other.values["best"] == 0.25 and other.values["seen"] == seen
    losses = [step_once(again) for _ in range(3)]
    assert (losses, random.random(), numpy.random.rand(), numpy.random.randn()) == expected
    assert other.latest_step() == 7 and other.steps() == [7]
    # What is stored needs no full pickle, and loads without the manager.
    plain = other.store.load("a@7", weights_only=True)
    assert torch.equal(plain["ema"], ema) and plain["model"].keys() == parts["model"].state_dict().keys()


def test_without_rng_the_generators_are_left_alone(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a", rng=False)
    manager.save(1, x=torch.zeros(1))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    manager.restore_latest(x=torch.ones(1))
    assert torch.equal(torch.rand(1), expected)


def test_numpy_values_survive_the_restricted_unpickler(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a")
    big = numpy.arange(3, dtype=">i4")
    frozen = numpy.arange(3.0)
    frozen.flags.writeable = False
    nested = [(numpy.int64(-1), None)]
    manager.save(1, state={"scalar": numpy.float32(0.1), "big": big, "nested": nested, "frozen": frozen, "set": {1, 2}})
    manager.restore_latest()
    back = manager.values["state"]
    assert type(back["scalar"]) is numpy.float32 and back["scalar"] == numpy.float32(0.1)
    assert back["big"].dtype == big.dtype and (back["big"] == big).all()
    assert type(back["nested"][0]) is tuple and type(back["nested"][0][0]) is numpy.int64
    assert (back["frozen"] == frozen).all() and back["set"] == {1, 2}


def test_a_state_dict_keeps_its_versions_beside_numpy(tmp_path: Path) -> None:
    class Counting(nn.BatchNorm1d):
        def get_extra_state(self) -> Any:
            return numpy.float64(1.5)

        def set_extra_state(self, state: Any) -> None:
            self.extra = state

    manager = CheckpointManager(tmp_path / "store", "a")
    manager.save(1, model=Counting(4))
    model = Counting(4)
    manager.restore_latest(model=model)
    assert type(model.extra) is numpy.float64 and model.extra == 1.5
    assert manager.store.load("a@1")["model"]._metadata[""]["version"] == 2


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a")
    parts = training()
    manager.save(1, epoch=2, x=torch.zeros(3), **parts)
    with pytest.raises(errors.Invalid, match="a@1 has no scheduler; it has epoch, model, optimizer, x"):
        manager.restore_latest(scheduler=parts["optimizer"], **parts)
    with pytest.raises(errors.Invalid, match="also holds the state of optimizer"):
        manager.restore(1, model=parts["model"])
    with pytest.raises(errors.Invalid, match="model of a@1 does not fit"):
        manager.restore(1, model=nn.Linear(2, 2), optimizer=parts["optimizer"])
    with pytest.raises(errors.Invalid, match=r"values\['epoch'\]"):
        manager.restore(1, epoch=0, **parts)
    before = parts["model"][0].weight.clone()
    with torch.no_grad():
        parts["model"][0].weight.add_(1)
    with pytest.raises(errors.Invalid, match=r"x is torch.float32 \(3,\) in a@1, and torch.float32 \(4,\) here"):
        manager.restore(1, x=torch.zeros(4), **parts)
    assert torch.equal(parts["model"][0].weight, before + 1), "nothing is loaded when something does not fit"
    with pytest.raises(errors.NotFound):
        manager.restore(9, **parts)
    with pytest.raises(errors.Invalid, match=r"loader.seen is a .*Unusual.*weights_only=False"):
        manager.save(2, loader={"seen": Unusual()})
    with pytest.raises(errors.Invalid, match="nothing to save"):
        manager.save(2)
    manager.store.save({"x": 1}, run="a", step=3)
    with pytest.raises(errors.Invalid, match="a@3 was not saved by a CheckpointManager"):
        manager.restore_latest(**parts)
    for bad in ({"keep_last": 0}, {"keep_best": 1}, {"mode": "best"}):
        with pytest.raises(errors.Invalid):
            CheckpointManager(manager.store, "a", **bad)


class Unusual:
    """Something that only a full pickle holds."""


def test_a_full_pickle_is_taken_when_asked_for(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a", weights_only=False)
    manager.save(1, odd=Unusual())
    manager.restore_latest()
    assert type(manager.values["odd"]) is Unusual


def test_two_trainings_of_one_run_replace_nothing_of_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = CheckpointManager(store, "a"), CheckpointManager(store, "a")
    first.save(1, x=torch.ones(1))
    second.save(2, x=torch.zeros(1))
    for manager, step in ((first, 2), (second, 1)):
        with pytest.raises(errors.Exists):
            manager.save(step, x=torch.ones(1))
    second.save(2, x=torch.ones(1))
    # Weights of another run give no claim to this one's history.
    CheckpointManager(store, "b").save(1, x=torch.ones(1))
    third = CheckpointManager(store, "b")
    third.restore("a@1", x=torch.zeros(1))
    with pytest.raises(errors.Exists):
        third.save(1, x=torch.zeros(1))
    # What was restored may be saved once more, and what lies behind it, but nothing before it.
    fourth = CheckpointManager(store, "a", keep_last=None)
    assert fourth.restore(2, x=torch.zeros(1)) == 2
    fourth.save(2, x=torch.zeros(1))
    with pytest.raises(errors.Exists):
        fourth.save(1, x=torch.zeros(1))


def test_a_training_that_did_not_restore_replaces_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    CheckpointManager(store, "a").save(1, x=1)
    with pytest.raises(errors.Exists, match="a@1.*call restore_latest"):
        CheckpointManager(store, "a").save(1, x=2)
    manager = CheckpointManager(store, "a", asynchronous=True)
    manager.save(1, x=2)
    with pytest.raises(errors.Exists):
        manager.wait()
    assert store.load("a@1")["x"] == 1
    manager.restore_latest()
    manager.save(1, x=3)
    manager.save(2, x=3)
    manager.save(2, x=4)
    manager.wait()
    CheckpointManager(store, "a", replace=True).save(1, x=5)
    assert [store.load(f"a@{step}")["x"] for step in (1, 2)] == [5, 4]


def test_rules_keep_last_best_and_every_and_touch_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for step in range(4):
        store.save({"x": 1}, run="r", step=step)
        store.save({"x": 1}, run="rr", step=step)
    store.save({"x": 1}, run="r*", step=1)
    manager = CheckpointManager(store, "r*", keep_last=2, keep_best=1, metric="loss", keep_every=5)
    losses = {2: 0.9, 3: 0.1, 4: float("nan"), 5: 0.7, 6: 0.6, 7: 0.5, 8: 0.4, 9: 0.3}
    for step, loss in losses.items():
        manager.save(step, {"loss": loss}, x=torch.full((3,), step))
        if step == 4:
            store.tag("r*@4", "mark")
        if step == 6:
            store.pin("r*@6")
    assert manager.steps() == [3, 4, 5, 6, 8, 9]
    x = torch.zeros(3, dtype=torch.int64)
    assert manager.restore_best(x=x) == 3 and x.tolist() == [3, 3, 3]
    assert [len(store.checkpoints(run)) for run in ("r", "rr")] == [4, 4]
    with pytest.raises(errors.Invalid, match="without a metric"):
        CheckpointManager(store, "r*").restore_best()


def test_a_costly_gc_is_put_off_and_a_failing_one_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ckpt_store.torch._GC_SECONDS", 0.0)
    store = Store(tmp_path / "store")
    manager = CheckpointManager(store, "a", keep_last=1)
    calls = []
    gc = store.gc
    monkeypatch.setattr(store, "gc", lambda **rules: calls.append(rules) or gc(**rules))
    manager.save(1, x=1)
    assert not calls, "there is nothing to drop yet"
    # As if the gc had been long.
    monkeypatch.setattr("ckpt_store.torch._GC_SHARE", 1e-6)
    for step in (2, 3, 4):
        manager.save(step, x=1)
    assert len(calls) == 1 and calls[0] == {"run": "a", "keep_last": 1}
    assert manager.steps() == [2, 3, 4]
    manager.close()
    assert manager.steps() == [4]

    manager = CheckpointManager(store, "a", keep_last=1, replace=True)
    for error, level in ((errors.Busy("another gc"), logging.DEBUG), (errors.Corrupt("a list"), logging.WARNING)):
        monkeypatch.setattr(store, "gc", raising(error))
        with caplog.at_level(logging.DEBUG, "ckpt_store"):
            manager.save(9, x=1)
        assert caplog.records[-1].levelno == level
    monkeypatch.setattr(store, "gc", gc)
    manager.close()
    assert manager.steps() == [9]
    monkeypatch.setattr(store, "checkpoints", raising(errors.Unavailable("the disk is away")))
    with caplog.at_level(logging.WARNING, "ckpt_store"):
        assert manager.save(10, x=1)
    assert "the disk is away" in caplog.text


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


def test_room_is_made_of_what_earlier_saves_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    manager = CheckpointManager(store, "a", keep_last=1)
    gc = store.gc
    monkeypatch.setattr(store, "gc", raising(errors.Busy("another gc")))
    for step in (1, 2):
        manager.save(step, x=torch.full((4,), step))
    assert manager.steps() == [1, 2]
    save = store.save
    tries: list[int] = []

    def full_once(state: Any, **about: Any) -> Any:
        tries.append(len(store.checkpoints("a")))
        if len(tries) == 1:
            raise errors.NoSpace("the disk is full")
        return save(state, **about)

    monkeypatch.setattr(store, "save", full_once)
    with pytest.raises(errors.NoSpace):
        manager.save(3, x=1)
    assert tries == [2], "there was nothing to try again with"
    monkeypatch.setattr(store, "gc", gc)
    tries.clear()
    manager.save(3, x=1)
    assert tries == [2, 1]


def test_in_the_background_errors_come_with_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    with CheckpointManager(store, "a", keep_last=2, asynchronous=True) as manager:
        x = torch.zeros(1000)
        for step in range(1, 5):
            x.fill_(step)
            manager.save(step, x=x)
            x.fill_(-1)
        assert manager.steps() == [3, 4]
        assert manager.restore(3, x=x) == 3 and x.unique().tolist() == [3]

        class Failing:
            def result(self, timeout: float | None = None) -> None:
                raise errors.NoSpace("the disk is full")

        monkeypatch.setattr(store, "save_async", lambda *_, **__: Failing())
        manager.save(5, x=x)
        with pytest.raises(errors.NoSpace, match="the disk is full"):
            manager.save(6, x=x)
        monkeypatch.undo()
        manager.save(6, x=x)
    assert manager.steps() == [4, 6]
    assert not [thread for thread in threading.enumerate() if thread.name == "ckpt_store-manager"]


def test_a_forked_child_saves_too(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "store", "a", asynchronous=True)
    manager.save(1, x=torch.ones(3))
    manager.wait()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            manager.save(2, x=torch.full((3,), 2.0))
            manager.wait()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    x = torch.zeros(3)
    assert manager.restore_latest(x=x) == 2 and x.tolist() == [2.0] * 3
