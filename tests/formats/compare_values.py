"""Holds the tensors that `ckpt get --as safetensors` wrote against the truth, bit by bit, by safetensors' own reader.

usage: compare_values.py TRUTH FOLDER

FOLDER has N.safetensors for the checkpoint N of the truth. Prints a line for each disagreement.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from safetensors_files import safetensors_tensors
from truth import TORCH_DTYPES, Path

# Others can't be in such a file.
DTYPES = set(TORCH_DTYPES.values()) - {"C128"}


def expected(checkpoint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tensors of a checkpoint, with the path of the file before names that several files have."""
    files_with = Counter(name for m in checkpoint["members"] for name in {t["name"] for t in m["tensors"]})
    for member in checkpoint["members"]:
        for tensor in member["tensors"]:
            name = tensor["name"]
            if tensor["dtype"] in DTYPES:
                yield tensor | {"name": f"{member['path']}:{name}" if files_with[name] > 1 else name}


def differences(checkpoint: dict[str, Any], path: Path) -> Iterator[str]:
    truth = {tensor["name"]: tensor for tensor in expected(checkpoint)}
    if not path.exists():
        yield from ["nothing was given back"] if truth else []
        return
    found = {tensor["name"]: tensor for tensor in safetensors_tensors(path)}
    with safe_open(path, "pt") as file:
        tied = file.metadata() or {}
    for name, tensor in truth.items():
        # Of several names for the same elements one has them, and the others stand in the metadata.
        got = found.get(tied.get(name, name))
        if got is None:
            yield f"missing {name}"
        elif got | {"name": name} != tensor:
            yield f"other {name}: {got}, not {tensor}"
    yield from (f"surplus {name}" for name in found.keys() - truth.keys())


def main() -> None:
    truth, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for number, checkpoint in enumerate(json.loads(truth.read_text("utf-8"))):
        for line in differences(checkpoint, folder / f"{number}.safetensors"):
            print(f"{checkpoint['path']}: {line}")


if __name__ == "__main__":
    main()
