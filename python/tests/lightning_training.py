"""A small training for the tests of the Lightning hook: a frozen part, a part that trains, and data that depend on the
step alone.

As a script it trains in a process of its own: ``lightning_training.py '{"root": ..., ...}'``; see :func:`main`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

STEPS_PER_EPOCH = 4
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Model(LightningModule):
    """Frozen: 64 x 256 numbers (64 KiB). Trained, by Adam: 256 x 4."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(7)
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.Tanh()).requires_grad_(False)
        self.head = nn.Linear(width, 4)
        self.losses: list[float] = []

    def loss_at(self, step: int) -> torch.Tensor:
        data = torch.randn(8, 64, generator=torch.Generator().manual_seed(step))
        return (self.head(self.encoder(data)) - data[:, :4].sign()).square().mean()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.loss_at(self.global_step)
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        # The best is not the last.
        self.log("val_loss", [0.125, 0.75, 0.25, 0.5][self.current_epoch % 4])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(STEPS_PER_EPOCH, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(1, 1))  # type: ignore[arg-type]


class KillAt(Callback):
    """Ends the process after a step as kill -9 does, before anything is saved there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer_of(root: str | Path, *, plugins: Any = None, callbacks: Any = (), **arguments: Any) -> Trainer:
    """A Trainer without talk."""
    arguments = {"max_steps": 12, "accelerator": "cpu", "devices": 1, **arguments}
    return Trainer(
        default_root_dir=str(root),
        plugins=plugins,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )


def same(a: Any, b: Any, of_a: str, of_b: str) -> bool:
    """Whether two checkpoints are equal but for the directories that their ModelCheckpoints remember."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        moved = {key.replace(of_a, of_b) if isinstance(key, str) else key: value for key, value in a.items()}
        return moved.keys() == b.keys() and all(same(value, b[key], of_a, of_b) for key, value in moved.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, of_a, of_b) for x, y in zip(a, b, strict=True))
    return bool((a.replace(of_a, of_b) if isinstance(a, str) else a) == b)


def tree(directory: Path) -> dict[str, str | None]:
    """The names in a directory, and where links lead."""
    return {path.name: os.readlink(path) if path.is_symlink() else None for path in sorted(directory.iterdir())}


def saver(dirpath: Path, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=str(dirpath), **arguments)


def fit(root: Path, keeper: Any, savers: list[Any], resume: Any = None, **arguments: Any) -> tuple[Trainer, Model]:
    model = Model()
    trainer = trainer_of(root, plugins=[keeper] if keeper else None, callbacks=savers, **arguments)
    trainer.fit(model, ckpt_path=resume)
    return trainer, model


def state(step: int = 1, value: float = 0.0, **more: Any) -> dict[str, Any]:
    weights = {"w": torch.full((9000,), value)}
    return {"global_step": step, "epoch": 0, "pytorch-lightning_version": "2.6.6", "state_dict": weights, **more}


def uninterrupted() -> list[float]:
    """The losses of twelve steps in one go, without a store."""
    model = Model()
    trainer_of(".").fit(model)
    assert len(set(model.losses)) == 12
    return model.losses


def main(told: dict[str, Any]) -> Model:
    """Trains as told: root, store, steps, every, resume, kill_at, kill_before_stub, strategy, devices, out."""
    from ckpt_store.lightning import AsyncStoreCheckpointIO, StoreCheckpointIO, stub_files

    if told.get("kill_before_stub"):
        write = stub_files.write

        def killing(place: Any, stub: Any) -> None:
            if stub.step == told["kill_before_stub"]:
                os.kill(os.getpid(), signal.SIGKILL)
            write(place, stub)

        stub_files.write = killing
    keeper = (AsyncStoreCheckpointIO if told.get("asynchronous") else StoreCheckpointIO)(told["store"], run="a")
    saving = ModelCheckpoint(dirpath=f"{told['root']}/ckpts", every_n_train_steps=told.get("every", 2), save_top_k=-1)
    callbacks: list[Callback] = [saving]
    if told.get("kill_at"):
        callbacks.append(KillAt(told["kill_at"]))
    model = Model()
    trainer = trainer_of(
        told["root"],
        plugins=[keeper],
        callbacks=callbacks,
        max_steps=told.get("steps", 12),
        strategy=told.get("strategy", "auto"),
        devices=told.get("devices", 1),
    )
    trainer.fit(model, ckpt_path=told.get("resume"))
    Path(f"{told['out']}.{trainer.global_rank}").write_text(json.dumps(model.losses))
    return model


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
