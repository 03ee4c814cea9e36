"""A file of a checkpoint as a Python file, read-only and seekable. Never holds more of it than a block."""

from __future__ import annotations

import ctypes
import errno
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import Invalid, NotFound

if TYPE_CHECKING:
    from ._core import Reader

_LOADABLE = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_BLOCK_BYTES = 128 << 10
"""What a small read brings along, because unpickling asks for a few bytes at a time and each turn to the core costs."""


def chosen(ref: str, files: Sequence[tuple[int, dict[str, Any]]], path: str | None) -> tuple[int, dict[str, Any]]:
    """Of the files of a checkpoint, with their numbers, the one of that path, or the only one, or the only one that
    holds tensors by its name."""
    names = ", ".join(found["path"] for _, found in files[:10])
    if path is not None:
        for index, found in files:
            if found["path"] == path:
                return index, found
        raise NotFound(f"no file {path!r} in {ref}; it has {names}")
    loadable = [one for one in files if one[1]["path"].endswith(_LOADABLE)]
    for candidates in (files, loadable):
        if len(candidates) == 1:
            return candidates[0]
    raise Invalid(f"{ref} has {len(files)} files; say which one is meant: {names}")


class StoreFile(io.RawIOBase):
    """One file of an open checkpoint.

    Reads come straight from the store, each chunk checked by its BLAKE3, in parallel where a read is large. Good for
    ``torch.load``, ``numpy.load``, ``h5py.File``, ``zipfile.ZipFile`` and whatever else reads files.
    """

    def __init__(self, reader: Reader, index: int, path: str, size: int) -> None:
        super().__init__()
        self._reader: Reader | None = reader
        self._index = index
        self._at = 0
        self._block = (0, b"")
        self.name = path
        """Its path inside the checkpoint."""
        self.size = size
        """Bytes."""
        self.mode = "rb"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._open()
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}.get(whence)
        if start is None:
            raise ValueError(f"whence is {whence}, which is neither 0, 1 nor 2")
        if start + offset < 0:
            # As of a file on a disk, which zipfile counts on.
            raise OSError(errno.EINVAL, f"can't go to {start + offset} of {self.name}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills a writable buffer from where the file is; answers how many bytes there were."""
        view = memoryview(buffer).cast("B")
        if len(view) < _BLOCK_BYTES:
            block, begin = self._ahead(len(view))
            piece = block[begin : begin + len(view)]
            count = len(piece)
            view[:count] = piece
        else:
            count = self.pread_into(view, self._at)
        self._at += count
        return count

    def peek(self, size: int = 1) -> bytes:
        """The bytes that come next, without going on: ``size`` of them or more, fewer only at the end or beyond a
        block."""
        block, begin = self._ahead(max(size, 1))
        return block[begin:]

    def _ahead(self, size: int) -> tuple[bytes, int]:
        """A block, and where in it the bytes that come next begin, ``size`` of them or all that there are up to a
        block."""
        self._open()
        start, block = self._block
        wanted = min(size, _BLOCK_BYTES, max(self.size - self._at, 0))
        if not start <= self._at <= start + len(block) - wanted:
            read = bytearray(min(_BLOCK_BYTES, max(self.size - self._at, 0)))
            start, block = self._block = self._at, bytes(memoryview(read)[: self.pread_into(read, self._at)])
        return block, self._at - start

    def pread_into(self, buffer: Any, offset: int) -> int:
        """Fills a writable buffer from ``offset``, wherever the file is; threads may do so at once."""
        reader = self._open()
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("the buffer can't be written to")
        if len(view) == 0:
            return 0
        # Keeps the buffer where it is while its address is in use.
        held = (ctypes.c_char * len(view)).from_buffer(view)
        return reader.read_at(self._index, offset, ctypes.addressof(held), len(view))

    def read_many(self, wanted: list[tuple[int, int, int]]) -> None:
        """Reads many ranges at once, by all threads: offset, bytes, and the address in memory that the caller holds."""
        self._open().read_many([(self._index, offset, count, address) for offset, count, address in wanted])

    def readall(self) -> bytes:
        return self.read(max(self.size - self._at, 0)) or b""

    def tensors(self, device: Any) -> Any:
        """The tensors of this file by their names, as :meth:`ckpt_store.Store.load_tensors` gives those of a
        checkpoint."""
        from . import tensors

        return tensors.load_file(self._open(), self._index, device)

    def write(self, _: Any) -> int:
        raise io.UnsupportedOperation(f"{self.name} is a file of a checkpoint, which never changes")

    def close(self) -> None:
        self._reader = None
        self._block = (0, b"")
        super().close()

    def _open(self) -> Reader:
        if self._reader is None:
            raise ValueError(f"{self.name} is closed")
        return self._reader

    def __repr__(self) -> str:
        return f"<StoreFile {self.name!r}, {self.size} bytes>"
