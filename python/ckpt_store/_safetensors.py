"""Files of safetensors in memory, with numpy's types and those of ml_dtypes. Never reads more than is asked for."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy

from . import _core, errors

# As the format itself bounds it.
_HEADER_BYTES_MAX = 100_000_000
_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
}
_LONG = {short: long for long, short in _NAMES.items()}
_OTHER_TYPES = "ckpt_store.types"


def in_memory(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> _core.Memory:
    """A file with these arrays, which stay where they are, unless they have to be laid out anew.

    Whatever numpy makes an array of will do. An array of a type that the format lacks is written as bytes, and its type
    is told in the metadata.
    """
    # Large elements first, so that every tensor is aligned to its own.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    other = {name: tensors[name].dtype.name for name in names if tensors[name].dtype.name not in _NAMES}
    header: dict[str, Any] = {"__metadata__": {**metadata, **({_OTHER_TYPES: json.dumps(other)} if other else {})}}
    offset = 0
    for name in names:
        array = tensors[name]
        shape = [*array.shape, array.dtype.itemsize] if name in other else list(array.shape)
        dtype = "U8" if name in other else _NAMES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    parts = [_core.Memory.of(len(text).to_bytes(8, "little") + text)]
    for name in names:
        array = numpy.asarray(tensors[name])
        if array.nbytes:
            native = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
            # ml_dtypes' arrays have no buffer of their own type.
            whole = numpy.ascontiguousarray(native)
            parts.append(_core.Memory.at(whole.ctypes.data, whole.nbytes, whole))
    return _core.Memory.joined(parts)


class Tensors:
    """The arrays of an open file, by name."""

    def __init__(self, file: Any) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _HEADER_BYTES_MAX:
            raise errors.Invalid("this is no safetensors file")
        text = file.read(length)
        try:
            header = json.loads(text)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self._other: dict[str, str] = json.loads(self.metadata.get(_OTHER_TYPES, "{}"))
        except (ValueError, AttributeError, TypeError):
            raise errors.Invalid("this is no safetensors file") from None
        self._entries: dict[str, Any] = header
        self._begin = 8 + length
        self._size = int(file.seek(0, io.SEEK_END))

    def read(self, name: str) -> Any:
        """One array; its memory is its own."""
        try:
            entry = self._entries[name]
            shape, (begin, end) = tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
            other = self._other.get(name)
            dtype = _dtype(_LONG[entry["dtype"]] if other is None else other)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise errors.Invalid(f"the file has no sound tensor {name}") from None
        shape = shape if other is None else shape[:-1]
        size = math.prod(shape) * dtype.itemsize
        if size != end - begin or begin < 0 or self._begin + end > self._size or min(shape, default=0) < 0:
            raise errors.Invalid(f"{name} is no {dtype.name} {shape} within the file")
        array = numpy.empty(shape, dtype)
        if size:
            self._file.seek(self._begin + begin)
            view = _bytes_of(array)
            filled = 0
            while filled < size:
                read = self._file.readinto(view[filled:])
                if not read:
                    raise errors.Invalid(f"the file ends in {name}")
                filled += read
        return array


def _bytes_of(array: Any) -> memoryview:
    return memoryview(array.reshape(-1).view(numpy.uint8))


def _dtype(name: str) -> Any:
    try:
        dtype = numpy.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype = numpy.dtype(getattr(ml_dtypes, name))
    if dtype.hasobject:
        raise TypeError(name)
    return dtype
