"""A training loop of one's own with Accelerate that keeps its states in a store.

usage: accelerate_loop.py STORE [--steps 12] [--resume]
       accelerate launch --cpu --num_processes 2 accelerate_loop.py STORE

Kill it whenever you like and run it again with --resume: it goes on from the latest state, with the losses of a
training that was never interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

import ckpt_store.accelerate as ckpt_accelerate

SAVE_EVERY = 3


class Progress:
    """What of the loop itself is to be kept; ``register_for_checkpointing`` takes any object with these two methods."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def train(
    store: str, steps: int = 12, resume: bool = False, after_step: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Trains and gives the loss of each step that it did."""
    accelerator = Accelerator(cpu=True)
    set_seed(1, device_specific=True)
    model = torch.nn.Sequential(
        torch.nn.Embedding(5000, 64),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 64),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(64, 1),
    )
    # A frozen part, such as an encoder that was trained before: the store keeps it once for all checkpoints.
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if resume:
        held = ckpt_accelerate.load_state(accelerator, store, "loop@latest")
        accelerator.print(f"goes on from {held.ref}")

    losses = []
    while progress.step < steps:
        progress.step += 1
        ids = torch.randint(5000, (8, 4))
        loss = (model(ids) - 1).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        if progress.step % SAVE_EVERY == 0:
            ckpt_accelerate.save_state(
                accelerator, store, run="loop", step=progress.step, metrics={"loss": losses[-1]}, replace=resume
            )
        after_step(progress.step)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint of the store")
    chosen = parser.parse_args()
    for loss in train(chosen.store, chosen.steps, chosen.resume):
        print(f"loss {loss:.4f}")
    Accelerator(cpu=True).end_training()


if __name__ == "__main__":
    main()
