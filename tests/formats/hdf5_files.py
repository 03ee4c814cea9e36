"""Writes HDF5 files with h5py: contiguous, chunked, compressed, old and new versions of the format.

usage: hdf5_files.py OUTDIR
"""

from __future__ import annotations

from typing import IO, Any

import h5py
import numpy as np
from truth import NUMPY_DTYPES, Path, Truth, array_entry, main, one_file


def dataset_entries(file: Path | IO[bytes]) -> list[dict[str, Any]]:
    """Describes the datasets whose elements lie in the file in one piece, by their paths."""
    found = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        is_dataset = isinstance(item, h5py.Dataset) and item.shape is not None
        if is_dataset and item.chunks is None and (item.dtype.name in NUMPY_DTYPES or item.dtype.kind == "S"):
            found.append(array_entry(name, np.asarray(item[()])))

    with h5py.File(file, "r") as opened:
        opened.visititems(visit)
    return found


def fill(file: h5py.File) -> None:
    random = np.random.default_rng(7)
    value = random.standard_normal((40, 30)).astype(np.float32)
    for name in NUMPY_DTYPES:
        file.create_dataset(f"dtypes/{name}", data=np.abs(value * 30).astype(name))
    file.create_dataset("dtypes/big_endian", data=value.astype(">f4"))
    file.create_dataset("dtypes/text", data=np.array([b"a", b"bc"]))
    file.create_dataset("deep/er/still/weight", data=value)
    file.create_dataset("scalar", data=np.float32(2.5))
    file.create_dataset("large", data=random.standard_normal((300, 400)).astype(np.float32))
    file.create_dataset("attributed", data=value).attrs["names"] = [f"weight:{i}" for i in range(40)]
    for i in range(60):
        file.create_dataset(f"many/layer_{i}/vars/0", data=np.full(i + 1, i, np.float32))


def fill_others(file: h5py.File) -> None:
    """What has no elements in one piece."""
    value = np.random.default_rng(8).standard_normal((64, 64)).astype(np.float32)
    file.create_dataset("chunked", data=value, chunks=(16, 16))
    file.create_dataset("gzip", data=value, compression="gzip")
    file.create_dataset("shuffled", data=value, compression="gzip", shuffle=True)
    file.create_dataset("growing", data=value, maxshape=(None, 64))
    file.create_dataset("text", data=["a", "bc"])
    file.create_dataset("nothing", data=h5py.Empty("f4"))
    file["alias"] = h5py.SoftLink("/chunked")


def write(out: Path) -> Truth:
    truth = []
    for name, versions in {"old": ("earliest", "v108"), "new": "latest", "default": None}.items():
        path = out / f"{name}.h5"
        with h5py.File(path, "w", libver=versions) as file:
            fill(file)
        truth.append(one_file(path, "hdf5", dataset_entries(path)))
    with h5py.File(out / "mixed.hdf5", "w") as file:
        fill(file)
        fill_others(file)
    with h5py.File(out / "chunked.h5", "w") as file:
        fill_others(file)
    with h5py.File(out / "behind_a_block.h5", "w", userblock_size=1024) as file:
        fill(file)
    truth += [one_file(out / name, "hdf5", dataset_entries(out / name)) for name in ("mixed.hdf5", "chunked.h5")]
    return [*truth, one_file(out / "behind_a_block.h5", "opaque", [])]


if __name__ == "__main__":
    main(write)
