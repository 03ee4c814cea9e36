"""Checkpoints of a plain torch training loop: save, resume, keep the last and the best. Never drives the loop itself.

    from ckpt_store.torch import CheckpointManager

    manager = CheckpointManager("runs/store", "a", keep_last=3)
    step = manager.restore_latest(model=model, optimizer=optimizer) or 0
    while step < steps:
        ...
        step += 1
        manager.save(step, metrics={"val_loss": loss}, model=model, optimizer=optimizer)
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import torch

from . import errors
from ._arguments import at_least_one, one_of, whole
from ._plain import original, plain, random_state, set_random_state
from ._steps import Steps
from .checkpoint import Checkpoint
from .saving import SaveHandle
from .store import Store, StrPath, store_of

__all__ = ["CheckpointManager"]

_log = logging.getLogger("ckpt_store")

# What the manager itself keeps in a checkpoint stands under this key, beside the objects.
_OWN = "_manager"
_VERSION = 1

# A gc reads the lists of all checkpoints of the store. Up to this many seconds it runs after every save, and beyond
# only as often as keeps it to this part of the time.
_GC_SECONDS = 1.0
_GC_SHARE = 0.05


class CheckpointManager:
    """Saves the objects of a training as checkpoints of one run, restores them, and drops old ones.

    ``store`` is a :class:`Store` or its path. ``keep_last``, ``keep_best`` (with ``metric`` and ``mode``) and
    ``keep_every`` (steps) are independent: a checkpoint stays when any of them keeps it; without any, all stay. The
    newest, tagged and pinned ones always stay, and so do other runs in the store. ``asynchronous=True`` lets
    :meth:`save` return once the tensors are copied. ``rng=False`` leaves random states out. ``weights_only=False`` also
    takes objects that only a full pickle holds; restoring then runs what the pickle says.

    A training that restored goes over later steps again, which then take the place of what was there. A step that the
    run has otherwise, as from a training that goes on at the same time, is :class:`Exists`, unless ``replace=True``.

    In a distributed training, save on rank 0. One manager is for one thread.
    """

    def __init__(
        self,
        store: Store | StrPath,
        run: str,
        keep_last: int | None = 3,
        keep_best: int | None = None,
        metric: str | None = None,
        mode: Literal["min", "max"] = "min",
        keep_every: int | None = None,
        asynchronous: bool = False,
        *,
        replace: bool = False,
        rng: bool = True,
        weights_only: bool = True,
    ) -> None:
        for name, count in (("keep_last", keep_last), ("keep_best", keep_best), ("keep_every", keep_every)):
            at_least_one(name, count)
        if keep_best is not None and metric is None:
            raise errors.Invalid("keep_best needs the metric by which a checkpoint is good, such as metric='val_loss'")
        one_of("mode", mode, "min", "max")
        self.store = store_of(store, create=True)
        self.run = run
        self.metric = metric
        self.mode = mode
        self.values: dict[str, Any] = {}
        """What was saved that is neither module nor optimizer, of the checkpoint that was restored last."""
        self._rules = {"keep_last": keep_last, "keep_best": keep_best, "keep_every": keep_every}
        self._asynchronous = asynchronous
        self._steps = Steps(replace)
        self._rng = rng
        self._weights_only = weights_only
        self._gc_not_before = 0.0
        self._gc_postponed = False
        self._saved: threading.Event | None = None
        self._failed: BaseException | None = None

    def save(self, step: int, metrics: Mapping[str, Any] | None = None, **objects: Any) -> Checkpoint | SaveHandle:
        """Stores the objects as the checkpoint of this step, in the place of one that the step had, and drops what no
        rule keeps.

        Of an object with ``state_dict()`` that is stored, anything else as it is. Metrics are numbers, or tensors of
        one element. Gives the checkpoint; with ``asynchronous=True`` a handle, and what the save in the background
        fails with is raised by the next :meth:`save`, :meth:`wait` or :meth:`close`.

        Raises :class:`NoSpace` when the disk is too full: all checkpoints are as they were, and the training can go on.
        """
        self.wait()
        step = whole(step)
        state = self._state(step, objects)
        about: dict[str, Any] = {
            "run": self.run,
            "step": step,
            "metrics": metrics,
            "replace": self._steps.may_replace(self.run, step),
        }
        if self._asynchronous:
            handle = self.store.save_async(state, **about)
            self._saved = threading.Event()
            threading.Thread(target=self._finish, args=(handle, step, self._saved), name="ckpt_store-manager").start()
            return handle
        try:
            saved = self.store.save(state, **about)
        except errors.Exists as error:
            raise errors.Exists(
                f"{error}. This training did not restore it: call restore_latest() first, name another run, or pass "
                "CheckpointManager(replace=True)"
            ) from error
        except errors.NoSpace:
            # What earlier saves let go may still be there.
            if not (self._gc_postponed and self._gc()):
                raise
            saved = self.store.save(state, **about)
        self._steps.stored(self.run, step)
        self._retain()
        return saved

    def restore_latest(self, **objects: Any) -> int | None:
        """Loads the newest sound checkpoint of the run into the objects, as :meth:`restore` does, and gives its step.

        A damaged one is named by a warning of the logger ``ckpt_store`` and the one before it is taken. None when the
        run has no checkpoint yet; :class:`Corrupt` when it has some and none is sound.
        """
        self.wait()
        damaged: list[str] = []
        for checkpoint in reversed(self._checkpoints()):
            try:
                state = self._load(checkpoint.id, checkpoint.ref)
            except errors.Corrupt as error:
                damaged.append(checkpoint.ref)
                _log.warning("%s is damaged, the checkpoint before it is taken: %s", checkpoint.ref, error)
                continue
            except errors.NotFound:
                # Somebody dropped it a moment ago.
                continue
            self._into(state, checkpoint, objects)
            if damaged:
                _log.warning("%s restored; damaged and newer: %s", checkpoint.ref, ", ".join(damaged))
            return checkpoint.step
        if damaged:
            raise errors.Corrupt(f"no checkpoint of {self.run} is sound: {', '.join(damaged)}")
        return None

    def restore(self, ref: str | int | Checkpoint, **objects: Any) -> int | None:
        """Loads a checkpoint, named by its step or by a ref of any run, into the objects, and gives its step.

        Modules, optimizers and whatever has ``load_state_dict()`` are loaded strictly, tensors, dicts and lists are
        filled in place. Everything with a state that the checkpoint holds must be asked for, and everything that is
        asked for must be in it; numbers and texts are in :attr:`values` after it. Random states are set when there are
        some.
        """
        self.wait()
        if isinstance(ref, Checkpoint):
            ref = ref.id
        checkpoint = self.store.checkpoint(ref if isinstance(ref, str) else f"{self.run}@{whole(ref)}")
        self._into(self._load(checkpoint.id, checkpoint.ref), checkpoint, objects)
        return checkpoint.step

    def restore_best(self, **objects: Any) -> int | None:
        """Loads the best checkpoint by the manager's metric, as :meth:`restore` does. None when no checkpoint has the
        metric."""
        self.wait()
        if self.metric is None:
            raise errors.Invalid("the manager was made without a metric, by which a checkpoint could be the best")
        best = self.store.best(self.run, self.metric, self.mode)
        return None if best is None else self.restore(best, **objects)

    def latest_step(self) -> int | None:
        """The step of the checkpoint that was stored last; None when there is none."""
        self.wait()
        found = self._checkpoints()
        return found[-1].step if found else None

    def steps(self) -> list[int]:
        """The steps of the run's checkpoints, ascending."""
        self.wait()
        return sorted(checkpoint.step for checkpoint in self._checkpoints() if checkpoint.step is not None)

    def wait(self) -> None:
        """Waits for a save in the background and raises what it failed with."""
        if self._saved is not None:
            # Ctrl-C leaves it to the next one who waits.
            self._saved.wait()
            self._saved = None
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Waits as :meth:`wait` does, and drops what was left for later."""
        self.wait()
        if self._gc_postponed:
            self._gc()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._saved is not None:
            # The error on its way out matters more than one of the save, which the log tells.
            self._saved.wait()

    def _checkpoints(self) -> list[Checkpoint]:
        """The run's checkpoints, in the order in which they were stored."""
        try:
            return list(self.store.checkpoints(self.run))
        except errors.NotFound:
            return []

    def _state(self, step: int, objects: dict[str, Any]) -> dict[str, Any]:
        if not objects:
            raise errors.Invalid("there is nothing to save: pass objects by name, as in save(step, model=model)")
        if _OWN in objects:
            raise errors.Invalid(f"the name {_OWN} is the manager's own")
        stateful = [name for name, value in objects.items() if callable(getattr(value, "state_dict", None))]
        state = {name: value.state_dict() if name in stateful else value for name, value in objects.items()}
        if self._weights_only:
            state = {name: plain(value, name) for name, value in state.items()}
        own = {"version": _VERSION, "step": step, "stateful": stateful}
        if self._rng:
            own["rng"] = random_state()
        return {**state, _OWN: own}

    def _load(self, ref: str, shown: str) -> dict[str, Any]:
        loaded: object = self.store.load(ref, map_location="cpu", weights_only=self._weights_only)
        state: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
        own = state.get(_OWN)
        if own is None:
            raise errors.Invalid(f"{shown} was not saved by a CheckpointManager: read it with Store.load")
        if own["version"] != _VERSION:
            raise errors.Unsupported(f"{shown} was saved by another version of CheckpointManager, {own['version']}")
        return state

    def _into(self, state: dict[str, Any], checkpoint: Checkpoint, objects: dict[str, Any]) -> None:
        own, ref = state[_OWN], checkpoint.ref
        there = {name: original(value) for name, value in state.items() if name != _OWN}
        # Everything is checked before anything is loaded.
        missing = sorted(objects.keys() - there.keys())
        if missing:
            raise errors.Invalid(f"{ref} has no {', '.join(missing)}; it has {', '.join(sorted(there))}")
        forgotten = sorted(set(own["stateful"]) - objects.keys())
        if forgotten:
            raise errors.Invalid(
                f"{ref} also holds the state of {', '.join(forgotten)}: pass it too, or read a part with Store.load"
            )
        for name, value in objects.items():
            _check(name, value, there[name], ref)
        for name, value in objects.items():
            _fill(name, value, there[name], ref)
        # Of another run only the weights come: what this run has stays another training's.
        if checkpoint.run == self.run and checkpoint.step is not None:
            self._steps.goes_on(self.store, self.run, checkpoint.step)
            self._steps.stored(self.run, checkpoint.step)
        self.values = {name: value for name, value in there.items() if name not in own["stateful"]}
        # Last, because loading may draw numbers.
        if self._rng and "rng" in own:
            set_random_state(own["rng"])

    def _finish(self, handle: SaveHandle, step: int, saved: threading.Event) -> None:
        try:
            handle.result()
            self._steps.stored(self.run, step)
            self._retain()
        except BaseException as error:
            # The handle has told the log.
            self._failed = error
        finally:
            saved.set()

    def _retain(self) -> None:
        """Drops what no rule keeps, now or later. Never fails: what had to be stored is stored."""
        if all(rule is None for rule in self._rules.values()):
            return
        try:
            may_go = self._may_go()
        except errors.CkptError as error:
            _log.warning("old checkpoints of %s were not looked at: %s", self.run, error)
            return
        if may_go and time.monotonic() < self._gc_not_before:
            self._gc_postponed = True
        elif may_go:
            self._gc()

    def _may_go(self) -> bool:
        """Whether there seems to be a checkpoint that no rule keeps: gc decides, this spares one that has nothing to
        do."""
        found = self._checkpoints()
        last, best, every = (self._rules[name] for name in ("keep_last", "keep_best", "keep_every"))
        kept = {one.id for one in found[-(last or 1) :]}
        if best is not None and self.metric is not None:
            values = [(one.metrics.get(self.metric), -at, one.id) for at, one in enumerate(found)]
            sign = 1 if self.mode == "min" else -1
            ranked = sorted(
                (sign * value, at, id) for value, at, id in values if value is not None and not math.isnan(value)
            )
            kept |= {id for _, _, id in ranked[:best]}
        by_step = {one.id for one in found if every is not None and one.step is not None and one.step % every == 0}
        return any(not (one.tags or one.pinned or one.id in kept or one.id in by_step) for one in found)

    def _gc(self) -> bool:
        """Drops what no rule keeps. A failure is told and no more: what had to be stored is stored."""
        began = time.monotonic()
        rules: dict[str, Any] = {name: rule for name, rule in self._rules.items() if rule is not None}
        if "keep_best" in rules:
            rules |= {"metric": self.metric, "mode": self.mode}
        self._gc_postponed = True
        try:
            # The run's name as a glob that matches no other run.
            self.store.gc(run=re.sub(r"([*?\[\]{}!\\])", r"\\\1", self.run), **rules)
        except errors.Busy:
            _log.debug("another gc is at work: the next save drops old checkpoints of %s", self.run)
            return False
        except errors.CkptError as error:
            _log.warning("old checkpoints of %s were not dropped: %s", self.run, error)
            return False
        self._gc_postponed = False
        ended = time.monotonic()
        if ended - began > _GC_SECONDS:
            self._gc_not_before = ended + (ended - began) / _GC_SHARE
        return True


