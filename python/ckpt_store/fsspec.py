"""A store as a file system of fsspec, to read: ``ckpt://RUN@STEP/file``. Never writes into a store.

    import fsspec

    with fsspec.open("ckpt://a@latest/model.pt", store="runs/store") as file:
        state = torch.load(file)
    fsspec.filesystem("ckpt", store="runs/store").glob("a@*/*.safetensors")
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import fsspec
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate, isfilelike

from . import errors
from .checkpoint import Checkpoint, StoredFile
from .store import Store, StrPath, store_of

__all__ = ["StoreFileSystem"]

_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_MAGIC = re.compile(r"[*?\[]")


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The runs of a store as directories, their checkpoints ``RUN@STEP`` in them, and the files of those.

    ``store`` is a :class:`Store` or its path; otherwise that of the environment variable ``CKPT_STORE`` or the nearest
    directory ``.ckpt`` here or above, as for the command. After ``@`` any ref will do (``latest``, ``best:val_loss``, a
    tag), and in place of ``RUN@STEP`` an id. What is missing is a ``FileNotFoundError``, what would write an
    ``OSError`` (EROFS).
    """

    protocol = "ckpt"
    root_marker = ""
    # Where the store is may depend on the environment, which fsspec's cache of instances does not look at.
    cachable = False

    def __init__(self, store: Store | StrPath | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.store = store_of(_found() if store is None else store, create=False)
        # A checkpoint never changes: its files by its id.
        self._listed: dict[str, dict[str, StoredFile]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (os.fspath(self.store.path),)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What is in a directory: the root's runs, a run's checkpoints, a checkpoint's files."""
        with _told(path):
            entries = self._ls(self._strip_protocol(path))
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What a path is; of a checkpoint also its id, step, metrics and tags."""
        path = self._strip_protocol(path)
        ref, file = _split(path)
        with _told(path):
            if ref is None:
                if path and not any(run == path or run.startswith(f"{path}/") for run in self.store.runs()):
                    raise errors.NotFound(f"no run {path}")
                return _directory(path)
            checkpoint = self.store.checkpoint(ref)
            if not file:
                return _checkpoint(ref, checkpoint)
            return _member(ref, self._member(ref, checkpoint, file), checkpoint)

    def created(self, path: str) -> datetime:
        """When the checkpoint was stored."""
        with _told(path):
            return self._checkpoint(path).time

    modified = created

    def ukey(self, path: str) -> str:
        """The same as long as the path names the same bytes."""
        with _told(path):
            return f"{self._checkpoint(path).id}/{_split(self._strip_protocol(path))[1]}"

    checksum = ukey

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """As of any file system. ``*`` and the like may stand in the run, behind ``@`` and in the file."""
        pattern = self._strip_protocol(path)
        run, at, rest = pattern.partition("@")
        if not at or not _MAGIC.search(pattern) or _split(pattern)[0] != f"{run}@{rest.partition('/')[0]}":
            return super().glob(path, maxdepth=maxdepth, **kwargs)
        named, _, files = rest.partition("/")
        found: dict[str, dict[str, Any]] = {}
        with _told(path):
            for ref, checkpoint in self._matching(run, named):
                if not files:
                    found[ref] = _checkpoint(ref, checkpoint)
                    continue
                matches = re.compile(glob_translate(files)).match
                for name, member in self._members(checkpoint).items():
                    if matches(name) and (maxdepth is None or name.count("/") < files.count("/") + maxdepth):
                        found[f"{ref}/{name}"] = _member(ref, member, checkpoint)
        ordered = dict(sorted(found.items()))
        return ordered if kwargs.get("detail") else list(ordered)

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copies one file out. What fails half-way leaves nothing under the target's name."""
        if outfile is not None or isfilelike(lpath) or self.isdir(rpath):
            super().get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)
            return
        partial = f"{os.fspath(lpath)}.{uuid.uuid4().hex}.part"
        try:
            super().get_file(rpath, partial, callback=callback, **kwargs)
            os.replace(partial, lpath)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "rb":
            self._read_only(path)
        ref, file = _split(path)
        with _told(path):
            if ref is None or not file:
                self.info(path)
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            checkpoint = self.store.checkpoint(ref)
            if self._member(ref, checkpoint, file).kind == "directory":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            return self.store.open(checkpoint.id, file)

    def _read_only(self, path: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, "a store is read through fsspec, and written by Store.put", str(path))

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = touch = pipe_file = put_file = _read_only

    def _checkpoint(self, path: str) -> Checkpoint:
        ref, _ = _split(self._strip_protocol(path))
        if ref is None:
            raise errors.NotFound(f"{path} names no checkpoint")
        return self.store.checkpoint(ref)

    def _members(self, checkpoint: Checkpoint) -> dict[str, StoredFile]:
        """The checkpoint's files and directories by their paths. Links lead to one of them and are left out."""
        if checkpoint.id not in self._listed:
            members = self.store.files(checkpoint.id)
            self._listed[checkpoint.id] = {one.path: one for one in members if one.kind != "link"}
        return self._listed[checkpoint.id]

    def _member(self, ref: str, checkpoint: Checkpoint, file: str) -> StoredFile:
        member = self._members(checkpoint).get(file)
        if member is None:
            raise errors.NotFound(f"{ref} has no file {file}")
        return member

    def _ls(self, path: str) -> list[dict[str, Any]]:
        ref, file = _split(path)
        if ref is not None:
            checkpoint = self.store.checkpoint(ref)
            if file and self._member(ref, checkpoint, file).kind == "file":
                return [_member(ref, self._member(ref, checkpoint, file), checkpoint)]
            inside = f"{file}/" if file else ""
            members = self._members(checkpoint).items()
            directly = [one for name, one in members if name.startswith(inside) and "/" not in name[len(inside) :]]
            return [_member(ref, one, checkpoint) for one in directly]
        runs = self.store.runs()
        above = f"{path}/" if path else ""
        below = sorted({above + run[len(above) :].partition("/")[0] for run in runs if run.startswith(above)})
        if not below and path not in runs and path:
            raise errors.NotFound(f"no run {path}")
        entries = [_directory(name) for name in below]
        if path in runs:
            entries += [_checkpoint(one.ref, one) for one in self.store.checkpoints(path)]
        return entries

    def _matching(self, run: str, named: str) -> Iterator[tuple[str, Checkpoint]]:
        """The checkpoints whose run and whose step or tag match."""
        matches_run = re.compile(glob_translate(run)).match
        for name in self.store.runs():
            if not matches_run(name):
                continue
            if not _MAGIC.search(named):
                try:
                    yield f"{name}@{named}", self.store.checkpoint(f"{name}@{named}")
                except errors.NotFound:
                    pass
                continue
            matches = re.compile(glob_translate(named)).match
            for one in self.store.checkpoints(name):
                for word in [*([] if one.step is None else [str(one.step)]), *sorted(one.tags)]:
                    if matches(word):
                        yield f"{name}@{word}", one


def _found() -> str:
    """The store that the command would take."""
    told = os.environ.get("CKPT_STORE")
    if told:
        return told
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / ".ckpt" / "FORMAT").is_file():
            return str(directory / ".ckpt")
    raise errors.NotFound("no store: pass store=, set CKPT_STORE, or work below a directory that has a .ckpt")


def _split(path: str) -> tuple[str | None, str]:
    """The ref that a path begins with and the file in it; no ref for the root, a run and what is above runs."""
    first, _, rest = path.partition("/")
    if _ID.fullmatch(first):
        return first, rest
    run, at, rest = path.partition("@")
    if not at:
        return None, ""
    named, _, file = rest.partition("/")
    return f"{run}@{named}", file


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _checkpoint(ref: str, checkpoint: Checkpoint) -> dict[str, Any]:
    told = ("id", "run", "step", "metrics", "tags", "pinned", "logical_bytes")
    return _directory(ref) | {"created": checkpoint.time} | {name: getattr(checkpoint, name) for name in told}


def _member(ref: str, member: StoredFile, checkpoint: Checkpoint) -> dict[str, Any]:
    told = {"name": f"{ref}/{member.path}", "size": member.size, "type": member.kind, "id": checkpoint.id}
    return told | {"created": checkpoint.time}


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What a store does not find is missing as files are."""
    try:
        yield
    except (errors.NotFound, errors.Invalid) as error:
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error


fsspec.register_implementation("ckpt", StoreFileSystem, clobber=True)
