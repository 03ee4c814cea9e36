"""Trains a tiny GPT-2 with Transformers' Trainer and keeps every checkpoint in a store.

usage: transformers_trainer.py OUTPUT_DIR STORE [--steps 12] [--resume]

Kill it whenever you like and run it again with --resume: it goes on from the latest checkpoint, and the losses are
those of a training that was never interrupted.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import ckpt_store as ckpt
from ckpt_store.transformers import StoreCallback


class Lines(torch.utils.data.Dataset):
    """Token ids made up on the spot, in the place of your data set."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(12) * (self.first + index + 3) % 90
        return {"input_ids": ids, "labels": ids}


def make_trainer(output_dir: str, callback: StoreCallback, steps: int = 12, **more: Any) -> Trainer:
    """A Trainer as you have it already, with one more callback."""
    set_seed(1)
    sizes = {"vocab_size": 2000, "n_positions": 16, "n_embd": 64, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes))
    # A frozen part, such as an encoder that was trained before: the store keeps it once for all checkpoints.
    model.transformer.wte.requires_grad_(False)
    chosen: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(output_dir=output_dir, **(chosen | more))
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=Lines(0, 40),
        eval_dataset=Lines(40, 8),
        callbacks=[callback],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("store")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint of the store")
    chosen = parser.parse_args()
    trainer = make_trainer(chosen.output_dir, StoreCallback(chosen.store, run="tiny"), chosen.steps)
    trainer.train(resume_from_checkpoint=ckpt.materialize(chosen.store, "tiny@latest") if chosen.resume else None)
    for held in ckpt.Store(chosen.store).checkpoints("tiny"):
        loss = held.metrics["eval_loss"]
        print(f"{held.ref}: eval_loss {loss:.3f}, {held.added_bytes:,} of {held.logical_bytes:,} bytes were new")


if __name__ == "__main__":
    main()
