"""Stores Keras models during ``fit`` and loads them. Never keeps a file of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import keras

from ._arguments import one_of, tags_of
from ._scratch import full_disk_told, private
from ._steps import Steps
from .checkpoint import Checkpoint
from .errors import Invalid, NoSpace
from .materialized import materialized
from .store import Store, StrPath, store_of

_log = logging.getLogger("ckpt_store")

_MODEL = "model.keras"
_WEIGHTS = "model.weights.h5"


class StoreCheckpoint(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    """Stores the model, or its weights, after every epoch or every so many batches, as
    ``keras.callbacks.ModelCheckpoint`` saves it.

        model.fit(..., callbacks=[StoreCheckpoint("runs/store", run="a", save_freq=100)])

    ``monitor``, ``verbose``, ``save_best_only``, ``save_weights_only``, ``mode``, ``save_freq`` and
    ``initial_value_threshold`` mean what they mean there; ``verbose=1`` tells by ``logging`` (``ckpt_store``, level
    INFO). The step is the optimizer's ``iterations``, or without an optimizer the batches that this callback saw; the
    metrics are the numbers in Keras's ``logs``.

    Nothing is ever overwritten: which checkpoints stay is said by policies and ``store.gc``. A model that was loaded
    and is trained on goes on with its steps, and those that it goes over again take the place of the stored ones;
    with ``save_best_only`` it has to beat the best of the run. A training from step 0 in a run that has checkpoints
    raises Exists before it begins, unless ``replace=True``.

    ``on_no_space="warn"`` lets the training go on when the disk is full, without this checkpoint. ``gc=True`` makes
    room as the store's policies say.
    """

    def __init__(
        self,
        store: Store | StrPath,
        *,
        run: str,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Literal["auto", "min", "max"] = "auto",
        save_freq: Literal["epoch"] | int = "epoch",
        initial_value_threshold: float | None = None,
        replace: bool = False,
        on_no_space: Literal["raise", "warn"] = "raise",
        gc: bool = False,
        tags: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if save_freq != "epoch" and (not isinstance(save_freq, int) or isinstance(save_freq, bool) or save_freq < 1):
            raise Invalid(f"save_freq is {save_freq!r}, and can be 'epoch' or a number of batches")
        one_of("mode", mode, "auto", "min", "max")
        one_of("on_no_space", on_no_space, "raise", "warn")
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self.last_checkpoint: Checkpoint | None = None
        """What was stored last."""
        self._mode = mode
        self._given = store
        self._run = run
        self._warns = on_no_space == "warn"
        self._gc = gc
        self._tags = tags_of(tags)
        self._meta = dict(meta or {})
        self._steps = Steps(replace)
        self._epoch = 0
        self._batches = 0
        self._batches_since = 0
        self._last_batch: int | None = None
        self._bytes = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the store, and looks what the run holds already."""
        store = self._given = store_of(self._given, create=True)
        step = self._step(self.model)
        self._steps.begin(store, self._run, step, f'ckpt_store.keras.load_model(store, "{self._run}@latest")')
        if self.save_best_only and self.best is None and step > 0:
            best = store.best(self._run, self.monitor, self._direction())
            self.best = None if best is None else best.metrics[self.monitor]

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stores after every ``save_freq`` batches."""
        # With steps_per_execution Keras tells of some batches only.
        new_epoch = self._last_batch is None or batch <= self._last_batch
        seen = batch + 1 if self._last_batch is None or new_epoch else batch - self._last_batch
        self._last_batch = batch
        self._batches += seen
        if self.save_freq == "epoch":
            return
        self._batches_since += seen
        if self._batches_since >= self.save_freq:
            self._batches_since = 0
            self._save(logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stores after an epoch, if that is what ``save_freq`` says."""
        if self.save_freq == "epoch":
            self._save(logs or {})

    def _save(self, logs: Mapping[str, Any]) -> None:
        if not self._is_wanted(logs):
            return
        # Once: with JAX each look at it brings its state up to date.
        model = self.model
        step = self._step(model)
        store = store_of(self._given, create=True)
        try:
            with private(store.path, self._bytes) as folder:
                path = folder / (_WEIGHTS if self.save_weights_only else _MODEL)
                self._write(model, path)
                self._bytes = path.stat().st_size
                stored = store.put(
                    path,
                    run=self._run,
                    step=step,
                    metrics=_numbers(logs),
                    meta={"epoch": str(self._epoch + 1)} | self._meta,
                    tags=self._tags,
                    replace=self._steps.may_replace(self._run, step),
                    gc=self._gc,
                )
        except NoSpace as error:
            if not self._warns:
                raise
            _log.warning("%s@%s is not stored, and the training goes on: %s", self._run, step, error)
            return
        self._steps.stored(self._run, step)
        self.last_checkpoint = stored
        value = _numbers(logs).get(self.monitor)
        # Not before it is stored, and nothing would ever be better than NaN.
        if self.save_best_only and value is not None and not math.isnan(value):
            self.best = value
        self._tell("epoch %s: stored %s in %s", self._epoch + 1, stored.ref, store.path)

    def _write(self, model: Any, path: Path) -> None:
        with full_disk_told("a model"):
            if self.save_weights_only:
                model.save_weights(path, overwrite=True)
            else:
                model.save(path, overwrite=True)

    def _is_wanted(self, logs: Mapping[str, Any]) -> bool:
        if not self.save_best_only:
            return True
        value = _numbers(logs).get(self.monitor)
        if value is None:
            _log.warning("there is no %s at this moment, so the model is stored, best or not", self.monitor)
            return True
        if self.best is not None and not (value < self.best if self._direction() == "min" else value > self.best):
            self._tell("epoch %s: %s did not improve from %.5f", self._epoch + 1, self.monitor, self.best)
            return False
        before = "None" if self.best is None else f"{self.best:.5f}"
        self._tell("epoch %s: %s improved from %s to %.5f", self._epoch + 1, self.monitor, before, value)
        return True

    def _direction(self) -> Literal["min", "max"]:
        """Which end of ``monitor`` is good. Raises Invalid when neither Keras's metric nor ``mode`` tells."""
        if self._mode != "auto":
            return self._mode
        name = self.monitor.removeprefix("val_")
        for one in getattr(self.model, "metrics", ()):
            for metric in [one, *(getattr(one, "metrics", None) or ())]:
                if metric.name == name and getattr(metric, "_direction", None) in ("up", "down"):
                    return "max" if metric._direction == "up" else "min"
        if name == "loss":
            return "min"
        raise Invalid(f"whether small or large {self.monitor} is good can't be told: say mode='min' or 'max'")

    def _step(self, model: Any) -> int:
        iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
        return self._batches if iterations is None else int(keras.ops.convert_to_numpy(iterations))

    def _tell(self, message: str, *values: Any) -> None:
        _log.log(logging.INFO if self.verbose else logging.DEBUG, message, *values)


