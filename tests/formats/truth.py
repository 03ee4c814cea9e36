"""What the writers of real files share: the truth about the tensors of each file, as the framework reports them.

The truth is `truth.json` beside the files: a list of `{"path", "members"}`, one for each file or folder that is put as
a checkpoint. A member has its `path` as `ckpt show` gives it and its `tensors`, each with

    name    keys of nested containers joined by ".", positions in lists and tuples as decimals
    dtype   safetensors' name (F32, BF16, I64, ...), else that of the container (C128, Q8_0, >f4)
    shape   row-major, the slowest dimension first, whatever the container does
    sha256  of the elements as contiguous, row-major, little-endian bytes

Left out are tensors that torch keeps conjugated or negated by a flag: no bytes of the file are their elements. A member
without tensors, or one that can't be split by design, has an empty list. `format` is what `ckpt show` calls its
container, null where that is not looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import nn

Truth = list[dict[str, Any]]

TORCH_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}
NUMPY_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "complex128": "C128",
}
# Of JAX's types the one that numpy writes with a type of its own; the others become bytes: <V2.
ML_DTYPES = {"float8_e5m2": "F8_E5M2"}
SPARSE_PARTS = {
    torch.sparse_coo: ("indices", "values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def entry(name: str, dtype: str, shape: tuple[int, ...] | list[int], data: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": dtype,
        "shape": [int(n) for n in shape],
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def torch_bytes(tensor: torch.Tensor) -> bytes:
    """Gives a dense tensor's elements as bytes, row by row."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def torch_entries(name: str, tensor: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Describes one tensor: itself, or the dense ones that a sparse or a quantized one is made of."""
    if tensor.layout in SPARSE_PARTS:
        for part in SPARSE_PARTS[tensor.layout]:
            # An uncoalesced one has no indices() and values(), but the same things under these names.
            value = getattr(tensor, f"_{part}" if tensor.layout == torch.sparse_coo else part)()
            yield from torch_entries(f"{name}.{part}", value)
    elif tensor.is_quantized:
        yield from torch_entries(f"{name}.int_repr", tensor.int_repr())
        if tensor.qscheme() == torch.per_channel_affine:
            yield from torch_entries(f"{name}.scales", tensor.q_per_channel_scales())
            yield from torch_entries(f"{name}.zero_points", tensor.q_per_channel_zero_points())
    elif not tensor.is_conj() and not tensor.is_neg():
        plain = tensor.detach().as_subclass(torch.Tensor)
        yield entry(name, TORCH_DTYPES[plain.dtype], plain.shape, torch_bytes(plain))


def tensors_in(value: object, name: str = "") -> Iterator[dict[str, Any]]:
    """Describes every tensor in nested containers; a bare one is called `tensor`, a module's as its state_dict does."""
    below = f"{name}." if name else ""
    if isinstance(value, torch.Tensor):
        yield from torch_entries(name or "tensor", value)
    elif isinstance(value, nn.Module):
        yield from tensors_in(dict(value.state_dict()), name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(item, f"{below}{key}")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from tensors_in(item, f"{below}{position}")
    elif type(value).__module__ != "builtins" and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from tensors_in(vars(value), name)


def array_entry(name: str, array: np.ndarray) -> dict[str, Any]:
    """Describes a numpy array; a type that safetensors has no name for is called what a .npy calls it, its bytes as is."""
    known = (NUMPY_DTYPES | ML_DTYPES).get(array.dtype.name) if array.dtype.byteorder != ">" else None
    dtype = known or str(npy.dtype_to_descr(array.dtype))
    return entry(name, dtype, array.shape, np.ascontiguousarray(array).tobytes())


def one_file(path: Path, format_: str, tensors: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A checkpoint of one file."""
    return {"path": path.name, "members": [{"path": path.name, "format": format_, "tensors": list(tensors)}]}


def torch_file(path: Path, format_: str = "torch zip") -> dict[str, Any]:
    """A checkpoint of one file that torch.save wrote, as torch.load gives it back."""
    return one_file(path, format_, tensors_in(torch.load(path, weights_only=False)))


def folder(path: Path, tensors: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A checkpoint of a folder; `tensors` has what is in those of its files that have any."""
    files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    members = [{"path": name, "format": None, "tensors": tensors.get(name, [])} for name in files]
    return {"path": path.name, "members": members}


def seed() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)


def main(write: Callable[[Path], Truth]) -> None:
    """Runs a writer for the folder that is named on the command line."""
    parser = argparse.ArgumentParser(description="Writes real files, and truth.json about them.")
    parser.add_argument("out", type=Path, help="a folder; made if it is not there")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    seed()
    (out / "truth.json").write_text(json.dumps(write(out), indent=1), "utf-8")
