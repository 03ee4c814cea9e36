"""What callers give: steps, metrics, rules and paths of odd kinds, and what they are told of those that can't be."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ckpt_store as ckpt
from ckpt_store.torch import CheckpointManager

OBJECT = {"w": torch.arange(4.0)}


@pytest.mark.parametrize("step", [np.int64(5), torch.tensor(5), 5])
def test_a_step_is_any_whole_number(store: ckpt.Store, step: Any) -> None:
    assert store.save(OBJECT, run="a", step=step).ref == "a@5"


@pytest.mark.parametrize("step", [5.0, 9.7, np.float32(7.5), float("nan"), "12", -1, 2**64, torch.tensor([1, 2]), [3]])
def test_a_step_is_never_rounded(store: ckpt.Store, step: Any) -> None:
    with pytest.raises(ckpt.Invalid, match="step is"):
        store.save(OBJECT, run="a", step=step)
    assert store.runs() == []


def test_a_metric_is_one_number(store: ckpt.Store) -> None:
    loss = torch.tensor(0.1, requires_grad=True)
    half = torch.tensor([0.1], dtype=torch.float16)
    given = {"loss": loss, "half": half, "numpy": np.float32(0.3), "wide": np.float64(0.1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = store.save(OBJECT, run="a", metrics={**given, "inf": float("inf"), "whole": np.int64(7)}).metrics
    assert kept["loss"] == 0.1 and kept["numpy"] == 0.3 and kept["wide"] == 0.1 and kept["whole"] == 7
    assert np.float16(kept["half"]) == np.float16(0.1), "what is shorter is the same number"
    assert kept["inf"] == float("inf")
    largest = torch.finfo(torch.float32).max
    assert store.save(OBJECT, run="a", metrics={"m": torch.tensor(largest)}).metrics["m"] == pytest.approx(largest)


@pytest.mark.parametrize("value", [None, "x", torch.ones(2, 3), np.zeros(2), 1j, 10**400])
def test_what_is_no_metric_is_named(store: ckpt.Store, value: Any) -> None:
    with pytest.raises(ckpt.Invalid, match="the metric val_loss is") as told:
        store.save(OBJECT, run="a", metrics={"val_loss": value})
    assert len(str(told.value)) < 200


def test_a_rule_keeps_at_least_one(store: ckpt.Store) -> None:
    store.save(OBJECT, run="a", step=1)
    for rule in ("keep_last", "keep_every"):
        for count in (0, -1):
            with pytest.raises(ckpt.Invalid, match=rule):
                store.gc(**{rule: count})  # type: ignore[arg-type]
            with pytest.raises(ckpt.Invalid, match=rule):
                CheckpointManager(store, "a", **{rule: count})  # type: ignore[arg-type]
    with pytest.raises(ckpt.Invalid, match="mode is 'least'"):
        store.best("a", "loss", "least")


def test_where_a_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ckpt.Store("~/runs/store").path == tmp_path / "home" / "runs" / "store"
    monkeypatch.chdir(tmp_path)
    store = ckpt.Store("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.save(OBJECT, run="a", step=1)
    assert ckpt.Store(tmp_path / "store", create=False).latest("a") is not None
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_step_of_numpy_is_restored(store: ckpt.Store) -> None:
    model = torch.nn.Linear(2, 2)
    manager = CheckpointManager(store, "a")
    manager.save(np.int64(5), metrics={"loss": torch.tensor(0.5)}, model=model)  # type: ignore[arg-type]
    assert manager.restore_latest(model=model) == 5
    assert manager.restore(np.int64(5), model=model) == 5  # type: ignore[arg-type]
    assert type(manager.latest_step()) is int
