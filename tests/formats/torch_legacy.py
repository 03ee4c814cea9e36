"""Writes the same states as torch_zip.py in the format of torch before 1.6, which torch still writes on demand.

usage: torch_legacy.py OUTDIR
"""

from __future__ import annotations

import torch_states
from truth import Path, Truth, main, torch, torch_file


def write(out: Path) -> Truth:
    truth = []
    # torch writes the types that are younger than this format, and then can't load them.
    states = torch_states.all_states() | {"dtypes": torch_states.old_dtypes()}
    for name, state in states.items():
        path = out / f"{name}.pt"
        torch.save(state, path, _use_new_zipfile_serialization=False)
        truth.append(torch_file(path, "torch legacy"))
    for protocol in (3, 4, 5):
        path = out / f"protocol_{protocol}.pth"
        torch.save(torch_states.containers(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        truth.append(torch_file(path, "torch legacy"))
    return truth


if __name__ == "__main__":
    main(write)
