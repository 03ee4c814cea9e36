"""Reads, writes and removes stubs in directories and, through fsspec, elsewhere. Never touches a store."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .stub import BYTES_MAX, Stub

Place = str | os.PathLike[str]


def local(place: Place) -> Path | None:
    """The path in this machine's file system, or ``None`` for a URL of another one."""
    text = os.fspath(place)
    if "://" not in text:
        return Path(text)
    if text.startswith(("file://", "local://")):
        return Path(text.split("://", 1)[1])
    return None


def exists(place: Place) -> bool:
    """Whether anything is there."""
    if (path := local(place)) is not None:
        return path.exists()
    system, key = _system(place)
    return bool(system.exists(key))


def read(place: Place) -> Stub | None:
    """The stub that is there; ``None`` when there is nothing, or anything but a stub."""
    if (path := local(place)) is not None:
        return _read_local(path)
    system, key = _system(place)
    try:
        if system.info(key).get("size", 0) > BYTES_MAX:
            return None
        held: bytes = system.cat_file(key)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return Stub.from_bytes(held)


def make_directory(place: Place) -> None:
    """Makes the directory of ``place``."""
    if (path := local(place)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        system, key = _system(place)
        system.makedirs(os.path.dirname(key), exist_ok=True)


def write(place: Place, stub: Stub) -> None:
    """Puts a stub there in one instant, in the place of what was there. It is durable when this returns."""
    held = stub.to_bytes()
    make_directory(place)
    if (path := local(place)) is None:
        system, key = _system(place)
        system.pipe_file(key, held)
        return
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        with open(draft, "wb") as file:
            file.write(held)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove(place: Place) -> None:
    """Removes what is there, a directory with all that is in it; of a link, the link alone. Nothing there is fine."""
    if (path := local(place)) is None:
        system, key = _system(place)
        if system.exists(key):
            system.rm(key, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_link(place: Place) -> bool:
    """Whether it is a symbolic link."""
    path = local(place)
    return path is not None and path.is_symlink()


def named_beside(place: Place, checkpoint: str) -> bool:
    """Whether another stub in the same directory names the checkpoint of this id: a copy, as of a link on some
    systems."""
    if (path := local(place)) is not None:
        own = os.path.realpath(path)
        return any(stub.id == checkpoint for other, stub in _local_stubs(path.parent) if os.path.realpath(other) != own)
    system, key = _system(place)
    try:
        beside = system.ls(os.path.dirname(key), detail=True)
    except FileNotFoundError:
        return False
    for entry in beside:
        if entry["name"].rstrip("/").endswith(key.lstrip("/")) or not 0 < (entry.get("size") or 0) <= BYTES_MAX:
            continue
        stub = Stub.from_bytes(system.cat_file(entry["name"]))
        if stub is not None and stub.id == checkpoint:
            return True
    return False


def _local_stubs(directory: Path) -> Iterator[tuple[Path, Stub]]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        stub = _read_local(Path(entry.path))
        if stub is not None:
            yield Path(entry.path), stub


def _read_local(path: Path) -> Stub | None:
    try:
        # A FIFO in its place would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_size > BYTES_MAX:
                return None
            return Stub.from_bytes(file.read(BYTES_MAX + 1))
    except OSError:
        return None


def _system(place: Place) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Lightning brings fsspec."""
    from fsspec.core import url_to_fs

    system, key = url_to_fs(os.fspath(place))
    return system, key
