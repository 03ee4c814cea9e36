"""Writes the bytes of a file's floating-point tensors, one after another, as fp32 and as bf16.

usage: tensor_bytes.py FILE OUT_PREFIX

FILE is a safetensors file or a torch checkpoint; makes OUT_PREFIX.f32 and OUT_PREFIX.bf16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

source, prefix = Path(sys.argv[1]), sys.argv[2]
loaded = load_file(source) if source.suffix == ".safetensors" else torch.load(source, weights_only=True)["state_dict"]
tensors = [t.reshape(-1) for t in loaded.values() if t.is_floating_point()]
flat = torch.cat(tensors).float()
Path(f"{prefix}.f32").write_bytes(flat.numpy().tobytes())
Path(f"{prefix}.bf16").write_bytes(flat.bfloat16().view(torch.int16).numpy().tobytes())
