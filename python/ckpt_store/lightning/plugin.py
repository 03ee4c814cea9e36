"""The Trainer's plugin: what is saved goes into a store, and a stub to its path. Never changes what Lightning saves."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from .._arguments import at_least_one, one_of, tags_of
from ..checkpoint import Checkpoint
from ..errors import Busy, CkptError, Exists, NoSpace, NotFound, Unavailable
from ..store import Store, directory_of
from . import facts, stub_files
from .base import CheckpointIO, rank, register, torch_io
from .loading import resolved, weights_only_of
from .stub import Stub
from .stub_files import Place

log = logging.getLogger("ckpt_store")

_OPTIONS = {"run", "step", "metrics", "meta", "tags"}


class StoreCheckpointIO(CheckpointIO):  # type: ignore[misc]  # its own types are not followed
    """Saves a Trainer's checkpoints into a store, and loads them from stubs, from refs such as ``a@latest``, and from
    plain files.

    Args:
        store: The store, or the path of one, which is made when there is none.
        run: The run that the checkpoints belong to. Or a function of the path and the checkpoint that answers it, for a
            run of its own for each ``ModelCheckpoint``. By default it is named as the directory:
            ``lightning_logs/version_3``.
        on_no_space: What a disk too full does to the training: ``"raise"`` ends it with :class:`ckpt_store.NoSpace`;
            with ``"warn"`` the checkpoint is not saved, a warning is logged, and the training goes on. Until a
            checkpoint can be saved again nothing that ``ModelCheckpoint`` removes is removed, because it counts on what
            it believes to have saved.
        drop_removed: Whether a checkpoint that ``ModelCheckpoint`` removes is dropped from the store. ``False`` keeps
            the history of a training that sees its top k only. Those that are pinned or tagged, or that another stub
            beside it names, stay.
        gc_every: After how many dropped checkpoints their room is freed. That is ``Store.gc()``, which also applies the
            policies of the store, if it has any. It is done as well when the training ends, and when the disk is too
            full to save. ``None``: never.

    A step that the run has already is never replaced, but when it is saved to the same path again: it goes to a run
    beside it, ``a/last`` for ``last.ckpt``, else ``a/2`` and so on. What both have in common is stored once.
    """

    def __init__(
        self,
        store: Store | Place,
        run: str | Callable[[str, Mapping[str, Any]], str] | None = None,
        *,
        on_no_space: Literal["raise", "warn"] = "raise",
        drop_removed: bool = True,
        gc_every: int | None = 10,
    ) -> None:
        one_of("on_no_space", on_no_space, "raise", "warn")
        at_least_one("gc_every", gc_every)
        register(type(self))
        self._opened = store if isinstance(store, Store) else None
        self._path = store.path if isinstance(store, Store) else directory_of(store)
        self._run = run
        self._on_no_space = on_no_space
        self._drop_removed = drop_removed
        self._gc_every = gc_every
        self._saved: set[str] = set()
        self._dropped = 0
        self._failed = False
        self._told: set[str] = set()
        # A path that can't be a store should not be found out after an hour of training. But only one rank makes it.
        if rank() == 0:
            _ = self.store

    @property
    def store(self) -> Store:
        """The store; made if it isn't there."""
        if self._opened is None:
            self._opened = Store(self._path)
        return self._opened

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Place, storage_options: Any | None = None) -> None:
        """Stores a checkpoint and leaves its stub at ``path``. The checkpoint is durable when this returns.

        ``storage_options`` of ``trainer.save_checkpoint`` may hold ``run``, ``step``, ``metrics``, ``meta`` and
        ``tags``, in the place of, or in addition to, what the checkpoint tells.
        """
        about = self._about(checkpoint, path, storage_options)
        old = stub_files.read(path)
        self._finish(lambda: self._stored(checkpoint, path, about, old), path)

    def load_checkpoint(
        self, path: Place, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads what a stub, a plain checkpoint file, or a ref of the store names; onto the CPU unless told otherwise.

        Raises:
            FileNotFoundError: It is neither.
            NotFound: It is a stub, and its checkpoint has been dropped.
        """
        stub = stub_files.read(path)
        if stub is None and stub_files.exists(path):
            given = {"map_location": map_location, "weights_only": weights_only}
            given = {name: value for name, value in given.items() if value is not None}
            found: dict[str, Any] = torch_io().load_checkpoint(path, **given)
            return found
        own = self._opened
        if own is None and (stub is None or (self._path / "FORMAT").exists()):
            own = Store(self._path, create=False)
        store, held = resolved(path, stub, own)
        file = stub.file if stub is not None else None
        map_location = "cpu" if map_location is None else map_location
        loaded: dict[str, Any] = store.load(
            held.id, file=file, map_location=map_location, weights_only=weights_only_of(weights_only)
        )
        return loaded

    def remove_checkpoint(self, path: Place) -> None:
        """Removes a stub and drops its checkpoint from the store; a file or directory that is no stub is just
        removed."""
        if self._failed:
            log.warning("%s stays: what was to replace it could not be stored", path)
            return
        stub = None if stub_files.is_link(path) else stub_files.read(path)
        stub_files.remove(path)
        if stub is not None:
            self._drop(stub, path)

    def teardown(self) -> None:
        """Frees the room of what was dropped."""
        super().teardown()
        if self._dropped and self._gc_every is not None:
            self._collect()

    def _about(self, checkpoint: Mapping[str, Any], path: Place, options: Any) -> dict[str, Any]:
        """The arguments of ``Store.save`` but the object itself."""
        options = {} if options is None else options
        if not isinstance(options, Mapping) or not _OPTIONS.issuperset(options):
            known = ", ".join(sorted(_OPTIONS))
            raise TypeError(f"storage_options of {type(self).__name__} is a dict with any of {known}")
        strategy, trainer = facts.caller()
        self._warn_of(strategy)
        run = options.get("run", self._run)
        if callable(run):
            run = run(os.fspath(path), checkpoint)
        meta = {"epoch": str(checkpoint["epoch"])} if isinstance(checkpoint.get("epoch"), int) else {}
        return {
            "run": facts.run_of(path) if run is None else run,
            "step": options.get("step", facts.step_of(checkpoint)),
            "metrics": {**facts.metrics_of(checkpoint, path, trainer), **options.get("metrics", {})},
            "meta": {**meta, **options.get("meta", {})},
            "tags": tags_of(options.get("tags", ())),
            "file": Path(os.fspath(path)).name,
            "gc": self._gc_every is not None,
        }

    def _warn_of(self, strategy: Any) -> None:
        kinds = {kind.__name__ for kind in type(strategy).__mro__}
        if kinds & {"FSDPStrategy", "ModelParallelStrategy"} and "sharded" not in self._told:
            self._told.add("sharded")
            log.warning(
                "%s stores checkpoints by way of a CheckpointIO, but reads them without it: to resume, get the file "
                "first (Store.get, or the command in the stub) and give its path to the Trainer",
                type(strategy).__name__,
            )

    def _stored(
        self, checkpoint: Mapping[str, Any], path: Place, about: dict[str, Any], old: Stub | None
    ) -> Checkpoint:
        for attempt in range(3):
            run, replace = self._place(about["run"], about["step"], path, old)
            try:
                return self.store.save(checkpoint, **{**about, "run": run, "replace": replace})
            except Exists:
                # Another process took the step meanwhile; the next look sees it.
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _place(self, run: str, step: int | None, path: Place, old: Stub | None) -> tuple[str, bool]:
        """The run in which the step is free, and whether what it has there is this path's own, to be replaced."""
        names, last = [run], 1
        if facts.stem_of(path):
            names.append(f"{run}/{facts.stem_of(path)}")
        while True:
            if not names:
                last += 1
                names.append(f"{run}/{last}")
            name = names.pop(0)
            held = None if step is None else self._held(f"{name}@{step}")
            if held is None:
                return name, False
            if old is not None and held.id == old.id and self._may_go(held, path):
                return name, True
            if held.id not in self._saved and name not in self._told:
                self._told.add(name)
                log.warning(
                    "run %s has step %s already, from another training or from before it was resumed; it stays, and "
                    "the new one goes to a run beside it. Give each training a run of its own",
                    name,
                    step,
                )

    def _finish(self, result: Callable[[], Checkpoint], path: Place) -> None:
        """Waits for a save, puts the stub in its place, and drops what the one that was there named."""
        failed, self._failed = self._failed, True
        try:
            kept = result()
            self._saved.add(kept.id)
            linked = stub_files.is_link(path)
            old = stub_files.read(path)
            directory = stub_files.local(path)
            beside = None if directory is None else directory.absolute().parent
            file = Path(os.fspath(path)).name
            stub_files.write(path, Stub.of(kept, store=self._path, file=file, beside=beside))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            stub = f"no room left for the stub {os.fspath(path)}: {error}"
            full = error if isinstance(error, NoSpace) else NoSpace(stub)
            if self._on_no_space == "raise":
                raise full from error
            log.warning("%s is not stored, and the training goes on: %s", path, full)
            return
        except KeyboardInterrupt:
            self._failed = failed
            raise
        self._failed = False
        if old is not None and old.id != kept.id and not linked:
            self._drop(old, path)

    def _drop(self, stub: Stub, path: Place) -> None:
        """Drops what a stub named that isn't at ``path`` any more. A failure leaves it in the store, which harms
        nobody."""
        if not self._drop_removed:
            return
        try:
            held = self._held(stub.id)
            if held is None or not self._may_go(held, path):
                return
            self.store.rm(held.id)
        except (Busy, NoSpace, NotFound, Unavailable) as error:
            log.warning("%s stays in the store: %s", stub.ref, error)
            return
        self._dropped += 1
        if self._gc_every is not None and self._dropped >= self._gc_every:
            self._collect()

    def _may_go(self, held: Checkpoint, path: Place) -> bool:
        return not held.pinned and not held.tags and not stub_files.named_beside(path, held.id)

    def _held(self, ref: str) -> Checkpoint | None:
        try:
            return self.store.checkpoint(ref)
        except NotFound:
            return None

    def _collect(self) -> None:
        self._dropped = 0
        try:
            self.store.gc()
        except CkptError as error:
            log.warning("the room of dropped checkpoints was not freed: %s", error)

    def __getstate__(self) -> dict[str, Any]:
        # As spawned ranks get it: they open the store themselves.
        return {**self.__dict__, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register(type(self))
