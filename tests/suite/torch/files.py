"""Writes files by torch and says in said.json what torch reports of their tensors. Usage: files.py names|distributed|small"""
import argparse, collections, io, json, sys, types, warnings
import torch

warnings.filterwarnings("ignore")
torch.manual_seed(7)

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.bool: "BOOL",
    torch.complex32: "C32", torch.complex64: "C64", torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.qint8: "I8", torch.quint8: "U8", torch.qint32: "I32",
}


def join(a, b):
    return f"{a}.{b}" if a else str(b)


def flat(name, value):
    """Every dense tensor in a value with the name that torch has for it."""
    if isinstance(value, torch.nn.Module):
        for key, tensor in value.state_dict(keep_vars=True).items():
            yield from flat(join(name, key), tensor)
    elif isinstance(value, torch.Tensor):
        if value.is_quantized:
            yield join(name, "int_repr"), value.int_repr()
            if value.qscheme() == torch.per_channel_affine:
                yield join(name, "scales"), value.q_per_channel_scales()
                yield join(name, "zero_points"), value.q_per_channel_zero_points()
        elif value.is_nested:
            parts = {"values": value.values(), "sizes": value._nested_tensor_size(),
                     "strides": value._nested_tensor_strides(), "storage_offsets": value._nested_tensor_storage_offsets()}
            for key, tensor in parts.items():
                yield join(name, key), tensor
        elif value.layout is torch.sparse_coo:
            yield join(name, "indices"), value._indices()
            yield join(name, "values"), value._values()
        elif value.layout in (torch.sparse_csr, torch.sparse_bsr):
            for key in ("crow_indices", "col_indices", "values"):
                yield join(name, key), getattr(value, key)()
        elif value.layout is torch.sparse_csc:
            for key in ("ccol_indices", "row_indices", "values"):
                yield join(name, key), getattr(value, key)()
        elif not (value.is_conj() or value.is_neg() or value.device.type == "meta"):
            yield name or "tensor", value.detach()
    elif isinstance(value, torch.UntypedStorage):
        yield name or "tensor", torch.tensor([], dtype=torch.uint8).set_(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(join(name, key), inner)
        for key, inner in getattr(value, "__dict__", {}).items():
            yield from flat(join(name, key), inner)
    elif isinstance(value, (list, tuple, collections.deque)):
        for position, inner in enumerate(value):
            yield from flat(join(name, position), inner)
    elif hasattr(value, "__slots__"):
        for key in value.__slots__:
            yield from flat(join(name, key), getattr(value, key))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for key, inner in vars(value).items():
            yield from flat(join(name, key), inner)


def said(tensors):
    listed = []
    for name, tensor in tensors:
        plain = tensor.contiguous().clone().view(-1)
        hexed = bytes(plain.view(torch.uint8).tolist()).hex() if plain.numel() else ""
        listed.append([name, DTYPES[tensor.dtype], list(tensor.shape), list(tensor.stride()), hexed])
    return listed


class Slotted:
    __slots__ = ("weight", "other")

    def __init__(self):
        self.weight, self.other = torch.randn(3), [torch.randn(2)]


class Plain:
    def __init__(self):
        self.ema, self.note, self.more = torch.randn(4, 2), "text", {"deep": (torch.ones(3), None)}


class Attributes(dict):
    pass


Pair = collections.namedtuple("Pair", "first second")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.rnn = torch.nn.LSTM(4, 4, num_layers=2)
        self.norm = torch.nn.BatchNorm1d(4)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 2))])
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.alone = torch.nn.Parameter(torch.randn(3))
        self.register_buffer("mask", torch.ones(2, 2))
        self.register_parameter("none", None)


