"""PyTorch Lightning: a frozen encoder and a head that trains. Every checkpoint is kept, the encoder's bytes once.

    python examples/lightning_frozen_encoder.py              # trains
    python examples/lightning_frozen_encoder.py a@latest     # goes on from there, also after kill -9
    ckpt ls a; ckpt df                                       # what is kept, and what it takes (--store runs/store)
"""

from __future__ import annotations

import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckpt_store.lightning import StoreCheckpointIO, load_from_checkpoint


class Classifier(LightningModule):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width)).requires_grad_(False)
        self.head = nn.Linear(width, 4)

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.head.parameters(), lr=1e-3)


def main(resume: str | None) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 64)
    data = TensorDataset(inputs, inputs[:, :4].argmax(1))
    train, val = DataLoader(data, batch_size=32), DataLoader(data, batch_size=128)

    best = ModelCheckpoint(dirpath="runs/a", monitor="val_loss", save_top_k=-1, save_last="link")
    trainer = Trainer(
        max_epochs=8 if resume is None else 12,
        plugins=[StoreCheckpointIO("runs/store", run="a")],  # the one line that changes
        callbacks=[best],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), train, val, ckpt_path=resume)  # a path, or a ref such as a@latest

    model = load_from_checkpoint(Classifier, best.best_model_path)
    store = trainer.strategy.checkpoint_io.store  # type: ignore[attr-defined]
    kept = store.checkpoints("a")
    print(f"{len(kept)} checkpoints of {sum(held.logical_bytes for held in kept) / 1e6:.1f} MB in all")
    print(f"new bytes in them: {sum(held.added_bytes for held in kept) / 1e6:.1f} MB")
    print(f"best: {store.best('a', 'val_loss').ref}, width {model.hparams['width']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
