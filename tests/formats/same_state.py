"""Writes one state in the formats of several frameworks: a transformer's weights as RoBERTa-base has them.

usage: same_state.py OUTDIR NAME [--small] FORMAT...

Makes OUTDIR/NAME with the suffix of each FORMAT; they are the keys of FORMATS. 199 tensors of fp32, 499 MB, the same
ones each time; --small makes 71 tensors and 17 MB.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import h5py
import numpy as np
import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]


def state(width: int, layers: int, vocabulary: int) -> State:
    """Random weights with the spread of trained ones; biases and norms as small as they are in life."""
    random = torch.Generator().manual_seed(3)
    made: State = {}

    def add(name: str, *shape: int) -> None:
        made[name] = torch.randn(shape, generator=random) * 0.02

    def add_linear(name: str, into: int, out: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def add_norm(name: str) -> None:
        made[f"{name}.weight"] = 1 + torch.randn(width, generator=random) * 0.1
        add(f"{name}.bias", width)

    add("embeddings.word_embeddings.weight", vocabulary, width)
    add("embeddings.position_embeddings.weight", 514, width)
    add("embeddings.token_type_embeddings.weight", 1, width)
    add_norm("embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            add_linear(f"{layer}.attention.self.{part}", width, width)
        add_linear(f"{layer}.attention.output.dense", width, width)
        add_norm(f"{layer}.attention.output.LayerNorm")
        add_linear(f"{layer}.intermediate.dense", width, 4 * width)
        add_linear(f"{layer}.output.dense", 4 * width, width)
        add_norm(f"{layer}.output.LayerNorm")
    add_linear("pooler.dense", width, width)
    return made


def torch_zip(weights: State, path: Path) -> None:
    torch.save(weights, path)


def torch_legacy(weights: State, path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def lightning(weights: State, path: Path) -> None:
    """The keys of a checkpoint by Lightning with `save_weights_only`, in its order."""
    torch.save(
        {
            "epoch": 3,
            "global_step": 12_000,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
            "loops": {},
            "hparams_name": "kwargs",
            "hyper_parameters": {"width": 768, "rate": 1e-4, "path": str(path.name)},
        },
        path,
    )


def safetensors(weights: State, path: Path) -> None:
    save_file(weights, path, metadata={"format": "pt"})


def hdf5(weights: State, path: Path) -> None:
    """Datasets as Keras names them, each group a layer."""
    with h5py.File(path, "w") as file:
        for name, tensor in weights.items():
            layer, kind = name.rsplit(".", 1)
            file.create_dataset(f"layers/{layer.replace('.', '/')}/vars/{int(kind == 'bias')}", data=tensor.numpy())


def keras(weights: State, path: Path) -> None:
    """What Keras 3 puts into a .keras: texts and an HDF5 file, stored."""
    inner = path.with_suffix(".inner.h5")
    hdf5(weights, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1", "date_saved": "2026-11-26@09:30:00"}')
        archive.writestr("config.json", '{"module": "keras", "class_name": "Functional", "config": {}}')
        archive.write(inner, "model.weights.h5")
    inner.unlink()


def npz(weights: State, path: Path) -> None:
    np.savez(path, **{name: tensor.numpy() for name, tensor in weights.items()})


def gguf_file(weights: State, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(path.stem)
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FORMATS: dict[str, tuple[str, Callable[[State, Path], None]]] = {
    "torch-zip": (".pt", torch_zip),
    "torch-legacy": (".pth", torch_legacy),
    "lightning": (".ckpt", lightning),
    "safetensors": (".safetensors", safetensors),
    "keras": (".keras", keras),
    "hdf5": (".h5", hdf5),
    "npz": (".npz", npz),
    "gguf": (".gguf", gguf_file),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes one state in several formats.")
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("formats", nargs="+", choices=FORMATS)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    weights = state(256, 4, 4000) if options.small else state(768, 12, 50_265)
    for format_ in options.formats:
        suffix, save = FORMATS[format_]
        save(weights, options.out / f"{options.name}{suffix}")


if __name__ == "__main__":
    main()
