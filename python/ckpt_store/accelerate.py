"""Stores what ``Accelerator.save_state`` writes, and gives it back to ``load_state``. Never keeps a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ._ranks import on_all, on_main
from ._scratch import full_disk_told, private
from .checkpoint import Checkpoint
from .errors import Invalid
from .materialized import materialized
from .store import Store, StrPath, store_of

_log = logging.getLogger("ckpt_store")


def save_state(
    accelerator: Accelerator,
    store: Store | StrPath,
    *,
    run: str,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    meta: Mapping[str, str] | None = None,
    tags: Iterable[str] = (),
    replace: bool = False,
    gc: bool = False,
    safe_serialization: bool = True,
    **save_model_func_kwargs: Any,
) -> Checkpoint:
    """Stores models, optimizers, schedulers, samplers, random states and registered objects as one checkpoint.

    To be called by every process, like ``accelerator.save_state``, whose further arguments it takes; each writes its
    part into a directory beside the store, the main process stores it when all have written, and the directory goes
    away. All processes of the training have to see the store's disk. ``automatic_checkpoint_naming`` has no part in
    it: the store names checkpoints.

    Raises in every process what went wrong in one: NoSpace when the disk is full, after which the training can go on,
    Exists for a step that the run has already, unless ``replace``.
    """
    with contextlib.ExitStack() as leaving:

        def made() -> str:
            return str(leaving.enter_context(private(store_of(store, create=True).path)))

        folder = Path(on_main(made), "state")

        def written() -> None:
            if not folder.parent.is_dir():
                raise Invalid(f"{folder.parent} is not seen here: the store has to be on a disk that all share")
            with _without_naming(accelerator), full_disk_told("a checkpoint"):
                accelerator.save_state(str(folder), safe_serialization, **save_model_func_kwargs)

        on_all(written)

        def stored() -> Checkpoint:
            return store_of(store, create=True).put(
                folder, run=run, step=step, metrics=metrics, meta=meta, tags=tags, replace=replace, gc=gc
            )

        checkpoint = on_main(stored)
        _log.info("stored %s", checkpoint.ref)
        return checkpoint


def load_state(
    accelerator: Accelerator,
    store: Store | StrPath,
    ref: str,
    load_kwargs: dict[str, Any] | None = None,
    **load_model_func_kwargs: Any,
) -> Checkpoint:
    """Loads what :func:`save_state` stored, and says which checkpoint that was.

    To be called by every process, like ``accelerator.load_state``, whose further arguments it takes. ``ref`` is
    looked up once, by the main process. The processes of one machine share one copy of the files, which is removed
    when all have loaded. Random states are those of the process of the same number; a process that had none keeps its
    own, with a warning.
    """
    checkpoint = on_main(lambda: store_of(store, create=False).checkpoint(ref))

    def loaded() -> None:
        with materialized(store, checkpoint.id) as folder:
            if not (folder / f"random_states_{accelerator.process_index}.pkl").is_file():
                _log.warning("%s has no random states for process %s", checkpoint.ref, accelerator.process_index)
            accelerator.load_state(str(folder), load_kwargs, **load_model_func_kwargs)

    on_all(loaded)
    return checkpoint


@contextlib.contextmanager
def _without_naming(accelerator: Accelerator) -> Iterator[None]:
    """Accelerate ignores the folder that it is given when it names folders itself."""
    configuration = accelerator.project_configuration
    named = configuration.automatic_checkpoint_naming
    configuration.automatic_checkpoint_naming = False
    try:
        yield
    finally:
        configuration.automatic_checkpoint_naming = named
