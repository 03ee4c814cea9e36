"""Tensors of a checkpoint by name, whatever format they were saved in. Reads those tensors' bytes alone, and never runs
code that a checkpoint holds.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from . import _core
from .errors import Invalid, NotFound

DTYPES: Mapping[str, torch.dtype] = {
    name: dtype
    for name, attribute in {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "U16": "uint16",
        "I16": "int16",
        "U32": "uint32",
        "I32": "int32",
        "U64": "uint64",
        "I64": "int64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "F16": "float16",
        "BF16": "bfloat16",
        "F32": "float32",
        "F64": "float64",
        "C32": "complex32",
        "C64": "complex64",
        "C128": "complex128",
    }.items()
    # What an older torch doesn't have is refused when it is asked for.
    if (dtype := getattr(torch, attribute, None)) is not None
}
"""torch's types by the names that `ckpt show --tensors` has for them."""


def load(
    reader: _core.Reader, patterns: Sequence[str], device: torch.device | str, files: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Loads the tensors whose names match one of the patterns, all without any, under the names that they have.

    Raises:
        NotFound: when a pattern matches no tensor.
        Invalid: for a tensor whose type or shape its file doesn't tell, or that this torch doesn't have.
    """
    return {tensor["name"]: loaded for tensor, loaded in _read(reader, _choose(reader, patterns, files), device)}


def load_file(reader: _core.Reader, file: int, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Loads all tensors of one file, under the names that it has for them itself."""
    of_file = [tensor for tensor in reader.tensors() if tensor["file"] == file]
    return {tensor["bare_name"]: loaded for tensor, loaded in _read(reader, of_file, device)}


def _read(
    reader: _core.Reader, chosen: Sequence[dict[str, Any]], device: torch.device | str
) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    # One storage for each range of a file: tied tensors and views of one another stay so.
    storages: dict[tuple[int, int, int], torch.Tensor] = {}
    wanted: list[tuple[int, int, int, int]] = []
    for tensor in chosen:
        place = (tensor["file"], tensor["offset"], tensor["len"])
        if place not in storages:
            storages[place] = storage = torch.empty(tensor["len"], dtype=torch.uint8, device="cpu")
            if tensor["len"] > 0:
                wanted.append((*place, storage.data_ptr()))
    reader.read_many(wanted)
    moved = {place: storage.to(device) for place, storage in storages.items()}
    for tensor in chosen:
        yield tensor, _shaped(moved[tensor["file"], tensor["offset"], tensor["len"]], tensor)


def _choose(reader: _core.Reader, patterns: Sequence[str], files: Sequence[str]) -> list[dict[str, Any]]:
    paths = [file["path"] for file in reader.files()]
    tensors = [t for t in reader.tensors() if not files or any(fnmatch.fnmatchcase(paths[t["file"]], f) for f in files)]
    if not patterns:
        return tensors

    def matches(tensor: Mapping[str, Any], pattern: str) -> bool:
        # A name may hold what a pattern takes for its own, so the very name counts as well.
        names = (tensor["name"], tensor["bare_name"])
        return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)

    for pattern in patterns:
        if not any(matches(tensor, pattern) for tensor in tensors):
            some = [tensor["name"] for tensor in tensors[:5]] + ["..."] * (len(tensors) > 5)
            raise NotFound(f"no tensor matches {pattern!r}; the checkpoint has {len(tensors)}: {', '.join(some)}")
    return [tensor for tensor in tensors if any(matches(tensor, pattern) for pattern in patterns)]


def _shaped(flat: torch.Tensor, tensor: Mapping[str, Any]) -> torch.Tensor:
    """A tensor over the bytes that hold its elements."""
    name, shape, strides = tensor["name"], tensor["shape"], tensor["strides"]
    dtype = DTYPES.get(tensor["dtype"] or "")
    if dtype is None or shape is None:
        told = f"the type {tensor['dtype']} and the shape {shape}"
        raise Invalid(f"the tensor {name!r} has {told}: torch can't have it so")
    if flat.numel() % dtype.itemsize:
        raise Invalid(f"the tensor {name!r} has {flat.numel()} bytes, which is no number of {dtype}")
    elements = flat.view(dtype)
    if strides is None:
        if elements.numel() != math.prod(shape):
            raise Invalid(f"the tensor {name!r} has {elements.numel()} elements, and the shape {shape}")
        return elements.view(shape)
    return elements.as_strided(shape, strides)
