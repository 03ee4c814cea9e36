"""Writes TorchScript archives: scripted, traced, frozen into constants.

usage: torch_script.py OUTDIR
"""

from __future__ import annotations

from torch import nn
from truth import Path, Truth, main, one_file, tensors_in, torch


class Gate(nn.Module):
    """A module whose forward needs scripting."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(30, 20)
        self.norm = nn.BatchNorm1d(20)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            x = -x
        return self.norm(self.linear(x))


def write(out: Path) -> Truth:
    lstm = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.LSTM(6, 4))
    scripts = {
        "scripted.pt": torch.jit.script(Gate().eval()),
        "traced.pt": torch.jit.trace(lstm, torch.randn(3, 2, 6)),
        "half.pt": torch.jit.script(nn.Linear(200, 300).bfloat16()),
    }
    truth = []
    for name, script in scripts.items():
        script.save(out / name)
        truth.append(one_file(out / name, "torchscript", tensors_in(dict(torch.jit.load(out / name).state_dict()))))
    return truth


if __name__ == "__main__":
    main(write)
