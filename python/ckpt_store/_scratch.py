"""Directories beside a store for what lives as long as a process: shared by the processes of one machine, removed
when the last of them ends or, after a kill, by the next. Never inside a store, and never one that somebody still
holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import NoSpace, Unavailable

# Left free on the disk beside what is written, for the directories and the file system's own tables.
_ROOM_BYTES = 64 << 10
# How long others are waited for that hold a directory whose content somebody removed; then a private one is made.
_PATIENCE_SECS = 5.0


class Held:
    """A directory that this process uses. Whoever releases it last removes it."""

    def __init__(self, root: Path, name: str, lock: int) -> None:
        self.directory = root / name
        """The directory."""
        self.path = self.directory
        """What was asked for: the directory, or what was made in it."""
        self._lock_file = root / f"{name}.lock"
        self._lock: int | None = lock
        self._pid = os.getpid()

    def release(self) -> None:
        """Gives it up, and removes it when nobody else uses it. In a forked child this does nothing."""
        if self._lock is None or self._pid != os.getpid():
            return
        lock, self._lock = self._lock, None
        try:
            if _try_lock(lock) and _is_at(lock, self._lock_file):
                remove(self.directory)
                self._lock_file.unlink(missing_ok=True)
        finally:
            os.close(lock)
        with contextlib.suppress(OSError):  # Others may have theirs in it.
            self.directory.parent.rmdir()

    def forget(self) -> None:
        """For a forked child: the directory is its parent's, and must not stay for the child's sake."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def shared(store: Path, name: str, needs_bytes: int, fill: Callable[[Path], Path]) -> Held:
    """The directory of that name beside the store, or, where that can't be, among the system's temporary files.

    ``fill`` gets it empty, and returns the path of what it made in it. All processes that ask for it at the same time
    get the same one, made once, as long as any of them holds it.

    Raises NoSpace when no place has ``needs_bytes``, and Unavailable when no place can be written.
    """
    failure: Exception | None = None
    for root in _roots(store):
        try:
            return _shared_in(root, name, needs_bytes, fill)
        except NoSpace as error:
            failure = error
        except (PermissionError, NotADirectoryError, FileNotFoundError, Unavailable) as error:
            failure = failure or error
        except OSError as error:  # Such as a read-only file system, or one without flock.
            failure = failure or Unavailable(f"can't make a directory in {root}: {error}", error.errno)
    if isinstance(failure, NoSpace):
        raise failure
    raise Unavailable(f"no place to write beside {store} or in {tempfile.gettempdir()}: {failure}") from failure


@contextlib.contextmanager
def private(store: Path, needs_bytes: int = 0) -> Iterator[Path]:
    """An empty directory for the time of a ``with`` block, in the same places as :func:`shared`."""
    held = shared(store, f"save-{secrets.token_hex(8)}", needs_bytes, lambda directory: directory)
    try:
        yield held.directory
    finally:
        held.release()


def remove(tree: Path) -> None:
    """Removes a file or a directory and all in it, also where its modes forbid that; it need not be there."""
    if tree.is_dir() and not tree.is_symlink():
        tree.chmod(0o700)
        for above, directories, _ in os.walk(tree):
            for directory in directories:
                inner = Path(above, directory)
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(tree)
    else:
        tree.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_told(what: str) -> Iterator[None]:
    """What a library that writes ``what`` into one of these directories raises on a full disk becomes NoSpace."""
    try:
        yield
    except NoSpace:
        raise
    except Exception as error:
        if _is_full_disk(error):
            raise NoSpace(f"the disk is full while {what} is written beside the store: {error}") from error
        raise


def _is_full_disk(error: BaseException) -> bool:
    """Whether an error means ENOSPC; torch and HDF5 say so in words alone."""
    told = str(error)
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in told or "errno = 28" in told


def _roots(store: Path) -> tuple[Path, Path]:
    """Beside the store first: that disk is made for checkpoints, and /tmp is often small or memory."""
    user = os.geteuid()
    beside = store.parent / f".{store.name.lstrip('.') or 'store'}.scratch-{user}"
    return beside, Path(tempfile.gettempdir(), f"ckpt-scratch-{user}")


def _make_root(root: Path) -> None:
    with contextlib.suppress(FileExistsError):
        root.mkdir(0o700)
    found = root.lstat()
    # In a directory such as /tmp anybody may have made it first, to have us write where they want.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Unavailable(f"{root} is not a directory that only this user can write")


def _shared_in(root: Path, name: str, needs_bytes: int, fill: Callable[[Path], Path]) -> Held:
    wait_until = time.monotonic() + _PATIENCE_SECS
    while True:
        _make_root(root)
        lock_file = root / f"{name}.lock"
        try:
            lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # The last user of another one removed the root just now.
            continue
        held = Held(root, name, lock)
        try:
            ready = _ready(held, lock, lock_file, needs_bytes, fill)
        except BaseException:
            held.release()
            raise
        if ready:
            return held
        held.forget()
        if time.monotonic() > wait_until:
            # Others hold it, but its content was removed under them.
            return _shared_in(root, f"{name}-{secrets.token_hex(4)}", needs_bytes, fill)
        time.sleep(0.02)


def _ready(held: Held, lock: int, lock_file: Path, needs_bytes: int, fill: Callable[[Path], Path]) -> bool:
    """Fills it when nobody has it, waits for whoever fills it otherwise; false when it went away meanwhile."""
    if _try_lock(lock):
        if not _is_at(lock, lock_file):
            return False
        _sweep(lock_file)
        _fill(held, lock, needs_bytes, fill)
    # Going from the exclusive lock to this one is not atomic: what was filled may be gone again, or be another's.
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not _is_at(lock, lock_file):
        return False
    made = os.fsdecode(os.pread(lock, os.fstat(lock).st_size, 0))
    held.path = Path(os.path.normpath(held.directory / made))
    return made != "" and held.path.exists()


def _fill(held: Held, lock: int, needs_bytes: int, fill: Callable[[Path], Path]) -> None:
    """Makes the content, and then writes into the lock's file what it is: only what stands there is whole."""
    os.ftruncate(lock, 0)
    remove(held.directory)
    room = os.statvfs(held.directory.parent)
    free = room.f_bavail * room.f_frsize
    if needs_bytes and needs_bytes + needs_bytes // 64 + _ROOM_BYTES > free:
        room_told = f"{needs_bytes / 1e6:.2f} MB are needed for a while, and {free / 1e6:.2f} MB are free"
        error = NoSpace(f"no room left in {held.directory.parent}: {room_told}")
        error.needs_bytes, error.free_bytes = needs_bytes, free
        raise error
    held.directory.mkdir(0o700)
    made = fill(held.directory)
    os.pwrite(lock, os.fsencode(os.path.relpath(made, held.directory)), 0)


def _sweep(own: Path) -> None:
    """Removes what processes left that are gone: their locks went with them."""
    for lock_file in own.parent.glob("*.lock"):
        if lock_file == own:
            continue
        with contextlib.suppress(OSError):
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _try_lock(lock) and _is_at(lock, lock_file):
                    remove(lock_file.with_suffix(""))
                    lock_file.unlink()
            finally:
                os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, lock_file: Path) -> bool:
    """Whether the file that is locked is still the one of that name, and not one that its last user removed."""
    try:
        return os.path.samestat(os.fstat(lock), lock_file.stat())
    except FileNotFoundError:
        return False
