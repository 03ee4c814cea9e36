"""Lightning's own ``CheckpointIO``, from whichever of its two packages is there. Never imports the other one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

__all__ = ["CheckpointIO", "rank", "register", "torch_io"]

_FLAVORS = ("lightning.fabric.plugins.io.checkpoint_io", "lightning_fabric.plugins.io.checkpoint_io")


def _base() -> Any:
    """Lightning's ``CheckpointIO``, of the package that the program uses already, else of the one that is installed."""
    for name in [name for name in _FLAVORS if name in sys.modules] or _FLAVORS:
        # Only the package itself may be missing: what else can't be imported is the user's to see.
        if name in sys.modules or importlib.util.find_spec(name.split(".")[0]) is not None:
            return importlib.import_module(name).CheckpointIO
    raise ImportError("ckpt_store.lightning needs lightning or pytorch-lightning: pip install lightning")


if TYPE_CHECKING:
    from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
else:
    CheckpointIO = _base()


def register(kind: type) -> None:
    """Makes a Trainer of the other package, where a program uses both, take it for a ``CheckpointIO`` too."""
    for name in _FLAVORS:
        base = getattr(sys.modules.get(name), "CheckpointIO", None)
        if base is not None and not issubclass(kind, base):
            base.register(kind)


def rank() -> int:
    """Which rank this process is, as far as the environment tells yet."""
    package = CheckpointIO.__module__.partition(".plugins")[0]
    return getattr(importlib.import_module(f"{package}.utilities.rank_zero").rank_zero_only, "rank", 0) or 0


def torch_io() -> Any:
    """Lightning's ``TorchCheckpointIO``, which reads plain files."""
    return importlib.import_module(f"{CheckpointIO.__module__.rpartition('.')[0]}.torch_io").TorchCheckpointIO()