class Hidden(torch.nn.Module):
    """Holds a buffer that is not in its state_dict, and itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rope", torch.randn(5), persistent=False)
        self.inner = torch.nn.Linear(2, 2)
        self.cache = {"seen": torch.randn(2), "again": self.inner.weight}
        self.parent = [self]


def cases():
    any_of = lambda dtype, *shape: torch.randint(0, 2 if dtype is torch.bool else 100, shape).to(dtype)
    dtypes = [dtype for dtype in DTYPES if not str(dtype).startswith(("torch.q", "torch.complex", "torch.float8", "torch.uint"))]
    base = torch.randn(6, 8)
    tied = torch.randn(3, 5)
    yield "dtypes", {**{str(dtype): any_of(dtype, 3, 2) for dtype in dtypes}, "u8": any_of(torch.uint8, 9)}
    yield "new_dtypes", {str(dtype): any_of(dtype, 3, 2) for dtype in (torch.uint16, torch.uint32, torch.uint64)}
    yield "float8", {str(dtype): torch.randn(3, 4).to(dtype) for dtype in DTYPES if str(dtype).startswith("torch.float8")}
    yield "complex", {"c64": torch.randn(3, dtype=torch.complex64), "c128": torch.randn(3, 2, dtype=torch.complex128),
                      "c32": torch.randn(3, dtype=torch.complex64).to(torch.complex32)}
    yield "lazy", {"conj": torch.randn(3, dtype=torch.complex64).conj(), "neg": torch.randn(3, dtype=torch.complex64).conj().imag,
                   "plain": torch.randn(2)}
    yield "tied", {"embed": tied, "lm_head": tied, "third": tied}
    yield "views", {"rows": base[1:3], "column": base[:, 3], "turned": base.t(), "all": base, "steps": base[::2, 1::3],
                    "last": base[-1], "scalar": base[2, 3], "expanded": base[0].expand(4, 8), "one": torch.randn(1).expand(3, 3)}
    yield "parts", {"a": base[0:2], "c": base[4:6], "b": base[2:3]}
    yield "empty", {"none": torch.empty(0, 5), "scalar": torch.tensor(3.5), "also": torch.empty(3, 0, 2), "ones": torch.ones(1, 1, 4)}
    yield "channels_last", {"w": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    yield "nothing", {}
    yield "bare", torch.randn(4, 3)
    yield "bare_storage", torch.arange(20, dtype=torch.int32).untyped_storage()
    yield "list", [torch.randn(2), (torch.randn(3), [torch.randn(1)])]
    yield "parameter", {"p": torch.nn.Parameter(torch.randn(3)), "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
                        "buffer": torch.nn.Buffer(torch.randn(2))}
    with_note = torch.nn.Parameter(torch.randn(3))
    with_note.tag = "attribute"
    yield "parameter_with_state", {"p": with_note}
    yield "keys", {0: {"exp_avg": torch.randn(2)}, -5: torch.randn(1), "a.b": torch.randn(2), "ü": torch.randn(2), True: [torch.ones(2)],
                   None: torch.zeros(1)}
    yield "containers", {"ordered": collections.OrderedDict(x=torch.ones(3), y=[torch.ones(1)]), "deque": collections.deque([torch.ones(2)]),
                         "default": collections.defaultdict(list, {"k": torch.ones(4)}), "pair": Pair(torch.randn(2), torch.randn(3)),
                         "namespace": argparse.Namespace(lr=0.1, w=torch.randn(2)), "simple": types.SimpleNamespace(w=torch.randn(2)),
                         "size": torch.Size([3, 4]), "long": 1 << 100, "set": {1, 2}, "bytes": b"abc", "dtype": torch.float32,
                         "device": torch.device("cpu"), "float": 1.5, "complex": 1j, "range": range(3), "slice": None}
    attributes = Attributes(w=torch.randn(2))
    attributes.extra = torch.randn(3)
    yield "objects", {"slots": Slotted(), "plain": Plain(), "attributes": attributes}
    yield "sparse", {"coo": torch.eye(4).to_sparse(), "csr": torch.eye(4).to_sparse_csr(), "csc": torch.eye(4).to_sparse_csc(),
                     "bsr": torch.eye(4).to_sparse_bsr((2, 2))}
    yield "quantized", {"tensor": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8),
                        "channel": torch.quantize_per_channel(torch.randn(3, 4), torch.rand(3).double() + 1, torch.zeros(3).long(), 0, torch.qint8),
                        "i32": torch.quantize_per_tensor(torch.randn(5), 0.1, 0, torch.qint32)}
    yield "nested", {"n": torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)])}
    yield "meta", {"m": torch.randn(3, device="meta"), "w": torch.randn(2)}
    yield "module", Net()
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 5, 8)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    yield "lightning", {"epoch": 1, "global_step": 12, "pytorch-lightning_version": "2.6.6", "state_dict": model.state_dict(),
                        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.3)}},
                        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()],
                        "hparams_name": "kwargs", "hyper_parameters": Attributes(lr=1e-3, model="x"), "MixedPrecision": {"scale": 65536.0}}


def write_names():
    out = {}
    for name, value in cases():
        tensors = said(flat("", value))
        for protocol in (2, 3, 4, 5):
            torch.save(value, f"{name}-{protocol}.pt", pickle_protocol=protocol)
            out[f"{name}-{protocol}.pt"] = {"format": "torch zip", "tensors": tensors}
            legacy = f"legacy-{name}-{protocol}.pt"
            try:
                torch.save(value, legacy, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
            except (RuntimeError, AttributeError) as error:
                assert name in ("meta", "bare_storage", "quantized"), (name, error)
                continue
            out[legacy] = {"format": "torch legacy", "tensors": tensors}
    hidden = Hidden()
    torch.save({"model": hidden}, "hidden.pt")
    inner = [(f"model.inner.{key}", tensor.detach()) for key, tensor in hidden.inner.state_dict().items()]
    out["hidden.pt"] = {"format": "torch zip", "tensors": said([*inner, ("model.rope", hidden.rope), ("model.cache.seen", hidden.cache["seen"])])}
    # Two names that are one.
    torch.save({"a": {"b": torch.ones(2)}, "a.b": torch.zeros(2)}, "same.pt")
    out["same.pt"] = {"format": "torch zip", "tensors": said([("a.b", torch.ones(2)), ("a.b#2", torch.zeros(2))])}
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    torch.jit.save(torch.jit.script(net), "script.pt")
    out["script.pt"] = {"format": "torchscript", "tensors": said((key, tensor.detach()) for key, tensor in net.state_dict().items())}
    loop = [torch.randn(2)]
    loop.append({"loop": loop, "w": torch.randn(3)})
    torch.save(loop, "loop.pt")
    out["loop.pt"] = {"format": "torch zip", "tensors": said([("0", loop[0]), ("1.w", loop[1]["w"])])}
    return out


def write_distributed():
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import FileSystemWriter

    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    state = {"model": model.state_dict(), "step": torch.tensor(7), "scalar": 5, "more": {"list": [torch.randn(3), torch.randn(2)]},
             "empty": torch.empty(0, 3)}
    out = {}
    for name, options in {"one": {}, "files": {"single_file_per_rank": False}}.items():
        dcp.save(state, storage_writer=FileSystemWriter(name, **options), no_dist=True)
        out[name] = said(flat("", state))
    return out


def write_small():
    base = torch.arange(6, dtype=torch.float32).view(2, 3)
    value = {"a": base, "t": base.t(), "h": torch.ones(2).bfloat16(), "o": collections.OrderedDict(n=torch.empty(0))}
    torch.save(value, "zip.pt")
    torch.save(value, "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(value, "legacy-5.pt", pickle_protocol=5, _use_new_zipfile_serialization=False)
    return {name: None for name in ("zip.pt", "legacy.pt", "legacy-5.pt")}


which = {"names": write_names, "distributed": write_distributed, "small": write_small}[sys.argv[1]]
with open("said.json", "w") as file:
    json.dump(which(), file)
