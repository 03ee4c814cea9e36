"""The class Store: everything that people do with a store from Python. Never imports a framework before a tensor is at
hand, and never decides which checkpoints may go: that is what :meth:`Store.gc` is told.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _core
from ._arguments import FILE_MODE, Label, at_least_one, one_of
from .checkpoint import Checkpoint, GcReport, StoredFile
from .errors import Invalid, NotFound
from .file import StoreFile, chosen
from .saving import Background, SaveHandle

if TYPE_CHECKING:
    import torch

StrPath: TypeAlias = "str | os.PathLike[str]"


class Store:
    """A store of checkpoints in a directory. May be used by many threads and processes at once, and after a fork.

    Args:
        path: The directory. Made, with its parents, when there is no store in it. A ``~`` is the home directory.
        create: Whether it is made; otherwise its absence is :class:`NotFound`.

    A *ref* names a checkpoint: ``RUN@STEP``, ``RUN@latest``, ``RUN@latest-good``, ``RUN@best``, ``RUN@TAG``, ``RUN``
    (the latest), or its id.
    """

    def __init__(self, path: StrPath, *, create: bool = True) -> None:
        self.path = directory_of(path)
        """Its directory."""
        self._core = _core.Store(self.path, create)
        self._background = Background()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # DataLoader workers and spawned ranks get a store by its path.
        return store_of, (str(self.path), False)

    # Storing.

    def put(
        self,
        path: StrPath | Sequence[StrPath],
        *,
        run: str,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        meta: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        replace: bool = False,
        gc: bool = False,
    ) -> Checkpoint:
        """Stores files or directories as one checkpoint. It is durable when this returns.

        Args:
            path: A file, a directory, or several of them. They must not change until this returns.
            run: The run that it belongs to.
            step: Its training step. None means that it has none; a name is not looked at.
            metrics: Numbers such as ``{"val_loss": 0.31}``; tensors of one element will do.
            meta: Free-form texts.
            tags: Names for it.
            replace: Whether a checkpoint of the same run and step gives way; otherwise that is :class:`Exists`.
            gc: Whether to make room as the store's policies say, when there is too little.

        Raises:
            NoSpace: The disk is too full. Nothing was changed.
        """
        label = Label.of(run, step, metrics, meta, tags, replace)
        paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        return self._put(label, paths, [], None, gc)

    def save(
        self,
        obj: object,
        *,
        run: str,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        meta: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        replace: bool = False,
        gc: bool = False,
        file: str = "checkpoint.pt",
    ) -> Checkpoint:
        """Stores what ``torch.save(obj, file)`` would write, straight from memory, as a checkpoint of one file.

        Tensors are read where they lie; those on a GPU come through a little pinned memory. None of them may change
        until this returns. What the store has already is hashed and not written, so an unchanged model costs a fraction
        of ``torch.save``. Arguments and errors are those of :meth:`put`.
        """
        from .copies import memory_of
        from .skeleton import take_apart

        label = Label.of(run, step, metrics, meta, tags, replace)
        skeleton = take_apart(obj)
        given = [(file, FILE_MODE, self._archive(skeleton.leading_records(), memory_of(skeleton.storages)))]
        return self._put(label, [], given, None, gc)

    def save_async(
        self,
        obj: object,
        *,
        run: str,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        meta: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        replace: bool = False,
        gc: bool = False,
        file: str = "checkpoint.pt",
    ) -> SaveHandle:
        """As :meth:`save`, but returns as soon as the tensors are copied; the training may go on and change them.

        One save is under way at a time: the next one waits for it, and raises what it failed with if nobody has asked
        its handle. The memory of the copy, as large as the state, is kept for the next save.
        """
        label = Label.of(run, step, metrics, meta, tags, replace)

        def store(records: Sequence[tuple[str, bytes]], copies: Sequence[_core.Memory]) -> Checkpoint:
            return self._put(label, [], [(file, FILE_MODE, self._archive(records, copies))], None, gc)

        return self._background.save(str(label), obj, store)

    def wait(self) -> None:
        """Waits for the save that is under way, if any, and raises what it failed with if nobody has asked its
        handle."""
        self._background.wait()

    # Reading.

    def load(
        self,
        ref: str,
        *,
        file: str | None = None,
        map_location: Any = None,
        weights_only: bool = True,
    ) -> Any:
        """Loads what was saved, as ``torch.load`` does.

        Args:
            ref: Which checkpoint.
            file: Which of its files, by its path; none means the only one that can be loaded. One of safetensors is a
                dict of tensors.
            map_location: As for ``torch.load``.
            weights_only: As for ``torch.load``: False runs code that a pickle names.
        """
        from . import loading

        with self.open(ref, file) as opened:
            return loading.load(opened, map_location, weights_only)

    def load_tensors(
        self, ref: str, *patterns: str, device: torch.device | str = "cpu", files: Sequence[str] = ()
    ) -> dict[str, torch.Tensor]:
        """Loads tensors by name from a checkpoint of any format; only their bytes are read.

        Args:
            ref: Which checkpoint.
            patterns: Globs over the names that ``ckpt show REF --tensors`` tells; none means all.
            device: Where to.
            files: Only tensors of files whose path matches one of these globs.
        """
        from . import tensors

        return tensors.load(self._core.open(ref), patterns, device, files)

    def open(self, ref: str, file: str | None = None) -> StoreFile:
        """Opens a file of a checkpoint for reading: the one of this path, or the only one.

        The checkpoint's bytes stay in the store as long as the file is open, whoever drops it.
        """
        reader = self._core.open(ref)
        files = [(index, found) for index, found in enumerate(reader.files()) if found["kind"] == "file"]
        index, found = chosen(ref, files, file)
        return StoreFile(reader, index, found["path"], found["size"])

    def files(self, ref: str) -> list[StoredFile]:
        """The files of a checkpoint, in the order of their paths."""
        return [StoredFile._of(file) for file in self._core.open(ref).files()]

    def get(self, ref: str, dest: StrPath, *, files: Sequence[str] = (), force: bool = False) -> Path:
        """Gives a checkpoint's files back, byte for byte, as ``ckpt get`` does; answers where they are.

        Args:
            ref: Which checkpoint.
            dest: As with ``cp``: into a directory that exists, else it becomes the file or the directory.
            files: Only files whose paths match one of these globs.
            force: Whether what is there already gives way.
        """
        return Path(self._core.get(ref, os.path.abspath(dest), list(files), force))

    # What there is.

    def runs(self) -> list[str]:
        """The names of all runs, sorted."""
        return sorted({entry["run"] for entry in self._core.checkpoints(None)})

    def checkpoints(self, run: str | None = None) -> list[Checkpoint]:
        """The checkpoints of a run, or all, in the order in which they were stored; :class:`NotFound` for no such
        run."""
        return [Checkpoint._of(entry) for entry in self._core.checkpoints(run)]

    def checkpoint(self, ref: str) -> Checkpoint:
        """The checkpoint that a ref names."""
        return Checkpoint._of(self._core.resolve(ref))

    def latest(self, run: str) -> Checkpoint | None:
        """The checkpoint of a run that was stored last, if there is any."""
        try:
            return self.checkpoint(f"{run}@latest")
        except NotFound:
            return None

    def best(self, run: str, metric: str, mode: str = "min") -> Checkpoint | None:
        """The checkpoint of a run with the smallest (``mode="min"``) or largest (``"max"``) value of a metric, if any
        has it.

        Of two that are equal it is the later one.
        """
        one_of("mode", mode, "min", "max")
        sign = 1.0 if mode == "min" else -1.0
        try:
            found = self.checkpoints(run)
        except NotFound:
            return None
        known = [one for one in reversed(found) if not math.isnan(one.metrics.get(metric, math.nan))]
        return min(known, key=lambda one: sign * one.metrics[metric], default=None)

    def stats(self) -> dict[str, Any]:
        """What the store holds and what is left of the disk, in bytes: ``logical_bytes`` (as files), ``stored_bytes``,
        ``reclaimable_bytes``, ``free_bytes``, ``checkpoints``, ``growth_bytes`` (for each new checkpoint), and the same
        for each of the ``runs``.
        """
        return self._core.stats()

    def verify(self, ref: str | None = None, *, quick: bool = False) -> dict[str, Any]:
        """Reads everything back, or one checkpoint, and checks it; ``quick`` leaves the chunks' bytes unread.

        Answers ``sound``, ``checkpoints``, ``chunks``, ``bytes``, ``damaged`` (what checkpoints suffer) and ``objects``
        (parts of the store that are damaged in themselves).
        """
        return self._core.verify(ref, quick)

    # What stays.

    def rm(self, *refs: str) -> list[Checkpoint]:
        """Drops checkpoints; all of them or none. :meth:`gc` frees their room."""
        return [Checkpoint._of(entry) for entry in self._core.remove(list(refs))]

    def tag(self, ref: str, name: str) -> Checkpoint:
        """Gives a checkpoint a name, which no other one of its run has then; tagged ones are kept from every policy."""
        return Checkpoint._of(self._core.tag(ref, name))

    def untag(self, ref: str, name: str | None = None) -> Checkpoint:
        """Takes a name away from a checkpoint; ``untag("a@best-so-far")`` takes that one."""
        return Checkpoint._of(self._core.untag(ref, name))

    def pin(self, ref: str) -> Checkpoint:
        """Keeps a checkpoint from every policy."""
        return Checkpoint._of(self._core.pin(ref, True))

    def unpin(self, ref: str) -> Checkpoint:
        """Keeps it no longer."""
        return Checkpoint._of(self._core.pin(ref, False))

    def gc(
        self,
        *,
        run: str | None = None,
        keep_last: int | None = None,
        keep_best: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        keep_every: int | None = None,
        keep_within: timedelta | None = None,
        dry_run: bool = False,
    ) -> GcReport:
        """Drops checkpoints, and frees what nothing uses any more.

        A checkpoint stays when any rule keeps it; the newest of a run, pinned and tagged ones always stay. Without a
        rule the store's own policies say (``ckpt policy``), and without those none is dropped.

        Args:
            run: Only runs of this name, which may be a glob; none means all.
            keep_last: Keeps this many that were stored last.
            keep_best: Keeps this many with the best ``metric``; ``mode`` says whether ``"min"`` or ``"max"`` is good,
                where the metric's name doesn't (a loss and an accuracy do).
            keep_every: Keeps those whose step is a multiple of this.
            keep_within: Keeps those not older than this.
            dry_run: Tells what would be done, and does nothing.
        """
        if (keep_best is None) != (metric is None):
            raise Invalid("keep_best and metric go together: keep_best=3, metric='val_loss'")
        for name, count in (("keep_last", keep_last), ("keep_best", keep_best), ("keep_every", keep_every)):
            at_least_one(name, count)
        best = None if keep_best is None or metric is None else (keep_best, metric, mode)
        within = None if keep_within is None else int(keep_within.total_seconds() * 1000)
        return GcReport._of(self._core.gc(run, keep_last, best, keep_every, within, dry_run), dry_run)

    # For the hooks.

    def _archive(self, records: Sequence[tuple[str, bytes]], storages: Sequence[_core.Memory]) -> _core.Memory:
        named = [(name, _core.Memory.of(bytes_)) for name, bytes_ in records]
        named += [(f"data/{number}", memory) for number, memory in enumerate(storages)]
        return self._core.torch_archive(named)

    def _put(
        self,
        label: Label,
        paths: Sequence[StrPath],
        given: Sequence[tuple[str, int, _core.Memory]],
        root: str | None,
        gc: bool,
    ) -> Checkpoint:
        entry = self._core.put(
            [os.path.abspath(path) for path in paths],
            given,
            root,
            label.run,
            label.step,
            label.metrics,
            label.meta,
            label.tags,
            label.replace,
            gc,
        )
        return Checkpoint._of(entry)


def directory_of(store: StrPath) -> Path:
    """The directory that a store's path means, wherever the process goes afterwards."""
    return Path(os.path.abspath(os.path.expanduser(store)))


def store_of(store: Store | StrPath, create: bool) -> Store:
    """The store itself, or the one in that directory; ``create`` says whether it is made."""
    return store if isinstance(store, Store) else Store(store, create=create)
