"""Writes checkpoints in which a large frozen encoder repeats and a small head trains, with its Adam moments.

usage: frozen_encoder.py OUTDIR COUNT SCALE [--format ckpt|safetensors]

SCALE 1.0 is an encoder of 600 M parameters under 48.9 M that train, in fp32: 3 GB a file. The weights are random with
the spread of trained ones, so they compress as trained ones do. Every run writes the same files: OUTDIR/step-250.ckpt,
step-500.ckpt and so on. Prints one line of JSON: the bytes of all files, of the frozen tensors, and of what trains.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
FROZEN_PARAMETERS, FROZEN_LAYERS = 600e6, 24
TRAINED_PARAMETERS, TRAINED_LAYERS = 48.9e6, 4
STEPS_BETWEEN = 250


def layers(prefix: str, count: int, parameters: float, random: torch.Generator, spread_growth: float = 0.0) -> Tensors:
    """Makes transformer layers of 12 d^2 parameters each; the spread of the weights grows from layer to layer."""
    d = int((parameters / count / 12) ** 0.5)
    shapes = {"qkv": (3 * d, d), "o": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
    tensors = {}
    for i in range(count):
        for name, shape in shapes.items():
            tensors[f"{prefix}.layers.{i}.{name}.weight"] = torch.randn(shape, generator=random) * (
                0.02 + spread_growth * i
            )
    return tensors


def encoder(scale: float, random: torch.Generator) -> Tensors:
    tensors = layers("se_model", FROZEN_LAYERS, FROZEN_PARAMETERS * scale, random, spread_growth=0.001)
    width = tensors["se_model.layers.0.o.weight"].shape[0]
    return tensors | {f"se_model.layers.{i}.norm.weight": torch.ones(width) for i in range(FROZEN_LAYERS)}


class Head:
    """The part that trains: weights and Adam's two moments."""

    def __init__(self, scale: float, random: torch.Generator) -> None:
        self.random = random
        self.weights = layers("st", TRAINED_LAYERS, TRAINED_PARAMETERS * scale, random)
        self.mean = {k: self.noise(w) for k, w in self.weights.items()}
        self.square = {k: self.noise(w) ** 2 for k, w in self.weights.items()}

    def noise(self, like: torch.Tensor, size: float = 1e-4) -> torch.Tensor:
        return torch.randn(like.shape, generator=self.random) * size

    def train(self) -> None:
        """Lets the weights drift by about 1 % of their spread, and the moments lose most of what they remembered."""
        for k, w in self.weights.items():
            self.weights[k] = w + self.noise(w, 2e-4)
            self.mean[k] = 0.1 * self.mean[k] + self.noise(w)
            self.square[k] = 0.9 * self.square[k] + 0.1 * self.noise(w) ** 2

    def tensors(self) -> list[torch.Tensor]:
        return [*self.weights.values(), *self.mean.values(), *self.square.values()]

    def optimizer_state(self, step: int) -> dict:
        moments = zip(self.mean.values(), self.square.values(), strict=True)
        state = {
            i: {"step": torch.tensor(float(step)), "exp_avg": m, "exp_avg_sq": v} for i, (m, v) in enumerate(moments)
        }
        return {"state": state, "param_groups": [{"lr": 1e-4, "params": list(state)}]}


def save(out: Path, name: str, frozen: Tensors, head: Head, step: int) -> Path:
    weights = frozen | head.weights
    if name == "safetensors":
        path = out / f"step-{step}.safetensors"
        save_file(weights, path, metadata={"format": "pt"})
        return path
    path = out / f"step-{step}.ckpt"
    # The keys of a checkpoint by PyTorch Lightning, in its order.
    torch.save(
        {
            "epoch": step // STEPS_BETWEEN - 1,
            "global_step": step,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": weights,
            "loops": {},
            "callbacks": {},
            "optimizer_states": [head.optimizer_state(step)],
            "lr_schedulers": [],
        },
        path,
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes checkpoints with a frozen encoder.")
    parser.add_argument("out", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("scale", type=float)
    parser.add_argument("--format", choices=("ckpt", "safetensors"), default="ckpt")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(7)
    frozen, head = encoder(options.scale, random), Head(options.scale, random)
    total = 0
    for i in range(options.count):
        if i:
            head.train()
        total += save(options.out, options.format, frozen, head, STEPS_BETWEEN * (i + 1)).stat().st_size
    bytes_of = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    print(
        json.dumps(
            {"bytes": total, "frozen_bytes": bytes_of(frozen.values()), "trained_bytes": bytes_of(head.tensors())}
        )
    )


if __name__ == "__main__":
    main()
