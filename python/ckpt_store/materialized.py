"""Gives a checkpoint back as a path, for frameworks that want one. Never leaves one that looks whole and isn't."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ._scratch import Held, shared
from .checkpoint import Checkpoint
from .errors import Exists, NotFound
from .store import Store, StrPath, store_of

# How much of two files is compared at once.
_COMPARED_BYTES = 4 << 20

# What this process made or shares and gives up when it ends, by the checkpoint's id.
_kept: dict[str, tuple[Checkpoint, Held]] = {}
_guard = threading.Lock()


def materialize(store: Store | StrPath, ref: str, dest: StrPath | None = None) -> str:
    """The path of a checkpoint's files, such as ``trainer.train(resume_from_checkpoint=...)`` takes.

    It is a directory ``checkpoint-STEP`` (``checkpoint-ID`` without a step), or the file, under its own name, when
    the checkpoint is one file.

    Without ``dest`` it lies in a hidden directory beside the store, or in the system's directory for temporary files
    when there is no room or no permission, and is removed when this process ends (not when its forked children do).
    Processes of one machine that ask for the same checkpoint share one copy; the last of them removes it. What a
    killed process left is removed by the next call. Treat it as read-only.

    With ``dest`` it is at that very path, whole or not at all, and stays there. What is there already is taken if it
    holds the same bytes; that is looked at by reading them.

    Raises NotFound, Corrupt, NoSpace (nothing is left then), Exists when something else is at ``dest``.
    """
    opened = store_of(store, create=False)
    checkpoint = opened.checkpoint(ref)
    if dest is not None:
        return str(_at(opened, checkpoint, Path(os.path.abspath(dest))))
    with _guard:
        _, held = _kept.get(checkpoint.id, (checkpoint, None))
        if held is None or not held.path.exists():
            if held is not None:
                held.release()
            held = _hold(opened, checkpoint)
            _kept[checkpoint.id] = checkpoint, held
        return str(held.path)


def release(path: StrPath) -> None:
    """Gives up a path of :func:`materialize` before the process ends; the room is free unless others share it.

    Nothing is done about any other path.
    """
    _release(lambda _, held: held.path == Path(path))


def release_step(run: str, step: int) -> None:
    """The same for the checkpoint from which a training was resumed, when it has loaded it."""
    _release(lambda checkpoint, _: (checkpoint.run, checkpoint.step) == (run, step))


@contextlib.contextmanager
def materialized(store: Store | StrPath, ref: str) -> Iterator[Path]:
    """The same without ``dest``, for the time of a ``with`` block."""
    opened = store_of(store, create=False)
    held = _hold(opened, opened.checkpoint(ref))
    try:
        yield held.path
    finally:
        held.release()


def _hold(store: Store, checkpoint: Checkpoint) -> Held:
    def fill(directory: Path) -> Path:
        made = store.get(checkpoint.id, directory)
        if made.is_dir() and made.name != _name(checkpoint):
            made = made.rename(directory / _name(checkpoint))
        return made

    return shared(store.path, checkpoint.id, checkpoint.logical_bytes, fill)


def _name(checkpoint: Checkpoint) -> str:
    return f"checkpoint-{checkpoint.id if checkpoint.step is None else checkpoint.step}"


def _at(store: Store, checkpoint: Checkpoint, dest: Path) -> Path:
    dest.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(dest.parent):
        if not os.path.lexists(dest):
            return store.get(checkpoint.id, dest)
        if _is_there(store, checkpoint, dest):
            return dest
    raise Exists(f"{dest} is there already, and is not {checkpoint.ref} as it was stored")


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Of several ranks one writes and the others find it. Where directories can't be locked, renaming decides."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_there(store: Store, checkpoint: Checkpoint, path: Path) -> bool:
    """Whether every file there has the bytes of the checkpoint's, and none that has bytes is missing."""
    found = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    if sum(file.stat().st_size for file in found) != checkpoint.logical_bytes:
        return False
    for file in found:
        try:
            stored = store.open(checkpoint.id, str(file.relative_to(path)) if path.is_dir() else None)
        except NotFound:
            return False
        with stored, file.open("rb") as there:
            while piece := there.read(_COMPARED_BYTES):
                if stored.read(len(piece)) != piece:
                    return False
    return True


def _release(which: Callable[[Checkpoint, Held], bool]) -> None:
    with _guard:
        for key in [key for key, (checkpoint, held) in _kept.items() if which(checkpoint, held)]:
            _kept.pop(key)[1].release()


def _release_all() -> None:
    _release(lambda *_: True)


def _forget_all() -> None:
    global _guard
    _guard = threading.Lock()
    for _, held in _kept.values():
        held.forget()
    _kept.clear()


atexit.register(_release_all)
os.register_at_fork(after_in_child=_forget_all)