def _check(name: str, value: Any, saved: Any, ref: str) -> None:
    """Refuses, before anything is changed, what can't be loaded in place."""
    if callable(getattr(value, "load_state_dict", None)):
        return
    if isinstance(value, torch.Tensor):
        if not isinstance(saved, torch.Tensor):
            raise errors.Invalid(f"{name} is a {type(saved).__name__} in {ref}, not a tensor")
        if value.shape != saved.shape or value.dtype != saved.dtype:
            raise errors.Invalid(
                f"{name} is {saved.dtype} {tuple(saved.shape)} in {ref}, and {value.dtype} {tuple(value.shape)} here"
            )
    elif isinstance(value, (dict, list)):
        if not isinstance(saved, type(value)):
            raise errors.Invalid(f"{name} is a {type(saved).__name__} in {ref}, and a {type(value).__name__} here")
    else:
        raise errors.Invalid(
            f"{name} is a {type(value).__name__}, which can't be changed in place: leave it out, and read "
            f"values[{name!r}] afterwards"
        )


def _fill(name: str, value: Any, saved: Any, ref: str) -> None:
    if callable(getattr(value, "load_state_dict", None)):
        try:
            value.load_state_dict(saved)
        except (RuntimeError, KeyError, ValueError) as error:
            raise errors.Invalid(f"{name} of {ref} does not fit into the one here: {error}") from error
    elif isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.copy_(saved)
    elif isinstance(value, dict):
        value.clear()
        value.update(saved)
    else:
        value[:] = saved
