"""Loads checkpoints by the frameworks' loaders, from the files as they were and from a mounted store, and compares.

usage: mounted_loaders.py write OUTDIR
       mounted_loaders.py compare OUTDIR MOUNT EXPORTS

`write` makes files. Stored are the folder as `all@1` and each file of `SINGLE` as its own run, by the name without its
suffix; EXPORTS has what `ckpt get --as safetensors` gives of those. `compare` prints how many things it compared.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Or it would leave a file of settings in the home directory.
home = tempfile.TemporaryDirectory()
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": home.name, "HF_HUB_OFFLINE": "1"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

import h5py
import keras
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

# What each is, and whether it is one state_dict, so that its views have the names of its tensors.
SINGLE = ["state.pt", "legacy.pth", "weights.safetensors", "model.keras", "datasets.h5", "arrays.npz"]
compared = 0


def state() -> dict[str, torch.Tensor]:
    """Tensors of many types and sizes: of several chunks, smaller than a page, empty, of one element."""
    random = torch.Generator().manual_seed(5)
    made = {
        "encoder.weight": torch.randn(900, 700, generator=random) * 0.02,
        "encoder.noise": torch.randint(0, 255, (3_000_001,), dtype=torch.uint8, generator=random),
        "head.bias": torch.randn(7, generator=random),
        "head.half": (torch.randn(300, 400, generator=random) * 0.02).half(),
        "steps": torch.tensor(12_000),
        "empty": torch.empty(0, 4),
        "mask": torch.rand(1000, generator=random) > 0.5,
        "double": torch.randn(33, 3, generator=random, dtype=torch.float64),
    }
    return made | {f"layer.{i}.weight": torch.randn(40, 40, generator=random) for i in range(50)}


def write(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = state()
    torch.save(weights, out / "state.pt")
    torch.save(weights, out / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": weights, "epoch": 3, "optimizer": {"lr": 1e-3}}, out / "lightning.ckpt")
    safetensors.torch.save_file(weights, out / "weights.safetensors", metadata={"format": "pt"})
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    np.savez(out / "arrays.npz", **arrays)
    np.save(out / "array.npy", arrays["encoder.weight"])
    with h5py.File(out / "datasets.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name.replace(".", "/"), data=array)
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(300), keras.layers.Dense(3)])
    model.save(out / "model.keras")
    torch.manual_seed(3)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=900, n_positions=16, n_embd=128, n_layer=2, n_head=2))
    gpt2.save_pretrained(out / "gpt2", max_shard_size="300KB")


def same(ours: Any, theirs: Any, what: str) -> None:
    """Insists that two nested structures of tensors, arrays and plain values are the same."""
    global compared
    compared += 1
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (what, ours.dtype, ours.shape)
        assert torch.equal(ours, theirs), what
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (what, ours.dtype, ours.shape)
        assert np.array_equal(ours, theirs), what
    elif isinstance(theirs, dict):
        assert sorted(ours) == sorted(theirs), (what, sorted(ours)[:5], sorted(theirs)[:5])
        for key in theirs:
            same(ours[key], theirs[key], f"{what}, {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), what
        for i in range(len(theirs)):
            same(ours[i], theirs[i], f"{what}, {i}")
    else:
        assert ours == theirs, (what, ours, theirs)


def opened(path: Path) -> dict[str, torch.Tensor]:
    """All tensors by safe_open, which maps the file, and a slice of one."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        largest = max(tensors, key=lambda name: tensors[name].nbytes)
        half = file.get_slice(largest)[: len(tensors[largest]) // 2]
    return tensors | {"a slice": half}


def keras_weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path).get_weights()


