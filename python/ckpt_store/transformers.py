"""Stores what Transformers' Trainer saves. Never removes a folder that the store lacks, or that Trainer still needs."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ._arguments import one_of, tags_of
from ._ranks import on_main
from ._scratch import remove
from ._steps import Steps
from .checkpoint import Checkpoint
from .errors import CkptError, Exists, NoSpace, NotFound
from .materialized import materialize, release_step
from .store import Store, StrPath, store_of

_log = logging.getLogger("ckpt_store")

_FOLDER = re.compile(r"checkpoint-(\d+)")
# In a folder that the store has: which checkpoint it is, and the files that were stored.
_NOTE = "ckpt-store.json"
# What a folder is called while it is being removed, so that a kill leaves no half of one under Trainer's name.
_REMOVING = ".ckpt-removing-"
# Values that time an evaluation are not what it found; `ckpt import` leaves out the same.
_TIMES = ("_runtime", "_per_second", "_time")


class StoreCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Stores each ``checkpoint-N`` folder as soon as Trainer has written it, with step and metrics.

        Trainer(..., callbacks=[StoreCallback("runs/store", run="a")])

    Put it behind callbacks that write into the folder. What Trainer does with its folders stays as it is:
    ``save_total_limit``, ``load_best_model_at_end``, ``resume_from_checkpoint=True``, pushing to the Hub. Nothing of
    that drops a checkpoint from the store, which keeps the history; policies and ``store.gc`` decide there.

    With ``delete_source`` a folder is removed when a newer one is stored, so that the newest lies on the disk as a
    folder, and the best, if Trainer keeps track of one. Nothing is removed while folders are uploaded to the Hub
    (``hub_strategy`` ``checkpoint`` or ``all_checkpoints``).

    To resume from the store: ``trainer.train(resume_from_checkpoint=ckpt.materialize(store, "a@latest"))``; the copy
    that this makes goes away at the first save. Steps that a resumed training goes over again take the place of the
    stored ones. A training from step 0 in a run that has checkpoints raises Exists before it begins, unless
    ``replace=True``.

    Metrics are the ``eval_`` numbers of that very step and the last ``loss`` that was logged since the checkpoint
    before; ``epoch``, ``best_metric`` and ``best_step`` are in the metadata. In a hyperparameter search the trial's
    folder is appended to the run: ``a/run-3``.

    All processes of a training have to have it; the first one stores, after all have written, and an error is raised
    in all. ``on_no_space="warn"`` lets the training go on when the store's disk is full: the folder stays where it is
    and is stored later, when there is room. ``gc=True`` makes room as the store's policies say.
    """

    def __init__(
        self,
        store: Store | StrPath,
        *,
        run: str,
        delete_source: bool = True,
        replace: bool = False,
        on_no_space: Literal["raise", "warn"] = "raise",
        gc: bool = False,
        tags: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> None:
        one_of("on_no_space", on_no_space, "raise", "warn")
        self.last_checkpoint: Checkpoint | None = None
        """What was stored last, on the first process."""
        self._given = store
        self._run = run
        self._deletes = delete_source
        self._warns = on_no_space == "warn"
        self._gc = gc
        self._tags = tags_of(tags)
        self._meta = dict(meta or {})
        self._steps = Steps(replace)
        self._saved_step = 0
        self._resumed_at: int | None = None
        self._waiting: list[_Folder] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Opens the store, and brings the best folder back if a resumed training lacks it."""
        self._resumed_at = state.global_step or None
        best = on_main(lambda: self._begin(args, state))
        if best is not None:
            state.best_model_checkpoint = best

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stores the folder that was written now. Other ranks may still be writing theirs: all meet here first."""
        if self._resumed_at is not None:
            # Trainer has read it by now, and a long training should not hold that room.
            release_step(self._run, self._resumed_at)
            self._resumed_at = None
        on_main(lambda: self._save(args, state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tries once more to store what there was no room for."""
        on_main(self._store_waiting)

    def _store(self) -> Store:
        store = self._given = store_of(self._given, create=True)
        return store

    def _begin(self, args: TrainingArguments, state: TrainerState) -> str | None:
        store = self._store()
        self._saved_step = state.global_step
        if state.is_hyper_param_search:
            return None
        resume = f'trainer.train(resume_from_checkpoint=ckpt_store.materialize(store, "{self._run}@latest"))'
        self._steps.begin(store, self._run, state.global_step, resume)
        if self._deletes and _uploads_folders(args):
            _log.warning("folders are uploaded to the Hub while the training goes on: they are left where they are")
        self._store_what_a_kill_left(args, state)
        return self._best_brought_back(args, state)

    def _store_what_a_kill_left(self, args: TrainingArguments, state: TrainerState) -> None:
        """Trainer resumed from a folder that it had written, and the process was killed before the store had it."""
        path = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
        if state.global_step == 0 or not path.is_dir() or (path / _NOTE).exists():
            return
        try:
            self._store().checkpoint(f"{self._run}@{state.global_step}")
        except NotFound:
            self._put(self._folder(args, state, since=0))

    def _best_brought_back(self, args: TrainingArguments, state: TrainerState) -> str | None:
        """Trainer loads the best model from its folder, and forgets one that is not there, as on another machine."""
        step = getattr(state, "best_global_step", None)
        if step is None and state.best_model_checkpoint is not None:
            named = _FOLDER.fullmatch(Path(state.best_model_checkpoint).name)
            step = int(named[1]) if named else None
        if not args.load_best_model_at_end or not step or step > state.global_step:
            return None
        if state.best_model_checkpoint is not None and Path(state.best_model_checkpoint).is_dir():
            return None
        folder = Path(str(args.output_dir), f"checkpoint-{step}")
        try:
            best = self._store().checkpoint(f"{self._run}@{step}")
            if self._stored_as(folder) != best.id:
                materialize(self._store(), best.id, folder)
                _note(folder, best, self._store())
        except (NotFound, NoSpace, Exists) as error:
            _log.warning("the best model so far, of step %s, can't be brought back: %s", step, error)
            return None
        return str(folder)

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = self._folder(args, state, self._saved_step)
        (folder.path / _NOTE).unlink(missing_ok=True)
        self._store_waiting()
        self._saved_step = state.global_step
        if self._put(folder) and self._deletes and not _uploads_folders(args):
            self._remove_older(folder.path, state.best_model_checkpoint)

    def _folder(self, args: TrainingArguments, state: TrainerState, since: int) -> _Folder:
        name = f"checkpoint-{state.global_step}"
        path = Path(str(args.output_dir), name)
        if state.is_hyper_param_search:
            # Which trial this is only Trainer knows; its folder is the one that was written now.
            trials = [trial for trial in Path(str(args.output_dir)).glob(f"*/{name}") if trial.is_dir()]
            path = max(trials, key=lambda trial: trial.stat().st_mtime_ns, default=path)
        if not path.is_dir():
            raise NotFound(f"{path}, which Trainer saved, is not there: a callback before StoreCallback took it away")
        run = f"{self._run}/{path.parent.name}" if state.is_hyper_param_search else self._run
        metrics = _metrics(state, since)
        meta = {"epoch": state.epoch, "best_metric": state.best_metric}
        meta["best_step"] = getattr(state, "best_global_step", None)
        told = {key: str(value) for key, value in meta.items() if value is not None}
        return _Folder(path, run, state.global_step, metrics, told | self._meta)

    def _put(self, folder: _Folder) -> bool:
        """Whether there was room for it."""
        files = _files(folder.path)
        try:
            stored = self._store().put(
                folder.path,
                run=folder.run,
                step=folder.step,
                metrics=folder.metrics,
                meta=folder.meta,
                tags=self._tags,
                replace=self._steps.may_replace(folder.run, folder.step),
                gc=self._gc,
            )
        except NoSpace as error:
            if not self._warns:
                raise
            self._waiting.append(folder)
            _log.warning("%s stays where it is, and the training goes on: %s", folder.path, error)
            return False
        self._steps.stored(folder.run, folder.step)
        self.last_checkpoint = stored
        _note(folder.path, stored, self._store(), files)
        _log.info("stored %s as %s in %s", folder.path, stored.ref, self._store().path)
        return True

    def _store_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for folder in waiting:
            # Trainer may have rotated it away meanwhile.
            if folder.path.is_dir():
                self._put(folder)

    def _remove_older(self, newest: Path, best: str | None) -> None:
        """Removes the folders that the store has, but for the newest and the best."""
        needed = {os.path.realpath(path) for path in (newest, best) if path is not None}
        folders = [folder for folder in newest.parent.iterdir() if folder.is_dir() and not folder.is_symlink()]
        for folder in folders:
            try:
                if folder.name.startswith(_REMOVING):
                    remove(folder)
                elif _FOLDER.fullmatch(folder.name) and os.path.realpath(folder) not in needed and self._has(folder):
                    remove(folder.rename(folder.with_name(f"{_REMOVING}{folder.name}")))
                    _log.info("removed %s, which the store has", folder)
            except OSError as error:
                _log.warning("%s can't be removed, and the training goes on: %s", folder, error)

    def _has(self, folder: Path) -> bool:
        """Whether the store has this folder as it is now."""
        try:
            stored = self._stored_as(folder)
            return stored is not None and self._store().checkpoint(stored).id == stored
        except NotFound:
            return False
        except CkptError as error:
            _log.warning("%s is left where it is: %s", folder, error)
            return False

    def _stored_as(self, folder: Path) -> str | None:
        """The id in the folder's note, if its files are still those that were stored."""
        try:
            note = json.loads((folder / _NOTE).read_bytes())
            return str(note["id"]) if note["files"] == _files(folder) else None
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None


@dataclass
class _Folder:
    """A folder of Trainer's and what is stored with it."""

    path: Path
    run: str
    step: int
    metrics: dict[str, float]
    meta: dict[str, str]


def _metrics(state: TrainerState, since: int) -> dict[str, float]:
    """The numbers of this step, and the loss since the checkpoint before; later lines of the log win."""
    found: dict[str, float] = {}
    for line in state.log_history:
        step = line.get("step")
        if step is None or not since < step <= state.global_step:
            continue
        for key, value in line.items():
            evaluated = step == state.global_step and key.startswith("eval_") and not key.endswith(_TIMES)
            if (evaluated or key == "loss") and isinstance(value, Real) and not isinstance(value, bool):
                found[key] = float(value)
    return found


def _uploads_folders(args: TrainingArguments) -> bool:
    return bool(args.push_to_hub) and str(getattr(args.hub_strategy, "value", args.hub_strategy)) in (
        "checkpoint",
        "all_checkpoints",
    )


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time in nanoseconds of each file, but for the note."""
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in _members(folder) if path != _NOTE}


def _members(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for above, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(above, name)
            yield os.path.relpath(path, folder), os.lstat(path)


def _note(folder: Path, stored: Checkpoint, store: Store, files: dict[str, list[int]] | None = None) -> None:
    """Writes down that the store has it. Without the note a folder is only left in place: a full disk is no failure."""
    told = {"store": str(store.path), "id": stored.id, "ref": stored.ref, "files": files or _files(folder)}
    try:
        (folder / _NOTE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        _log.warning("%s is stored as %s, but that can't be written down there: %s", folder, stored.ref, error)
