"""A store as the storage of torch.distributed.checkpoint: every rank writes its own part, the coordinator makes them
one checkpoint. Never writes a file outside of the store.

    import torch.distributed.checkpoint as dcp
    from ckpt_store.dcp import StoreReader, StoreWriter

    dcp.save(state, storage_writer=StoreWriter("runs/store", run="a", step=100))
    dcp.load(state, storage_reader=StoreReader("runs/store", "a@latest"))
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace as with_fields
from typing import Any, BinaryIO, cast

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from . import _core, errors
from ._arguments import FILE_MODE, Label
from ._dcp_files import Lending, MemoryFiles, StoredFiles
from ._dcp_rows import read_rows
from .checkpoint import Checkpoint
from .store import Store, StrPath, store_of

__all__ = ["StoreReader", "StoreWriter"]

# Under this name a rank's part travels to the coordinator among the results of writing; no tensor can be called so.
_PART = MetadataIndex("\0ckpt_store part")


class StoreWriter(FileSystemWriter):  # type: ignore[misc]
    """Writes the checkpoint of a run and step; every rank makes one for the same store.

    The checkpoint has the files that torch's ``FileSystemWriter`` would have written, so `ckpt get` gives a directory
    that ``FileSystemReader`` loads. ``single_file_per_rank``, ``thread_count`` and ``cache_staged_state_dict`` are as
    there. ``replace=True`` takes the place of a checkpoint of the same step; otherwise that is :class:`Exists`, before
    anything is written. ``metrics``, ``meta`` and ``tags`` are those of the coordinator.

    A failure on any rank raises torch's ``CheckpointException`` on all, with each rank's error in ``failures``, and the
    store holds what it held.
    """

    def __init__(
        self,
        store: Store | StrPath,
        *,
        run: str,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        meta: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        replace: bool = False,
        single_file_per_rank: bool = True,
        thread_count: int = 1,
        cache_staged_state_dict: bool = False,
    ) -> None:
        # What is wrong is said before anything is written.
        label = Label.of(run, step, metrics, meta, tags, replace)
        super().__init__(
            str(label),
            single_file_per_rank=single_file_per_rank,
            sync_files=False,
            thread_count=thread_count,
            cache_staged_state_dict=cache_staged_state_dict,
        )
        self.store = store_of(store, create=True)
        self.run = run
        self.step = label.step
        self.metrics = label.metrics
        self.meta = label.meta
        self.tags = label.tags
        self.replace = replace
        self.checkpoint: Checkpoint | None = None
        """What was stored; on the coordinator, once it is."""
        self.path = str(label)
        self.fs = self._files = MemoryFiles()
        self._part: _core.Part | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begins a new checkpoint: of the same run and step, or of those that ``checkpoint_id`` names as
        ``RUN@STEP``."""
        if checkpoint_id is not None:
            self.run, self.step = _run_and_step(checkpoint_id)
        super().reset()
        self.path = _name(self.run, self.step)
        self._let_go()
        self.checkpoint = None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise errors.Unsupported("without collectives no rank knows when all have written: use_collectives=True")
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        self._let_go()
        if is_coordinator and self.step is not None and not self.replace:
            # Told before anything is written; that nobody was faster is told when it is committed.
            try:
                self.store.checkpoint(self.checkpoint_id)
            except errors.NotFound:
                return
            raise errors.Exists(f"{self.path} is there already: another step, or replace=True")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written = super().write_data(plan, cast(SavePlanner, Lending(planner, self._files)))
        written.wait()
        results = written.value()
        # Kept until the checkpoint is committed or given up: as long as it lives, gc leaves what was written.
        self._part = self.store._core.prepare(_given(self._files))
        self.fs = self._files = MemoryFiles()
        done: Future[list[WriteResult]] = Future()
        done.set_result([*results, WriteResult(_PART, 0, self._part.to_bytes())])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        everything = [result for of_rank in results for result in of_rank]
        parts = [result.storage_data for result in everything if result.index == _PART]
        super().finish(metadata, [[result for result in everything if result.index != _PART]])
        label = Label.of(self.run, self.step, self.metrics, self.meta, self.tags, self.replace)
        root = "checkpoint" if self.step is None else f"step={self.step}"
        entry = self.store._core.commit_parts(
            parts,
            _given(self._files),
            root,
            label.run,
            label.step,
            label.metrics,
            label.meta,
            label.tags,
            label.replace,
        )
        self.checkpoint = Checkpoint._of(entry)
        self.fs = self._files = MemoryFiles()

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self.save_id)

    @property
    def checkpoint_id(self) -> str:
        return str(self.path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether this is ``RUN@STEP``."""
        try:
            _run_and_step(checkpoint_id)
        except errors.Invalid:
            return False
        return True

    def _let_go(self) -> None:
        """Of a part that was prepared and is now in a checkpoint, or never will be."""
        self._part = None
        self.fs = self._files = MemoryFiles()

    def __getstate__(self) -> dict[str, Any]:
        # For async_save in a process of its own.
        return self.__dict__ | {"store": os.fspath(self.store.path), "fs": None, "_files": None, "_part": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.store = Store(state["store"])
        self._let_go()


class StoreReader(FileSystemReader):  # type: ignore[misc]
    """Reads a checkpoint that :class:`StoreWriter` wrote, or any stored directory of ``FileSystemWriter``, in a world
    of any size.

    Each rank reads the bytes that its plan needs. All ranks must find the same checkpoint behind ``ref``; if one is
    stored just then, ``RUN@latest`` may not be. As with ``FileSystemReader``, the metadata is a pickle: load what you
    trust.
    """

    def __init__(self, store: Store | StrPath, ref: str) -> None:
        super().__init__(ref)
        self.store = store_of(store, create=False)
        self.path = ref
        self.fs = StoredFiles(self._open)
        self._found: Checkpoint | None = None
        self._failure: Exception | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        ref = self.path if checkpoint_id is None else os.fspath(checkpoint_id)
        super().reset()
        self.path = ref
        self._found = self._failure = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if kwargs.get("rank") is not None:
            # torch asks for a rank's own when it can't read those of the whole, and tells of this failure alone.
            raise self._failure or errors.NotFound(f"{self.path} has no metadata of its ranks")
        try:
            self._found = self.store.checkpoint(self.checkpoint_id)
            return super().read_metadata()
        except Exception as error:
            self._failure = error
            raise

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return with_fields(plan, storage_data=self._found.id if self._found else None)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        found = {plan.storage_data for plan in plans}
        if len(found) > 1:
            told = " and ".join(sorted(map(str, found)))
            raise errors.Changed(f"{self.path} named {told} for different ranks: name the step")
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        def place(item: ReadItem) -> tuple[str, int]:
            info = self.storage_data[item.storage_index]
            return info.relative_path, info.offset

        # In the order of the files, because neighbors share chunks.
        items = sorted(plan.items, key=place)
        whole: list[ReadItem] = []
        for path, of_file in itertools.groupby(items, key=lambda item: place(item)[0]):
            with self.fs.create_stream(path, "rb") as file:
                whole += [item for item in of_file if not self._read_rows(file, item, planner)]
        return super().read_data(with_fields(plan, items=whole), planner)

    @property
    def checkpoint_id(self) -> str:
        return str(self.path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether this can be a ref."""
        return bool(os.fspath(checkpoint_id))

    def _open(self, file: str) -> BinaryIO:
        ref = self._found.id if self._found else str(self.path)
        return cast(BinaryIO, self.store.open(ref, file))

    def _read_rows(self, file: Any, item: ReadItem, planner: LoadPlanner) -> bool:
        """Reads an item that is some rows of what was written in one piece; whether it was."""
        if item.type != LoadItemType.TENSOR or not item.lengths:
            return False
        info = self.storage_data[item.storage_index]
        if getattr(info, "transform_descriptors", None):
            return False
        rows = read_rows(file, info.offset, info.length, item.storage_offsets[0], item.lengths)
        # Of another form, or only a part of each row: as torch does it.
        if rows is None:
            return False
        target = planner.resolve_tensor(item).detach()
        if target.size() != rows.size():
            here, there = tuple(target.shape), tuple(rows.shape)
            raise errors.Invalid(f"{item.dest_index.fqn} is {there} in {self.path}, and {here} here")
        with torch.no_grad():
            target.copy_(rows)
        planner.commit_tensor(item, target)
        return True


def _name(run: str, step: int | None) -> str:
    return run if step is None else f"{run}@{step}"


def _run_and_step(checkpoint_id: str | os.PathLike[str]) -> tuple[str, int | None]:
    text = os.fspath(checkpoint_id)
    run, at, step = text.partition("@")
    if not run or (at and not (step.isascii() and step.isdigit())):
        raise errors.Invalid(f"{text!r} is no RUN@STEP to write to")
    return run, int(step) if at else None


def _given(files: MemoryFiles) -> list[tuple[str, int, _core.Memory]]:
    return [(name, FILE_MODE, files.memory(name)) for name in sorted(files.files)]
