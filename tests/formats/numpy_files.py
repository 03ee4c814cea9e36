"""Writes numpy's files: .npy in every order and version, .npz stored and compressed.

usage: numpy_files.py OUTDIR
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from truth import NUMPY_DTYPES, Path, Truth, array_entry, main, one_file


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    random = generator.standard_normal((23, 17)) * 40
    state = {name: np.abs(random).astype(name) for name in NUMPY_DTYPES}
    cube = generator.standard_normal((4, 5, 6)).astype(np.float32)
    return state | {
        "fortran": np.asfortranarray(cube),
        "cube": cube,
        "scalar": np.float32(2.5),
        "empty": np.empty((0, 3), np.float32),
        "large": generator.standard_normal((400, 500)).astype(np.float32),
    }


# Types that no framework computes with, and one in the other order of bytes.
FOREIGN: dict[str, Any] = {
    "big_endian": np.arange(40, dtype=">f4"),
    "text": np.array(["a", "bc"]),
    "structured": np.zeros(3, [("a", "<f4"), ("b", "<i8")]),
    "jax_bfloat16": np.arange(6).astype(ml_dtypes.bfloat16),
    "jax_float8": np.arange(6).astype(ml_dtypes.float8_e5m2),
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
}


def entries(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [array_entry(name, np.asarray(array)) for name, array in of.items()]


def write(out: Path) -> Truth:
    truth = []
    chosen = ("float32", "float64", "uint8", "bool", "complex64", "fortran", "cube", "scalar", "empty", "large")
    for name, array in {k: v for k, v in arrays().items() if k in chosen}.items():
        np.save(out / f"{name}.npy", array)
        truth.append(one_file(out / f"{name}.npy", "npy", [array_entry("array", np.asarray(array))]))
    for version in ((2, 0), (3, 0)):
        path = out / f"version_{version[0]}.npy"
        with path.open("wb") as file:
            npy.write_array(file, arrays()["float32"], version)
        truth.append(one_file(path, "npy", [array_entry("array", np.load(path))]))
    for name, array in FOREIGN.items():
        np.save(out / f"{name}.npy", array)
        truth.append(one_file(out / f"{name}.npy", "npy", [array_entry("array", array)]))
    objects = np.array([{"a": 1}, None], dtype=object)  # a pickle
    np.save(out / "objects.npy", objects)
    truth.append(one_file(out / "objects.npy", "opaque", []))
    np.savez(out / "stored.npz", **arrays())
    mixed = arrays() | FOREIGN | {"a/b.c": np.arange(3)}
    np.savez(out / "mixed.npz", **mixed, objects=objects)
    np.savez_compressed(out / "compressed.npz", **arrays())
    truth.append(one_file(out / "stored.npz", "npz", entries(arrays())))
    truth.append(one_file(out / "mixed.npz", "npz", entries(mixed)))
    truth.append(one_file(out / "compressed.npz", "zip", []))
    return truth


if __name__ == "__main__":
    main(write)
