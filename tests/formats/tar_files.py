"""Writes tar archives of checkpoints in several formats, in each of tar's own.

usage: tar_files.py OUTDIR
"""

from __future__ import annotations

import tarfile
from typing import Any

import numpy as np
import safetensors.torch
from safetensors_files import safetensors_tensors
from truth import Path, Truth, array_entry, main, one_file, tensors_in, torch

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def members(work: Path) -> dict[str, list[dict[str, Any]]]:
    """Writes the files that go into each archive; returns their tensors by their paths."""
    weights = {"layer.weight": torch.randn(200, 100), "layer.bias": torch.randn(200)}
    long = "deep/" + "folder_with_a_long_name/" * 4 + "model.pt"
    for name in ("a/model.safetensors", "a/model.ckpt", "array.npy", "notes.txt", long):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, work / "a/model.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, work / "a/model.ckpt")
    torch.save(weights, work / long)
    np.save(work / "array.npy", np.arange(50.0))
    (work / "notes.txt").write_text("nothing of note\n" * 100, "utf-8")
    return {
        "a/model.safetensors": safetensors_tensors(work / "a/model.safetensors"),
        "a/model.ckpt": list(tensors_in(torch.load(work / "a/model.ckpt"))),
        long: list(tensors_in(weights)),
        "array.npy": [array_entry("array", np.arange(50.0))],
        "notes.txt": [],
    }


def write(out: Path) -> Truth:
    work = out / "work"
    work.mkdir(exist_ok=True)
    tensors = members(work)
    inside = [t | {"name": f"{name}:{t['name']}"} for name, list_ in tensors.items() for t in list_]
    truth = []
    for name, format_ in FORMATS.items():
        path = out / f"{name}.tar"
        with tarfile.open(path, "w", format=format_) as archive:
            for member in tensors:
                archive.add(work / member, member)
        truth.append(one_file(path, "tar", inside))
    with tarfile.open(out / "packed.tar.gz", "w:gz") as archive:
        archive.add(work, "work")
    return [*truth, one_file(out / "packed.tar.gz", "opaque", [])]


if __name__ == "__main__":
    main(write)
