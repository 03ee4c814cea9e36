"""Writes what torch.save makes of tensors of every kind, in its zip format.

usage: torch_zip.py OUTDIR
"""

from __future__ import annotations

import io

import torch_states
from torch.serialization import set_crc32_options
from torch.utils.serialization import config
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
    return truth + [torch_file(path) for path in variants(out)]


def variants(out: Path) -> list[Path]:
    """Files of the same content that differ as files of different versions of torch do."""
    state, paths = torch_states.views(), [out / f"{name}.pth" for name in ("aligned", "without_crc", "from_memory")]
    with config.patch({"save.storage_alignment": 4096}):
        torch.save(state, paths[0])
    set_crc32_options(False)
    torch.save(state, paths[1])
    set_crc32_options(True)
    memory = io.BytesIO()
    torch.save(state, memory)  # whose records are in a folder `archive`
    paths[2].write_bytes(memory.getvalue())
    return paths


if __name__ == "__main__":
    main(write)
