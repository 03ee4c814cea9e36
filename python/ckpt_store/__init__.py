"""Keeps every training checkpoint, each chunk of it once: put, save, load and prune from Python.

    import ckpt_store as ckpt

    store = ckpt.Store("runs/store")
    store.save({"model": model.state_dict()}, run="a", step=100, metrics={"val_loss": 0.31})
    state = store.load("a@latest")

Hooks for frameworks stand in modules of their own, imported by name: ``ckpt_store.lightning``, ``.transformers``,
``.accelerate``, ``.keras``, ``.dcp``, ``.torch``, ``.jax``, ``.fsspec``. Importing this package imports no framework.
"""

from .checkpoint import Checkpoint
from .errors import (
    Busy,
    Changed,
    CkptError,
    Corrupt,
    Exists,
    Internal,
    Invalid,
    NoSpace,
    NotFound,
    Unavailable,
    Unsupported,
)
from .materialized import materialize
from .saving import SaveHandle
from .store import Store

__all__ = [
    "Busy",
    "Changed",
    "Checkpoint",
    "CkptError",
    "Corrupt",
    "Exists",
    "Internal",
    "Invalid",
    "NoSpace",
    "NotFound",
    "SaveHandle",
    "Store",
    "Unavailable",
    "Unsupported",
    "materialize",
]