def datasets(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def pretrained(path: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


class Samples(torch.utils.data.Dataset):
    """Rows of a tensor, each read from the file by whichever process is asked: mapped once, or opened for each."""

    def __init__(self, path: Path, mapped: bool) -> None:
        self.path = path
        self.array = np.load(path, mmap_mode="r") if mapped else None

    def __len__(self) -> int:
        return 900

    def __getitem__(self, index: int) -> torch.Tensor:
        array = np.load(self.path, mmap_mode="r") if self.array is None else self.array
        return torch.from_numpy(np.array(array[index]))


def loaded_by_workers(path: Path) -> dict[str, torch.Tensor]:
    """All rows by a DataLoader of three processes: by a mapping from before they were forked, and by files of their own."""
    torch.manual_seed(11)
    made = {}
    for mapped in (True, False):
        loader = torch.utils.data.DataLoader(Samples(path, mapped), batch_size=90, num_workers=3, shuffle=True)
        made[f"mapped {mapped}"] = torch.cat(list(loader))
    return made


LOADERS: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("torch.load", "state.pt", lambda path: torch.load(path, weights_only=True)),
    ("torch.load(mmap=True)", "state.pt", lambda path: torch.load(path, mmap=True, weights_only=True)),
    ("torch.load(weights_only=False)", "lightning.ckpt", lambda path: torch.load(path, weights_only=False)),
    ("torch.load(mmap=True) of all", "lightning.ckpt", lambda path: torch.load(path, mmap=True, weights_only=True)),
    ("torch.load of an old file", "legacy.pth", lambda path: torch.load(path, weights_only=True)),
    ("safetensors load_file", "weights.safetensors", safetensors.torch.load_file),
    ("safetensors load_file to numpy", "weights.safetensors", safetensors.numpy.load_file),
    ("safe_open", "weights.safetensors", opened),
    ("keras load_model", "model.keras", keras_weights),
    ("h5py", "datasets.h5", datasets),
    ("numpy.load of a npz", "arrays.npz", arrays),
    ("numpy.load", "array.npy", np.load),
    ("numpy.load(mmap_mode)", "array.npy", lambda path: np.array(np.load(path, mmap_mode="r"))),
    ("numpy.fromfile", "array.npy", lambda path: np.fromfile(path, np.uint8)),
    ("numpy.memmap", "weights.safetensors", lambda path: np.array(np.memmap(path, np.uint8, "r"))),
    ("torch.from_file", "array.npy", lambda path: torch.from_file(str(path), size=900, dtype=torch.uint8)),
    ("from_pretrained", "gpt2", pretrained),
    ("DataLoader", "array.npy", loaded_by_workers),
]


def views(original: Path, step: Path, export: Path) -> Iterator[tuple[str, Any, Any]]:
    """Pairs of what a view brings and what it should: the export, which other tests hold against the frameworks."""
    name = original.name
    expected = safetensors.torch.load_file(export)
    yield f"{name} as safetensors", safetensors.torch.load_file(step / ".safetensors"), expected
    yield f"{name} by safe_open", opened(step / ".safetensors"), opened(export)
    listed = {path.name.removesuffix(".npy"): path for path in (step / ".tensors").iterdir()}
    assert all(path.name.endswith(".npy") for path in listed.values()), listed
    assert len(listed) == len(expected), (name, len(listed), len(expected))
    names = {name: name.replace("%2F", "/").replace("%25", "%") for name in listed}
    arrays = {names[name]: np.load(path, mmap_mode="r") for name, path in listed.items()}
    assert all(type(array) in (np.memmap, np.ndarray) for array in arrays.values())
    yield f"{name} as npy", {key: np.array(array) for key, array in arrays.items()}, {
        key: tensor.numpy() for key, tensor in expected.items()
    }


def compare(original: Path, mount: Path, exports: Path) -> None:
    wrong = []
    for words, name, load in LOADERS:
        theirs = load(original / name)
        # The first time it comes from the store, the second from the kernel's pages.
        for time in ("first", "second"):
            same(load(mount / "all" / "latest" / name), theirs, f"{words} of {name}, {time}")
    for name in SINGLE:
        run = Path(name).stem
        step = mount / run / "step-1"
        assert (step / name).read_bytes() == (original / name).read_bytes(), name
        for what, ours, theirs in views(original / name, step, exports / f"{run}.safetensors"):
            try:
                same(ours, theirs, what)
            except AssertionError as error:
                wrong.append(f"{what}: {error}")
    assert not wrong, wrong
    for name, tensor in state().items():
        same(torch.load(mount / "state" / "latest" / "state.pt", mmap=True)[name], tensor, f"{name} as it was made")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        compare(*map(Path, sys.argv[2:5]))
        print(compared)
