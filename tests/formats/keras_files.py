"""Writes Keras 3 models with the torch backend: .keras, .weights.h5 and the old .h5.

usage: keras_files.py OUTDIR
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile

# Or it would leave a file of settings in the home directory.
home = tempfile.TemporaryDirectory()
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": home.name}

import keras
import numpy as np
from hdf5_files import dataset_entries
from truth import Path, Truth, folder, main, one_file, seed


def model() -> keras.Model:
    """A small model after one step of training, so that its optimizer has a state."""
    made = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    made.compile(optimizer="adam", loss="mse")
    made.fit(np.ones((8, 6), np.float32), np.zeros((8, 3), np.float32), epochs=1, verbose=0)
    return made


def write(out: Path) -> Truth:
    warnings.filterwarnings("ignore")
    keras.utils.set_random_seed(7)
    made = model()
    seed()
    made.save(out / "model.keras")
    made.save_weights(out / "model.weights.h5")
    made.save(out / "model.h5")
    keras.Model.save(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), out / "untrained.keras")
    truth = [one_file(out / name, "hdf5", dataset_entries(out / name)) for name in ("model.weights.h5", "model.h5")]
    for name in ("model.keras", "untrained.keras"):
        with zipfile.ZipFile(out / name) as archive:
            truth.append(one_file(out / name, "keras", dataset_entries(archive.open("model.weights.h5"))))
    (out / "shards").mkdir(exist_ok=True)
    made.save_weights(out / "shards" / "model.weights.json", max_shard_size=1e-6)
    shards = sorted((out / "shards").glob("*.h5"))
    truth.append(folder(out / "shards", {path.name: dataset_entries(path) for path in shards}))
    return truth


if __name__ == "__main__":
    main(write)
