"""Writes numpy's files: .npy in every order and version, .npz stored and compressed.

usage: numpy_files.py OUTDIR
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib import format as npy
from truth import NUMPY_DTYPES, Path, Truth, array_entry, main, one_file


def arrays() -> dict[str, np.ndarray]:
    random = np.random.standard_normal((23, 17)) * 40
    state = {name: np.abs(random).astype(name) for name in NUMPY_DTYPES}
    cube = np.random.standard_normal((4, 5, 6)).astype(np.float32)
    return state | {
        "fortran": np.asfortranarray(cube),
        "cube": cube,
        "scalar": np.float32(2.5),
        "empty": np.empty((0, 3), np.float32),
        "large": np.random.standard_normal((400, 500)).astype(np.float32),
    }


# Not elements of a type that a checkpoint store can name, or not in little-endian order: kept as bytes.
NO_TENSORS: dict[str, Any] = {
    "big_endian": np.arange(40, dtype=">f4"),
    "text": np.array(["a", "bc"]),
    "structured": np.zeros(3, [("a", "<f4"), ("b", "<i8")]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
}


def write(out: Path) -> Truth:
    truth = []
    chosen = ("float32", "float64", "uint8", "bool", "complex64", "fortran", "cube", "scalar", "empty", "large")
    for name, array in {k: v for k, v in arrays().items() if k in chosen}.items():
        np.save(out / f"{name}.npy", array)
        truth.append(one_file(out / f"{name}.npy", "npy", [array_entry("tensor", np.asarray(array))]))
    for version in ((2, 0), (3, 0)):
        path = out / f"version_{version[0]}.npy"
        with path.open("wb") as file:
            npy.write_array(file, arrays()["float32"], version)
        truth.append(one_file(path, "npy", [array_entry("tensor", np.load(path))]))
    for name, array in NO_TENSORS.items():
        np.save(out / f"{name}.npy", array)
        truth.append(one_file(out / f"{name}.npy", "npy", []))
    every = [array_entry(name, np.asarray(array)) for name, array in arrays().items()]
    np.savez(out / "stored.npz", **arrays())
    np.savez(out / "mixed.npz", **(arrays() | NO_TENSORS), **{"a/b.c": np.arange(3)})
    np.savez_compressed(out / "compressed.npz", **arrays())
    truth.append(one_file(out / "stored.npz", "npz", every))
    truth.append(one_file(out / "mixed.npz", "npz", [*every, array_entry("a/b.c", np.arange(3))]))
    truth.append(one_file(out / "compressed.npz", "zip", []))
    return truth


if __name__ == "__main__":
    main(write)
