"""Some rows of a tensor out of the small archive that holds it. Never executes what a pickle says, never reads the
other rows."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# The pickle of one tensor has some 200 bytes.
_PICKLE_BYTES_MAX = 64 << 10
_LOCAL_HEADER_BYTES = 30
# Under what name torch writes the storages of which type.
_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True)
class _Tensor:
    """A tensor as its pickle describes it."""

    dtype: torch.dtype
    key: str
    elements: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, base: Any, offset: int, length: int) -> None:
        super().__init__()
        self._base = base
        self._offset = offset
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).cast("B")[: max(0, self._length - self._at)]
        self._base.seek(self._offset + self._at)
        filled = int(self._base.readinto(wanted))
        self._at += filled
        return filled


class _Described(pickle.Unpickler):
    """Reads what describes one plain tensor, and refuses anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _described
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plain tensor")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _described(
    storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], grad: bool, hooks: Any, extra: Any = None
) -> _Tensor:
    kind, dtype, key, _, elements = storage
    if kind != "storage" or not isinstance(dtype, torch.dtype) or extra:
        raise pickle.UnpicklingError("this is no plain tensor")
    return _Tensor(dtype, str(key), int(elements), int(offset), tuple(size), tuple(stride))


def read_rows(file: Any, offset: int, length: int, first: int, shape: Sequence[int]) -> torch.Tensor | None:
    """Reads a tensor of this shape: the rows from ``first`` on of the one that the archive at this place of the file
    holds.

    None when that is no plain tensor that lies row by row, or has other rows: then it has to be loaded as a whole.
    """
    window = io.BufferedReader(_Window(file, offset, length))
    try:
        with zipfile.ZipFile(window) as archive:
            names = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            described = names["data.pkl"]
            if described.file_size > _PICKLE_BYTES_MAX:
                return None
            tensor = _Described(io.BytesIO(archive.read(described))).load()
            # What is not little-endian here was written on another kind of machine.
            order = archive.read(names["byteorder"]) if "byteorder" in names else b"little"
            if not isinstance(tensor, _Tensor) or order != b"little" or not _lies_row_by_row(tensor):
                return None
            record = names[f"data/{tensor.key}"]
    except (zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, TypeError, IndexError, EOFError):
        return None
    itemsize = tensor.dtype.itemsize
    if not shape or tensor.size[1:] != tuple(shape[1:]):
        return None
    rows = shape[0]
    stored = record.compress_type == zipfile.ZIP_STORED and record.file_size == record.compress_size
    if not stored or record.file_size != tensor.elements * itemsize or not 0 <= first <= first + rows <= tensor.size[0]:
        return None
    window.seek(record.header_offset)
    header = window.read(_LOCAL_HEADER_BYTES)
    if len(header) != _LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        return None
    name_bytes, extra_bytes = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin = record.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    row = 1
    for dimension in tensor.size[1:]:
        row *= dimension
    begin += (tensor.offset + first * row) * itemsize
    data = bytearray(rows * row * itemsize)
    window.seek(begin)
    filled = window.readinto(data) if data else 0
    if filled != len(data):
        raise EOFError(f"the tensor at byte {offset + begin} of the file ends early")
    if not data:
        return torch.empty(tuple(shape), dtype=tensor.dtype, device="cpu")
    return torch.frombuffer(data, dtype=tensor.dtype).reshape(tuple(shape))


def _lies_row_by_row(tensor: _Tensor) -> bool:
    if not tensor.size or len(tensor.size) != len(tensor.stride) or min(tensor.size) < 0 or tensor.offset < 0:
        return False
    step = 1
    for size, stride in zip(reversed(tensor.size), reversed(tensor.stride)):
        if size != 1 and stride != step:
            return False
        step *= size
    return tensor.offset + step <= tensor.elements
