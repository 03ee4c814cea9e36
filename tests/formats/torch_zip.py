"""Writes what torch.save makes of tensors of every kind, in its zip format.

usage: torch_zip.py OUTDIR
"""

from __future__ import annotations

import torch_states
from truth import Path, Truth, main, torch, torch_file


def write(out: Path) -> Truth:
    truth = []
    for name, state in torch_states.all_states().items():
        torch.save(state, out / f"{name}.pt")
        truth.append(torch_file(out / f"{name}.pt"))
    for protocol in (2, 3, 4, 5):
        path = out / f"protocol_{protocol}.ckpt"
        torch.save(torch_states.containers(), path, pickle_protocol=protocol)
        truth.append(torch_file(path))
    return truth


if __name__ == "__main__":
    main(write)
