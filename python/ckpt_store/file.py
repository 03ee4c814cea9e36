"""A file of a checkpoint as a Python file, read-only and seekable. Never holds more of it than the core's cache."""

from __future__ import annotations

import ctypes
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._core import Reader


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
            raise ValueError(f"can't go to {start + offset} of {self.name}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills a writable buffer from where the file is; answers how many bytes there were."""
        count = self.pread_into(buffer, self._at)
        self._at += count
        return count

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

    def write(self, _: Any) -> int:
        raise io.UnsupportedOperation(f"{self.name} is a file of a checkpoint, which never changes")

    def close(self) -> None:
        self._reader = None
        super().close()

    def _open(self) -> Reader:
        if self._reader is None:
            raise ValueError(f"{self.name} is closed")
        return self._reader

    def __repr__(self) -> str:
        return f"<StoreFile {self.name!r}, {self.size} bytes>"
