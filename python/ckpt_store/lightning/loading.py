"""Finds the checkpoint that a stub, a plain file or a ref names, and gives it to Lightning. Never writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ..checkpoint import Checkpoint
from ..errors import CkptError, Invalid, NotFound
from ..store import Store, store_of
from . import stub_files
from .stub import Stub
from .stub_files import Place

M = TypeVar("M")


def load_from_checkpoint(
    module: type[M], checkpoint: Place, *, store: Store | Place | None = None, **arguments: Any
) -> M:
    """``module.load_from_checkpoint(checkpoint, ...)`` of a checkpoint in a store.

        model = load_from_checkpoint(Model, trainer.checkpoint_callback.best_model_path, strict=True)
        model = load_from_checkpoint(Model, "a@latest", store="runs/store")

    Args:
        module: The class of a ``LightningModule`` or a ``LightningDataModule``.
        checkpoint: A stub, a ref (with ``store``), or a plain checkpoint file.
        store: The store; a stub knows its own.
        arguments: All that ``load_from_checkpoint`` takes: ``map_location``, ``strict``, ``weights_only``,
            hyperparameters.
    """
    with open_checkpoint(checkpoint, store=store) as file:
        return cast(M, cast(Any, module).load_from_checkpoint(file, **arguments))


def open_checkpoint(checkpoint: Place, *, store: Store | Place | None = None) -> BinaryIO:
    """The file that was saved, to be read: seekable, and as good as the real one for ``torch.load`` and
    ``load_from_checkpoint``.

    Raises:
        FileNotFoundError: There is no such file, and no such checkpoint in ``store``.
        NotFound: It is a stub, and its checkpoint has been dropped.
    """
    stub = stub_files.read(checkpoint)
    if stub is None and stub_files.exists(checkpoint):
        if (path := stub_files.local(checkpoint)) is not None:
            return open(path, "rb")
        import fsspec

        return cast(BinaryIO, fsspec.open(os.fspath(checkpoint), "rb").open())
    own = None if store is None else store_of(store, create=False)
    found, held = resolved(checkpoint, stub, own)
    return cast(BinaryIO, found.open(held.id, stub.file if stub is not None else None))


def resolved(place: Place, stub: Stub | None, own: Store | None) -> tuple[Store, Checkpoint]:
    """The store and the checkpoint that ``stub`` names, which was found at ``place``; or, without one, that ``place``
    names as a ref."""
    if stub is None:
        return _by_ref(os.fspath(place), own)
    if own is not None:
        try:
            return own, own.checkpoint(stub.id)
        except NotFound:
            pass
    path = stub_files.local(place)
    for other in stub.stores(None if path is None else Path(os.path.realpath(path)).parent):
        if own is not None and other == own.path:
            continue
        try:
            store = Store(other, create=False)
            return store, store.checkpoint(stub.id)
        except CkptError as error:
            if not isinstance(error, NotFound):
                raise
    known = own.path if own is not None else stub.store
    raise NotFound(
        f"{os.fspath(place)} is a stub of {stub.ref} ({stub.id}), which is not in the store {known}: it was dropped "
        "(by rm, by gc, or when the step was saved again), or the store has been moved"
    )


def _by_ref(ref: str, own: Store | None) -> tuple[Store, Checkpoint]:
    if own is None:
        raise FileNotFoundError(f"there is no file {ref}; if it is a ref such as a@latest, say in which store")
    try:
        return own, own.checkpoint(ref)
    except (NotFound, Invalid) as error:
        told = f"there is no file {ref}, and no such checkpoint in the store {own.path}: {error}"
        raise FileNotFoundError(told) from error


def weights_only_of(asked: bool | None) -> bool:
    """What ``torch.load`` of the torch at hand makes of ``weights_only=None``, which is what Lightning hands down."""
    if asked is not None:
        return asked
    import torch

    def wanted(name: str) -> bool:
        return os.environ.get(name, "0").lower() in ("1", "y", "yes", "true")

    if wanted("TORCH_FORCE_WEIGHTS_ONLY_LOAD"):
        return True
    if wanted("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        return False
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 6)
