"""Trains a small byte-level GPT on the source of Python's standard library and saves real checkpoints of it.

usage: real_run.py OUTDIR LEARNING_RATE STEPS SAVE_AT[,SAVE_AT...] [--from START.ckpt]

Real weights and Adam moments with a real drift between checkpoints: 3.3 M parameters, 40 MB a checkpoint, about 0.25 s
a step on two cores. --from takes over the weights of an earlier checkpoint with a fresh optimizer, as a fine-tune does.
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 256, 4, 4, 128, 12
FILES = 150


class Block(nn.Module):
    """One pre-norm transformer layer with causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    """Predicts the next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.position = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)))


def corpus() -> torch.Tensor:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:FILES]
    return torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8).long()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a small model and saves checkpoints.")
    parser.add_argument("out", type=Path)
    parser.add_argument("learning_rate", type=float)
    parser.add_argument("steps", type=int)
    parser.add_argument("save_at", type=lambda text: {int(s) for s in text.split(",")})
    parser.add_argument("--from", dest="start", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, data = Gpt(), corpus()
    if options.start:
        model.load_state_dict(torch.load(options.start, weights_only=True)["state_dict"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    began = time.monotonic()
    for step in range(1, options.steps + 1):
        at = torch.randint(len(data) - CONTEXT - 1, (BATCH,))
        x, y = (torch.stack([data[i + shift : i + shift + CONTEXT] for i in at]) for shift in (0, 1))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in options.save_at:
            state = {
                "state_dict": model.state_dict(),
                "optimizer_states": [optimizer.state_dict()],
                "global_step": step,
            }
            torch.save(state, options.out / f"step-{step}.ckpt")
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
