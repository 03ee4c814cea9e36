"""Files of a distributed checkpoint in memory and in a store, as torch's writers and readers see them. Never on a
disk."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import torch
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem

from . import _core

# Below this a copy costs less than keeping track of where the bytes are.
_COPIED_BELOW = 64 << 10

_Path: TypeAlias = "str | os.PathLike[str]"


class MemoryFiles(FileSystem):  # type: ignore[misc]
    """What a writer writes, as pieces: bytes, and tensors that lie in memory anyway.

    The tensors must stay as they are for as long as the pieces are used.
    """

    def __init__(self) -> None:
        self.files: dict[str, list[_core.Memory | bytes]] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._lock = threading.Lock()

    def lend(self, tensor: torch.Tensor) -> None:
        """Tells of a tensor whose bytes may be written next, and keeps it alive. Only the CPU's can be viewed."""
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        if storage.nbytes() >= _COPIED_BELOW:
            with self._lock:
                self._storages[storage.data_ptr()] = storage

    def memory(self, name: str) -> _core.Memory:
        """A file that was written, as what a store takes."""
        pieces = self.files[name]
        return _core.Memory.joined([_core.Memory.of(one) if isinstance(one, bytes) else one for one in pieces])

    def piece(self, data: Any) -> _core.Memory | bytes:
        """Bytes that are being written, where they lie if a lent tensor holds them, or else a copy."""
        view = memoryview(data).cast("B")
        if len(view) < _COPIED_BELOW or not self._storages:
            return bytes(view)
        try:
            import numpy
        except ImportError:
            return bytes(view)
        at = int(numpy.frombuffer(view, numpy.uint8).ctypes.data)
        # torch writes a storage as a whole.
        with self._lock:
            storage = self._storages.get(at)
        if storage is None or len(view) > storage.nbytes():
            return bytes(view)
        return _core.Memory.at(at, len(view), storage)

    @contextmanager
    def create_stream(self, path: _Path, mode: str) -> Iterator[Any]:
        name = os.fspath(path)
        if "w" in mode:
            with self._lock:
                pieces = self.files[name] = []
            yield _Pieces(self, pieces)
        else:
            raise io.UnsupportedOperation(f"{name} is only written")

    def concat_path(self, path: _Path, suffix: str) -> str:
        return suffix

    def init_path(self, path: _Path) -> str:
        return os.fspath(path)

    def rename(self, path: _Path, new_path: _Path) -> None:
        self.files[os.fspath(new_path)] = self.files.pop(os.fspath(path))

    def mkdir(self, path: _Path) -> None:
        """There are no directories."""

    def exists(self, path: _Path) -> bool:
        return os.fspath(path) in self.files

    def rm_file(self, path: _Path) -> None:
        del self.files[os.fspath(path)]

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: _Path) -> bool:
        return True


class _Pieces(io.RawIOBase):
    """A file that is being written at its end."""

    def __init__(self, files: MemoryFiles, pieces: list[_core.Memory | bytes]) -> None:
        super().__init__()
        self._files = files
        self._pieces = pieces
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = self._files.piece(data)
        size = len(piece)
        if size:
            self._pieces.append(piece)
            self._size += size
        return size

    def tell(self) -> int:
        return self._size


class Lending:
    """A planner that tells :class:`MemoryFiles` of each tensor which it resolves; in all else it is the other
    planner."""

    def __init__(self, planner: SavePlanner, files: MemoryFiles) -> None:
        self._planner = planner
        self._files = files

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        data = self._planner.resolve_data(write_item)
        if isinstance(data, torch.Tensor):
            self._files.lend(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)


class StoredFiles(FileSystem):  # type: ignore[misc]
    """The files of one checkpoint of a store, to be read."""

    def __init__(self, opened: Callable[[str], BinaryIO]) -> None:
        self._open = opened

    @contextmanager
    def create_stream(self, path: _Path, mode: str) -> Iterator[Any]:
        with self._open(os.fspath(path)) as stream:
            yield stream

    def concat_path(self, path: _Path, suffix: str) -> str:
        return suffix

    def init_path(self, path: _Path) -> str:
        return os.fspath(path)

    def rename(self, path: _Path, new_path: _Path) -> None:
        raise io.UnsupportedOperation("a checkpoint in a store never changes")

    def mkdir(self, path: _Path) -> None:
        raise io.UnsupportedOperation("a checkpoint in a store never changes")

    def exists(self, path: _Path) -> bool:
        raise io.UnsupportedOperation("the metadata says which files there are")

    def rm_file(self, path: _Path) -> None:
        raise io.UnsupportedOperation("a checkpoint in a store never changes")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: _Path) -> bool:
        return True
