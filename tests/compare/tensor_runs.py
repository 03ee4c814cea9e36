"""Fills a store with runs for the benchmark of the commands that look into tensors.

usage: tensor_runs.py CKPT STORE SCRATCH

- `followed`: 100 checkpoints of 250 MB in which `head.weight`, 4.2 MB, changes in every fourth.
- `halves`: two checkpoints of 2.5 GB that share 95 % of their bytes.
- `many`: two checkpoints of 10,000 tensors, all of them small.

Each file is put and removed before the next is made. Prints one line of JSON: the bytes of the followed tensor over the
checkpoints in which it changed, and the bytes of a checkpoint of `halves`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ckpt, store, scratch = (Path(argument) for argument in sys.argv[1:4])
random = torch.Generator().manual_seed(1)
SIDE = 1024


def put(state: dict[str, torch.Tensor], run: str, step: int) -> int:
    """Stores one checkpoint; returns its bytes."""
    file = scratch / f"step={step}.safetensors"
    save_file(state, file)
    size = file.stat().st_size
    command = [ckpt, "put", file, "--run", run, "--reserve", "0", "--quiet"]
    subprocess.run(command, env=os.environ | {"CKPT_STORE": str(store)}, stdout=subprocess.DEVNULL, check=True)
    file.unlink()
    return size


def layers(count: int) -> dict[str, torch.Tensor]:
    """Makes layers of 4.2 MB each, all different."""
    base = torch.randn(SIDE, SIDE, generator=random) * 0.02
    weights = {f"encoder.{i}.weight": base + i * 1e-4 for i in range(count)}
    return weights | {f"encoder.{i}.bias": torch.randn(SIDE, generator=random) for i in range(count)}


def drift(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + torch.randn(tensor.shape, generator=random) * 1e-3


state = layers(58) | {"head.weight": torch.randn(SIDE, SIDE, generator=random) * 0.02}
followed_bytes = 0
for step in range(100):
    if step % 4 == 0:
        state["head.weight"] = drift(state["head.weight"])
        followed_bytes += state["head.weight"].nbytes
    put(state, "followed", step)

state = layers(596)
put(state, "halves", 0)
state |= {f"encoder.{i}.weight": drift(state[f"encoder.{i}.weight"]) for i in range(0, 596, 20)}
bytes_ = put(state, "halves", 1)

state = {f"block.{i // 10}.part.{i % 10}.weight": torch.randn(64, generator=random) for i in range(10_000)}
put(state, "many", 0)
state["block.7.part.3.weight"] = drift(state["block.7.part.3.weight"])
put(state, "many", 1)

print(json.dumps({"followed_bytes": followed_bytes, "bytes": bytes_}))
