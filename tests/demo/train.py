"""A PyTorch Lightning training of a small head on a frozen pretrained encoder, its checkpoints in a store.

usage: train.py train STEPS EVERY [--resume REF] [--die-at STEP]    trains up to STEPS, saves at every EVERY
       train.py check FILE...                                       loads checkpoints: are they what was saved?

What is measured is put down in the file ``saved.jsonl``, a line for each checkpoint. All is in the current directory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Before torch is imported: it would talk of what a GPU needs.
logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.profilers import SimpleProfiler
from model import MODULES, WIDTH, Encoder, pretrained, texts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckpt_store.lightning import StoreCheckpointIO

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
BATCH, HELD_OUT = 8, 64
SAVED = Path("saved.jsonl")


class Classifier(LightningModule):
    """The frozen encoder under the only part that trains: 0.2 M parameters of 22.9 M."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = encoder.requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, len(MODULES)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        scores = self(batch[0])
        self.log("val_loss", F.cross_entropy(scores, batch[1]))
        self.log("val_right", (scores.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.head.parameters(), lr=1e-3)


class Watch(Callback):
    """Writes the same checkpoint once more, as Lightning without a store does, to compare; tells what each took."""

    def __init__(self, profiler: SimpleProfiler, die_at: int | None) -> None:
        self.profiler, self.die_at = profiler, die_at
        self.waiting: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning calls this while it times the save, so the time that it takes is taken off again.
        start = time.perf_counter()
        file = Path("as-lightning-alone.ckpt")
        TorchCheckpointIO().save_checkpoint(checkpoint, file)
        torch_seconds = time.perf_counter() - start
        self.waiting = {
            "step": trainer.global_step,
            "loss": trainer.callback_metrics["val_loss"].item(),
            "right": trainer.callback_metrics["val_right"].item(),
            "torch_bytes": file.stat().st_size,
            "torch_seconds": torch_seconds,
            "tensors": digest(checkpoint),
        }
        file.unlink()
        self.waiting["seconds_here"] = time.perf_counter() - start

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.tell()
        if trainer.global_step == self.die_at:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, *_: Any) -> None:
        self.tell()

    def tell(self) -> None:
        if self.waiting is None:
            return
        saved, self.waiting = self.waiting, None
        saved["seconds"] = self.profiler.recorded_durations["save_checkpoint"][-1] - saved.pop("seconds_here")
        with SAVED.open("a") as file:
            file.write(json.dumps(saved) + "\n")
        print(
            f"step {saved['step']}: loss {saved['loss']:.3f}, {saved['right']:.0%} right; "
            f"saved in {saved['seconds']:.2f} s, by torch.save in {saved['torch_seconds']:.2f} s",
            flush=True,
        )


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
        elif isinstance(value, (list, tuple)):
            for at, item in enumerate(value):
                walk(f"{path}/{at}", item)

    walk("", value)
    return sums.hexdigest()


def data() -> tuple[DataLoader[Any], DataLoader[Any]]:
    ids, labels = texts()
    held_out, rest = (TensorDataset(ids[part], labels[part]) for part in (slice(HELD_OUT), slice(HELD_OUT, None)))
    order = torch.Generator().manual_seed(2)
    return DataLoader(rest, BATCH, shuffle=True, generator=order), DataLoader(held_out, HELD_OUT)


def train(steps: int, every: int, resume: str | None, die_at: int | None) -> None:
    model, (batches, held_out) = Classifier(pretrained()), data()
    if resume is None:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        everything = sum(p.numel() for p in model.parameters())
        print(f"{everything / 1e6:.1f} M parameters, of which {trained / 1e6:.1f} M train")
    else:
        print(f"goes on from {resume}")
    profiler = SimpleProfiler()
    trainer = Trainer(
        max_steps=steps,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        callbacks=[ModelCheckpoint(dirpath="checkpoints", monitor="val_loss", save_top_k=-1), Watch(profiler, die_at)],
        plugins=[StoreCheckpointIO(".ckpt", run="demo")],  # the one line that changes
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=profiler,
    )
    profiler.summary = lambda: ""  # type: ignore[method-assign]  # its durations are wanted, not its table
    trainer.fit(model, batches, held_out, ckpt_path=resume)


def check(files: list[Path]) -> None:
    saved = {one["step"]: one for one in map(json.loads, SAVED.read_text().splitlines())}
    model, (_, held_out) = Classifier(Encoder()), data()
    ids, labels = next(iter(held_out))
    for file in files:
        loaded = torch.load(file, weights_only=True)
        truth = saved[loaded["global_step"]]
        assert digest(loaded) == truth["tensors"], f"{file} is not what was saved"
        model.load_state_dict(loaded["state_dict"], strict=True)
        torch.optim.AdamW(model.head.parameters()).load_state_dict(loaded["optimizer_states"][0])
        with torch.no_grad():
            loss = F.cross_entropy(model(ids), labels).item()
        assert math.isclose(loss, truth["loss"], rel_tol=1e-4), f"loss {loss}, but {truth['loss']} when it was saved"
        print(f"torch loads {file.name}: every tensor identical, loss {loss:.3f} as when it was saved")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    for_train, for_check = verbs.add_parser("train"), verbs.add_parser("check")
    for_train.add_argument("steps", type=int)
    for_train.add_argument("every", type=int)
    for_train.add_argument("--resume")
    for_train.add_argument("--die-at", type=int)
    for_check.add_argument("files", type=Path, nargs="+")
    told = parser.parse_args()
    if told.verb == "train":
        train(told.steps, told.every, told.resume, told.die_at)
    else:
        check(told.files)
