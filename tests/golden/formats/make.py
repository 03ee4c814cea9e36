"""Makes the files beside it, which the unit tests of `store/src/split` take apart. Needs h5py, keras, torch and ml_dtypes; whatever the
versions, what the tests expect of them stands in `store/src/split/tests/hdf5.rs`. The files in the repository were written by h5py 3.16
(HDF5 2.0) and Keras 3.15."""

import os
import pathlib

os.environ["KERAS_BACKEND"] = "torch"
import h5py
import keras
import numpy as np

HERE = pathlib.Path(__file__).parent


def fill(file):
    file["layers/dense/vars/0"] = np.arange(24, dtype="f4").reshape(4, 6)
    file["layers/dense/vars/1"] = np.arange(6, dtype="f2")
    file["same"] = file["layers/dense/vars/1"]
    file["layers/up"] = file["/"]
    file["soft"] = h5py.SoftLink("/same")
    file["outside"] = h5py.ExternalLink("x.h5", "/a")
    file["scalar"] = np.int64(7)
    file["bools"] = np.array([True, False, True])
    file["c64"] = np.zeros(3, "c8")
    file["c128"] = np.zeros(3, "c16")
    file["big_endian"] = np.zeros(3, ">f4")
    file["bytes"] = np.zeros(3, "S5")
    file["opaque"] = np.zeros(3, "V4")
    file["structure"] = np.zeros(2, [("a", "<f4"), ("b", "<i8", (2,))])
    file["empty"] = np.zeros((0, 4), "f4")
    file["null"] = h5py.Empty("f4")
    file["text"] = "hello"
    file["type"] = np.dtype("f8")
    file.create_dataset("committed", data=np.ones(4), dtype=file["type"])
    file.create_dataset("enumeration", data=np.zeros(3, "i2"), dtype=h5py.enum_dtype({"A": 0, "B": 1}, basetype="i2"))
    file.create_dataset("chunked", data=np.arange(100, dtype="f4"), chunks=(50,))
    file.create_dataset("compressed", data=np.zeros(1000), compression="gzip")
    file.create_dataset("unwritten", shape=(10,), dtype="f4")
    file.create_dataset("external", shape=(4,), dtype="f4", external=[("x.bin", 0, 16)])
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4,)), compact)
    for number in range(20):
        file[f"many/tensor.{number}"] = np.full(3, number, "f4")


for libver in ("earliest", "latest"):
    with h5py.File(HERE / f"{libver}.h5", "w", libver=libver) as file:
        fill(file)

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(1, dtype="bfloat16")])
model.save(HERE / "model.keras")
model.save_weights(HERE / "model.weights.h5")
model.save(HERE / "legacy.h5")
