"""Writes safetensors files: every dtype, tied weights as safetensors wants them, metadata.

usage: safetensors_files.py OUTDIR
"""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch_states
from safetensors import safe_open
from torch import nn
from truth import Path, Truth, entry, main, one_file, torch, torch_bytes


def safetensors_tensors(path: Path) -> list[dict[str, Any]]:
    """Describes the tensors of a file as safetensors gives them."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        slices = {name: file.get_slice(name) for name in names}
        return [
            entry(name, s.get_dtype(), s.get_shape(), torch_bytes(file.get_tensor(name))) for name, s in slices.items()
        ]


def write(out: Path) -> Truth:
    save = safetensors.torch.save_file
    # It has no name for complex128.
    dtypes = {name: tensor for name, tensor in torch_states.dtypes().items() if tensor.dtype != torch.complex128}
    save(dtypes, out / "dtypes.safetensors")
    save({"a": torch.randn(9, 9)}, out / "one.safetensors")
    save({"none": torch.empty(0, 4), "scalar": torch.tensor(1.5)}, out / "no_bytes.safetensors")
    save({}, out / "empty.safetensors")
    note = {"format": "pt", "note": "häuser"}
    save({name: tensor.clone() for name, tensor in torch_states.many().items()}, out / "many.safetensors", note)
    safetensors.torch.save_model(torch_states.Net(), out / "model.safetensors")
    safetensors.torch.save_model(nn.LSTM(8, 12), out / "lstm.safetensors")
    safetensors.numpy.save_file({"x": np.arange(30.0).reshape(5, 6)}, out / "numpy.safetensors")
    return [one_file(path, "safetensors", safetensors_tensors(path)) for path in sorted(out.glob("*.safetensors"))]


if __name__ == "__main__":
    main(write)
