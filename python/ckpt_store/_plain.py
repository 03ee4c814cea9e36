"""State dicts as what `torch.load(weights_only=True)` takes, and back. Never changes a value: what it can't keep it
refuses by name."""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from . import errors

_log = logging.getLogger("ckpt_store")

# The key of a dict that stands for something which the restricted unpickler does not know.
MARK = "__ckpt_store__"

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)


def plain(value: Any, path: str) -> Any:
    """Gives the value with numpy's arrays and scalars wrapped; the very same object where nothing had to be.

    Tensors are not copied. Raises :class:`Invalid` that names the place of anything else which only a full pickle
    holds.
    """
    return _mapped(value, path, _plain_leaf, _refuse_keys, set())


def original(value: Any) -> Any:
    """Undoes :func:`plain`."""
    return _mapped(value, "", lambda leaf, _: leaf, _unwrapped, set())


def _mapped(
    value: Any,
    path: str,
    leaf: Callable[[Any, str], Any],
    special: Callable[[dict[Any, Any], str], Any],
    above: set[int],
) -> Any:
    """Maps leaves that are neither atoms nor tensors, and dicts for which ``special`` gives something."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, torch.Tensor):
        return value
    if kind not in (dict, OrderedDict, Counter, list, tuple):
        return leaf(value, path)
    if isinstance(value, dict) and (found := special(value, path)) is not None:
        return found
    if id(value) in above:
        raise errors.Invalid(f"{path} contains itself")
    above.add(id(value))
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    mapped = {key: _mapped(item, f"{path}.{key}", leaf, special, above) for key, item in pairs}
    above.remove(id(value))
    if all(mapped[key] is item for key, item in pairs):
        return value
    if not isinstance(value, dict):
        return kind(mapped.values())
    copied = kind(mapped)
    # A module's state dict carries the versions of its submodules as an attribute.
    for name, attribute in getattr(value, "__dict__", {}).items():
        setattr(copied, name, attribute)
    return copied


_HINT = "it loads with weights_only=False only; leave it out, or pass CheckpointManager(weights_only=False)"


def _refuse_keys(value: dict[Any, Any], path: str) -> None:
    for key in value:
        if key == MARK:
            raise errors.Invalid(f"{path} has the key {MARK!r}, which stands for something else in a checkpoint")
        if type(key) is not tuple and type(key) not in _ATOMS:
            raise errors.Invalid(f"{path} has a key of type {_type(key)}: {_HINT}")


def _plain_leaf(value: Any, path: str) -> Any:
    if type(value) is set and all(type(item) in _ATOMS for item in value):
        return value
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        scalar = isinstance(value, numpy.generic)
        if scalar or type(value) is numpy.ndarray:
            array = numpy.asarray(value, order="C")
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            try:
                # Of a read-only array torch would warn.
                data = torch.from_numpy(native if native.flags.writeable else native.copy())
            except TypeError:
                name = array.dtype.name
                raise errors.Invalid(f"{path} is of numpy's type {name}, which torch does not have") from None
            return {MARK: "numpy", "data": data, "scalar": scalar, "swapped": not array.dtype.isnative}
    raise errors.Invalid(f"{path} is a {_type(value)}: {_HINT}")


def _unwrapped(value: dict[Any, Any], path: str) -> Any:
    if MARK not in value:
        return None
    if value[MARK] != "numpy":
        raise errors.Unsupported(f"the checkpoint holds a {value[MARK]!r} in {path}, which this version does not know")
    array = value["data"].numpy()
    if value["swapped"]:
        array = array.astype(array.dtype.newbyteorder("S"))
    return array[()] if value["scalar"] else array


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def random_state() -> dict[str, Any]:
    """The states of the random generators of Python, of numpy where it is imported, and of torch on the CPU and on
    CUDA."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": {
            "version": version,
            "words": torch.tensor(words, dtype=torch.int64, device="cpu"),
            "gauss": gauss,
        },
        "torch": torch.get_rng_state(),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        told = numpy.random.get_state(legacy=False)
        # Another bit generator than the one that numpy begins with has a state of another form.
        if told["bit_generator"] == "MT19937":
            state["numpy"] = {
                "key": torch.from_numpy(told["state"]["key"].astype("int64")),
                "pos": int(told["state"]["pos"]),
                "has_gauss": int(told["has_gauss"]),
                "gauss": float(told["gauss"]),
            }
        else:
            _log.warning("the state of numpy's global generator %s is not kept", told["bit_generator"])
    # A process that never used CUDA must not begin to for this.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the generators to what :func:`random_state` gave."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        try:
            import numpy
        except ImportError:
            _log.warning("the checkpoint has a state of numpy's generator, and numpy is not installed")
        else:
            told = state["numpy"]
            key = told["key"].numpy().astype("uint32")
            numpy.random.set_state(("MT19937", key, told["pos"], told["has_gauss"], told["gauss"]))
    if "cuda" in state:
        here = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if here != len(state["cuda"]):
            _log.warning("the checkpoint has random states of %d CUDA devices, here are %d", len(state["cuda"]), here)
        for device, one in enumerate(state["cuda"][:here]):
            torch.cuda.set_rng_state(one.cpu(), device)
