"""A Lightning training with a frozen encoder whose ModelCheckpoint keeps every validation's checkpoint in a store.

usage: hooks_lightning.py FOLDER SCALE VALIDATIONS

The encoder and what trains have the shapes of frozen_encoder.py at SCALE. At every tenth save the same checkpoint is
written once more as Lightning alone does, to the same disk, measured, and removed. One checkpoint is loaded at the end
and compared. Prints one line of JSON: bytes, and seconds of each save.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before torch is imported: it would talk of what a GPU needs.
logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)

import torch
import torch.nn.functional as F
from frozen_encoder import FROZEN_LAYERS, FROZEN_PARAMETERS, TRAINED_LAYERS, TRAINED_PARAMETERS, layers
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckpt_store.lightning import StoreCheckpointIO, load_from_checkpoint

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
ALONE_EVERY = 10
STEPS_BETWEEN, BATCH, CLASSES = 5, 4, 16


class Layer(nn.Module):
    """The four matrices of a transformer's layer, on one token."""

    def __init__(self, matrices: list[torch.Tensor]) -> None:
        super().__init__()
        self.qkv, self.o, self.up, self.down = (nn.Parameter(matrix) for matrix in matrices)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # One token has nobody to attend to but itself; queries and keys are in use all the same, so that all train.
        query, key, value = F.linear(F.layer_norm(x, x.shape[-1:]), self.qkv).chunk(3, -1)
        x = x + F.linear((query * key).sigmoid() * value, self.o)
        return x + F.linear(F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), self.up)), self.down)


def stack(count: int, parameters: float, spread_growth: float) -> tuple[nn.Sequential, int]:
    """So many layers with so many parameters in all, and their width."""
    made = list(layers("", count, parameters, torch.Generator().manual_seed(7), spread_growth).values())
    return nn.Sequential(*[Layer(made[4 * i : 4 * i + 4]) for i in range(count)]), made[1].shape[0]


class Model(LightningModule):
    """A frozen encoder, and a smaller stack on it that trains."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.se_model, self.width = stack(FROZEN_LAYERS, FROZEN_PARAMETERS * scale, 0.001)
        self.se_model.requires_grad_(False)
        self.st, self.trained_width = stack(TRAINED_LAYERS, TRAINED_PARAMETERS * scale, 0.0)
        self.register_buffer("classes", torch.randn(CLASSES, self.trained_width) / self.trained_width**0.5)

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            known = self.se_model(batch[0][:, : self.width])
        return F.cross_entropy(F.linear(self.st(known[:, : self.trained_width]), self.classes), batch[1])

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.st.parameters(), lr=1e-4)


class Measured(StoreCheckpointIO):
    """The plugin, its saves timed; and Lightning's own beside it now and then."""

    def __init__(self, folder: Path, checked: int) -> None:
        super().__init__(folder / "store", run="a")
        self.alone = folder / "alone.ckpt"
        self.checked = checked
        self.found: dict[str, list[float]] = {"seconds": [], "alone_seconds": [], "alone_bytes": []}
        self.digest = ""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        number = len(self.found["seconds"])
        if number % ALONE_EVERY == 0:
            start = time.perf_counter()
            TorchCheckpointIO().save_checkpoint(checkpoint, self.alone)
            self.found["alone_seconds"].append(time.perf_counter() - start)
            self.found["alone_bytes"].append(self.alone.stat().st_size)
            self.alone.unlink()
            os.sync()
        start = time.perf_counter()
        super().save_checkpoint(checkpoint, path, storage_options)
        self.found["seconds"].append(time.perf_counter() - start)
        if number == self.checked:
            self.digest = digest(checkpoint)


def digest(value: Any) -> str:
    """The BLAKE2b of all tensors in it, with the way to each, its dtype and its shape."""
    sums = hashlib.blake2b()

    def walk(path: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            sums.update(f"{path} {value.dtype} {tuple(value.shape)}".encode())
            sums.update(value.detach().contiguous().numpy())
        elif isinstance(value, dict):
            for key in value:
                walk(f"{path}/{key}", value[key])

    walk("", value["state_dict"])
    walk("", value["optimizer_states"][0]["state"])
    return sums.hexdigest()


def main(folder: Path, scale: float, validations: int) -> None:
    torch.manual_seed(0)
    model = Model(scale)
    count = BATCH * STEPS_BETWEEN * validations
    data = TensorDataset(torch.randn(count, model.width), torch.arange(count) % CLASSES)
    held_out = TensorDataset(*data[: 4 * BATCH])
    plugin = Measured(folder, checked=validations // 2)
    keeper = ModelCheckpoint(folder / "checkpoints", filename="{step}", monitor="val_loss", save_top_k=-1)
    trainer = Trainer(
        max_steps=validations * STEPS_BETWEEN,
        val_check_interval=STEPS_BETWEEN,
        check_val_every_n_epoch=None,
        callbacks=[keeper],
        plugins=[plugin],
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(data, BATCH, shuffle=True), DataLoader(held_out, BATCH))

    kept = plugin.store.checkpoints("a")
    assert len(kept) == len(plugin.found["seconds"]) == validations, f"{len(kept)} checkpoints are kept"
    step = (plugin.checked + 1) * STEPS_BETWEEN
    loaded = plugin.store.load(f"a@{step}")
    assert digest(loaded) == plugin.digest, f"step {step} is not what was saved"
    stub = folder / "checkpoints" / f"step={step}.ckpt"
    again = load_from_checkpoint(Model, stub, strict=True)
    assert all(torch.equal(tensor, loaded["state_dict"][name]) for name, tensor in again.state_dict().items())
    bytes_of = lambda frozen: sum(p.nbytes for p in model.parameters() if p.requires_grad != frozen)  # noqa: E731
    facts = {
        # Adam's two moments beside the weights.
        "trained_bytes": 3 * bytes_of(False),
        "frozen_bytes": bytes_of(True),
        "step": step,
        "logical_bytes": sum(held.logical_bytes for held in kept),
        "stub_bytes": sum(file.stat().st_size for file in (folder / "checkpoints").iterdir()),
    }
    print(json.dumps(plugin.found | facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
