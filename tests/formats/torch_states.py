"""States of every kind that people hand to torch.save. Writes nothing."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn

DTYPES_FLOAT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES_INT = (torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
DTYPES_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)


class Mode(enum.Enum):
    """An Enum, as hyperparameters have them."""

    TRAIN = "train"
    TEST = "test"


class Level(enum.IntEnum):
    """One that is a number too."""

    LOW = 1


class Named(torch.Tensor):
    """A subclass of Tensor with an attribute of its own."""


@dataclasses.dataclass
class Settings:
    """A class of the user's own that holds no tensor."""

    depth: int = 3
    mode: Mode = Mode.TEST
    rates: tuple[float, ...] = (0.1, 0.2)


class Config(dict):
    """A dict with attributes, as many libraries have."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Net(nn.Module):
    """A model with the usual parts: tied weights, buffers, a list, an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, bidirectional=True)
        self.norm = nn.BatchNorm1d(32)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.randn(3)), "b": nn.Parameter(torch.randn(2, 2))})
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(12))
        self.settings = Settings()


def old_dtypes() -> dict[str, torch.Tensor]:
    """A tensor of each type that torch has a storage class for."""
    random = torch.randn(37, 11)
    state = {str(t).removeprefix("torch."): random.to(t) for t in DTYPES_FLOAT}
    state |= {str(t).removeprefix("torch."): (random * 50).to(t) for t in DTYPES_INT}
    state["uint8"] = (random * 50).abs().to(torch.uint8)
    state["bool"] = random > 0
    state["complex64"] = torch.randn(5, 7, dtype=torch.complex64)
    state["complex128"] = torch.randn(5, 7, dtype=torch.complex128)
    return state


def dtypes() -> dict[str, torch.Tensor]:
    """A tensor of each type."""
    random = torch.randn(37, 11)
    state = {str(t).removeprefix("torch."): random.to(t) for t in DTYPES_FLOAT8}
    state |= {str(t).removeprefix("torch."): (random * 50).abs().to(torch.int32).to(t) for t in DTYPES_UNSIGNED}
    return old_dtypes() | state


def views() -> dict[str, torch.Tensor]:
    base = torch.randn(40, 24)
    return {
        "row_range": base[10:20],
        "one_row": base[3],
        "column": base[:, 5],
        "every_third": base[::3, 1::2],
        "transposed": base.t(),
        "permuted": base.reshape(4, 10, 24).permute(2, 0, 1),
        "channels_last": torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last),
        "expanded": torch.randn(6, 1).expand(6, 9),
        "expanded_scalar": torch.tensor(2.5).expand(4, 4),
        "all": base,
        "again": base,
        "flat": base.view(-1),
        "other_type": torch.arange(12, dtype=torch.int32).view(torch.int8),
        "window": torch.arange(20.0).unfold(0, 5, 2),
        "empty": torch.empty(0),
        "empty_rows": torch.empty(0, 5, dtype=torch.int64),
        "empty_slice": base[40:],
        "scalar": torch.tensor(3.5),
        "scalar_view": base[2, 3],
    }


def tied() -> dict[str, torch.Tensor]:
    weight = nn.Parameter(torch.randn(64, 32))
    return {
        "embed.weight": weight.detach(),
        "head.weight": weight.detach(),
        "parameter": weight,
        "parameter.again": weight,
        "frozen": nn.Parameter(torch.randn(8), requires_grad=False),
        "grown": torch.randn(3, requires_grad=True),
        "buffer": nn.Buffer(torch.randn(4)),
    }


def conjugated() -> dict[str, torch.Tensor]:
    """Tensors whose stored elements are not their values: a flag says that they are to be conjugated."""
    value = torch.randn(6, 4, dtype=torch.complex64)
    return {"plain": value, "conj": value.conj(), "adjoint": value.mH, "resolved": value.conj().resolve_conj()}


