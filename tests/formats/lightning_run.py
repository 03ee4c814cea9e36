"""Trains a little with Lightning and keeps what its ModelCheckpoint writes.

usage: lightning_run.py OUTDIR
"""

from __future__ import annotations

import argparse
import logging
import shutil
import warnings

import lightning
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from truth import Path, Truth, main, torch, torch_file


class Model(lightning.LightningModule):
    """A frozen encoder under a head that trains."""

    def __init__(self, width: int, options: argparse.Namespace, rates: dict[str, float]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width)).requires_grad_(False)
        self.head = nn.Linear(width, 1)
        self.rate = rates["head"]

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        loss = (self.head(self.encoder(batch[0])) - 1).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], _index: int) -> None:
        self.log("val_loss", (self.head(self.encoder(batch[0])) - 1).square().mean())

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=self.rate)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3)}


def write(out: Path) -> Truth:
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data = DataLoader(TensorDataset(torch.randn(16, 8)), batch_size=4)
    work = out / "work"
    keep = ModelCheckpoint(
        dirpath=out, monitor="val_loss", save_top_k=2, save_last=True, filename="{epoch}-{step}-{val_loss:.2f}"
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[keep, EarlyStopping("val_loss", patience=5), LearningRateMonitor()],
        default_root_dir=work,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        logger=CSVLogger(work),
        max_epochs=3,
    )
    trainer.fit(Model(24, argparse.Namespace(note="x", sizes=[1, 2]), {"head": 1e-2}), data, data)
    trainer.save_checkpoint(out / "weights.ckpt", weights_only=True)
    shutil.rmtree(work)
    return [torch_file(path) for path in sorted(out.glob("*.ckpt"))]


if __name__ == "__main__":
    main(write)