def load_model(store: Store | StrPath, ref: str, **kwargs: Any) -> Any:
    """The model of a checkpoint, as ``keras.models.load_model`` makes it; that also gets ``kwargs``.

    Raises Invalid when the checkpoint holds weights only: those are for :func:`load_weights`.
    """
    with materialized(store, ref) as path:
        return keras.models.load_model(_file(path, ref, (".keras", ".h5"), weights=False), **kwargs)


def load_weights(model: Any, store: Store | StrPath, ref: str, **kwargs: Any) -> None:
    """Loads the weights of a checkpoint, or of its whole model, into a model; ``model.load_weights`` gets ``kwargs``.

    The state of the optimizer is among them if the model was compiled, both then and now.
    """
    optimizer = getattr(model, "optimizer", None)
    if model.built and optimizer is not None and not optimizer.built:
        # Keras passes over the state of an optimizer that does not know its variables yet.
        optimizer.build(model.trainable_variables)
    with materialized(store, ref) as path:
        model.load_weights(_file(path, ref, (".weights.h5", ".keras", ".h5"), weights=True), **kwargs)


def _file(path: Path, ref: str, endings: tuple[str, ...], weights: bool) -> str:
    """The one file of a kind in what a checkpoint holds."""
    held = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    fitting = [str(file) for file in held if file.name.endswith(endings)]
    if not weights:
        fitting = [file for file in fitting if not file.endswith(".weights.h5")]
        if not fitting and any(file.name.endswith(".weights.h5") for file in held):
            raise Invalid(f"{ref} holds weights only: make the model and call load_weights(model, store, {ref!r})")
    if len(fitting) != 1:
        named = ", ".join(file.name for file in held[:5])
        raise Invalid(f"{ref} holds {len(fitting)} files ending in {' or '.join(endings)}, and one is needed: {named}")
    return fitting[0]


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """What of Keras's logs is one number."""
    found = {}
    for name, value in logs.items():
        if hasattr(value, "shape") and tuple(value.shape) == ():
            value = float(keras.ops.convert_to_numpy(value))
        if isinstance(value, Real) and not isinstance(value, bool):
            found[name] = float(value)
    return found