def sparse() -> dict[str, torch.Tensor]:
    dense = torch.zeros(30, 20)
    dense[3, 4], dense[10, 2], dense[29, 19] = 1.0, 2.0, 3.0
    repeated = torch.sparse_coo_tensor(torch.tensor([[0, 0, 2], [1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0]), (3, 4))
    return {
        "coo": dense.to_sparse(),
        "uncoalesced": repeated,
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((5, 5)),
        "dense": dense,
    }


def quantized() -> dict[str, torch.Tensor]:
    value = torch.randn(16, 8)
    scales, zeros = torch.rand(16, dtype=torch.float64) + 0.1, torch.zeros(16, dtype=torch.int64)
    return {
        "signed": torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "unsigned": torch.quantize_per_tensor(value, 0.1, 128, torch.quint8),
        "wide": torch.quantize_per_tensor(value, 0.01, 3, torch.qint32),
        "channels": torch.quantize_per_channel(value, scales, zeros, 0, torch.qint8),
        "plain": value,
    }


def containers() -> dict[str, Any]:
    """Nested containers with all that hyperparameters bring along."""
    special = torch.randn(4, 3).as_subclass(Named)
    special.note = "an attribute"
    weights = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)).state_dict()  # an OrderedDict with _metadata
    counts = collections.defaultdict(list)
    counts["losses"].extend([0.5, torch.tensor(0.25), torch.ones(2, dtype=torch.float64)])
    return {
        "model": weights,
        "list": [torch.ones(2), {"deep": (torch.zeros(3), [torch.arange(4)])}, 3, None],
        "tuple": (torch.full((2, 2), 7), "text", b"bytes", 2.5, 1 << 70, -5, True),
        "counts": counts,
        "ordered": collections.OrderedDict(b=torch.ones(1), a=torch.zeros(1)),
        3: {0: torch.ones(3), 12: {"step": torch.tensor(4.0)}},
        "naïve Größe/🙂": torch.randn(2),
        "subclass": special,
        "parameters": nn.ParameterList([torch.randn(3), torch.randn(2)]).state_dict(),
        "hyper_parameters": {
            "args": argparse.Namespace(lr=1e-3, layers=[1, 2], mode=Mode.TRAIN),
            "mode": Mode.TEST,
            "level": Level.LOW,
            "settings": Settings(),
            "config": Config(width=5, nested=Config(depth=2)),
            "rate": np.float64(0.25),
            "count": np.int64(7),
            "flag": np.bool_(True),
            "path": pathlib.PurePosixPath("some/where"),
            "array": np.arange(5, dtype=np.float32),
            "dtype": torch.bfloat16,
            "size": torch.Size([2, 3]),
            "device": torch.device("cpu"),
            "set": {1, 2},
            "frozen": frozenset({"a"}),
            "slice": slice(1, 2, None),
            "range": range(3),
            "complex": 1 + 2j,
            "function": torch.nn.functional.softmax,
            "class": nn.Linear,
            "counter": collections.Counter("aab"),
            "queue": collections.deque([1, 2], maxlen=5),
            "bytes": bytearray(b"abc"),
        },
    }


def objects() -> dict[str, Any]:
    """Tensors that are attributes of objects."""
    return {
        "namespace": argparse.Namespace(mean=torch.ones(3), inner=argparse.Namespace(std=torch.zeros(2)), name="x"),
        "config": Config(weight=torch.randn(2)),
        "module": nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.BatchNorm1d(2)),
    }


def many() -> dict[str, torch.Tensor]:
    """More tensors than one memo byte can count."""
    return {f"layer.{i}.norm": torch.full((i % 5 + 1,), float(i)) for i in range(700)}


def optimizers() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    state: dict[str, Any] = {"model": model.state_dict()}
    for kind in (torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        optimizer = kind(model.parameters(), lr=1e-2, **options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()
            schedule.step()
        state[kind.__name__] = {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    return state


def flattened_lstm() -> collections.OrderedDict[str, torch.Tensor]:
    """An LSTM's weights as cuDNN lays them out: all of them views of one storage, with padding between."""
    lstm = nn.LSTM(8, 12, num_layers=2)
    room = sum(-(-p.numel() // 32) * 32 for p in lstm.parameters())
    flat, at = torch.zeros(room), 0
    for parameter in lstm.parameters():
        view = flat[at : at + parameter.numel()].view(parameter.shape)
        view.copy_(parameter.detach())
        parameter.data = view
        at += -(-parameter.numel() // 32) * 32
    return lstm.state_dict()


def all_states() -> dict[str, Any]:
    """Every state by the name of its file."""
    return {
        "dtypes": dtypes(),
        "views": views(),
        "tied": tied(),
        "conjugated": conjugated(),
        "sparse": sparse(),
        "quantized": quantized(),
        "containers": containers(),
        "objects": objects(),
        "many": many(),
        "optimizers": optimizers(),
        "flattened_lstm": flattened_lstm(),
        "module": Net(),
        "bare": torch.randn(20, 30),
        "bare_view": torch.randn(20, 30)[3:9, 2:5],
        "list": [torch.ones(3), (torch.zeros(2), {"x": torch.arange(3)})],
        "large": {"weight": torch.randn(300, 400), "other": torch.randn(513, 129).bfloat16()},
        "empty": {},
        "no_tensor": {"epoch": 3, "losses": [0.5, 0.25]},
    }
