"""Saves that go on in a thread of their own, one at a time, and what became of them. Never lets an error vanish."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .errors import Busy, CkptError

if TYPE_CHECKING:
    from ._core import Memory
    from .copies import Snapshot

_log = logging.getLogger("ckpt_store")


class SaveHandle:
    """A save that is under way. Python waits for it before it exits."""

    def __init__(self, what: str, work: Callable[[], Checkpoint]) -> None:
        self._what = what
        self._work: Callable[[], Checkpoint] | None = work
        self._process = os.getpid()
        self._saved: Checkpoint | None = None
        self._error: BaseException | None = None
        self._told = False
        # Not the thread's own end: Python up to 3.12 takes a thread for ended when Ctrl-C interrupts who joins it.
        self._over = threading.Event()
        # Not a daemon: the interpreter waits for it before it goes.
        threading.Thread(target=self._run, name=f"ckpt-save {what}").start()

    def _run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            self._saved = work()
        except BaseException as error:
            self._error = error
            _log.error("saving %s failed: %s", self._what, error)
        finally:
            self._over.set()

    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self._over.is_set()

    def result(self, timeout: float | None = None) -> Checkpoint:
        """Waits for the save, and raises what it failed with.

        Raises:
            TimeoutError: when it takes longer than ``timeout`` seconds; the save goes on.
        """
        self._wait(timeout)
        self._told = True
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the save, and answers what it failed with."""
        self._wait(timeout)
        self._told = True
        return self._error

    def _wait(self, timeout: float | None) -> None:
        if os.getpid() != self._process:
            raise CkptError(f"{self._what} is being saved by the process that this one was forked from")
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self._what} is still being saved")

    def _join(self) -> None:
        # After a fork the thread is the other process's.
        if os.getpid() == self._process:
            self._over.wait()

    def _raise_untold(self) -> None:
        """Raises what it failed with unless somebody was told already."""
        if self._error is not None and not self._told:
            self._told = True
            raise self._error


class Background:
    """Saves from one copy of the tensors, so one save is under way at a time, whoever asks for it."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # The same thread may come in twice: a signal's handler waits, or saves, in the middle of a save.
        self._lock = threading.RLock()
        self._copying = False
        self._pending: SaveHandle | None = None

    def save(
        self, what: str, obj: object, store: Callable[[Sequence[tuple[str, bytes]], Sequence[Memory]], Checkpoint]
    ) -> SaveHandle:
        """Copies the object; ``store`` gets the records before the storages, and the copies of those, in a thread."""
        from .copies import Snapshot
        from .skeleton import take_apart

        with self._lock:
            if self._copying:
                raise Busy(f"{what} can't be saved here: a save in the background was interrupted while it copied")
            self.wait()
            self._copying = True
            try:
                # A signal's handler may have begun one just now; from here on it is refused.
                self.wait()
                if self._snapshot is None:
                    self._snapshot = Snapshot()
                skeleton = take_apart(obj)
                records = skeleton.leading_records()
                copies = self._snapshot.copy(skeleton.storages)
                self._pending = SaveHandle(what, lambda: store(records, copies))
                return self._pending
            finally:
                self._copying = False

    def wait(self) -> None:
        """Waits for the save that is under way, and raises what it failed with unless somebody was told already."""
        with self._lock:
            while (pending := self._pending) is not None:
                # Ctrl-C leaves it pending: the copy is still in use.
                pending._join()
                # Unless a signal's handler has begun the next one meanwhile.
                if self._pending is pending:
                    self._pending = None
                    pending._raise_untold()


_all: weakref.WeakSet[Background] = weakref.WeakSet()


def _begin_all() -> None:
    for one in _all:
        one._begin()


# A fork may have left a lock held, and what is being saved is saved by the parent.
os.register_at_fork(after_in_child=_begin_all)
