"""A plain PyTorch training loop that can be killed at any moment and carries on where it was.

    python examples/torch_loop.py STORE

Run it, kill it, run it again: the losses go on as if nothing had happened. `ckpt ls torch-loop --store STORE` shows
what it kept.
"""

import sys

import torch
from torch import nn

from ckpt_store.torch import CheckpointManager

STEPS = 300
SAVE_EVERY = 50


def train(store, steps=STEPS, after_step=None):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64))
    # Frozen: the store keeps it once, whatever the number of checkpoints.
    encoder.requires_grad_(False)
    head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    training = {"encoder": encoder, "head": head, "optimizer": optimizer, "schedule": schedule}

    losses = []
    with CheckpointManager(store, "torch-loop", keep_last=3, keep_best=1, metric="loss") as manager:
        step = manager.restore_latest(**training) or 0
        while step < steps:
            # Drawn from torch's generator, whose state is part of the checkpoint.
            inputs = torch.randn(32, 64)
            features = encoder(inputs)
            loss = nn.functional.mse_loss(head(features), features[:, :1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            losses.append((step, loss.item()))
            if step % SAVE_EVERY == 0:
                manager.save(step, metrics={"loss": loss}, **training)
            if after_step is not None:
                after_step(step, loss.item())
    return losses


if __name__ == "__main__":
    for step, loss in train(sys.argv[1]):
        if step % SAVE_EVERY == 0:
            print(f"step {step}: loss {loss:.6f}")
