"""A save that goes on in a thread of its own, and what became of it. Never lets an error vanish."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from .checkpoint import Checkpoint
from .errors import CkptError

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
        # Not a daemon: the interpreter waits for it before it goes.
        self._thread = threading.Thread(target=self._run, name=f"ckpt-save {what}")
        self._thread.start()

    def _run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            self._saved = work()
        except BaseException as error:
            self._error = error
            _log.error("saving %s failed: %s", self._what, error)

    def done(self) -> bool:
        """Whether it is over, well or not."""
        return not self._thread.is_alive()

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
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._what} is still being saved")

    def _finish(self) -> None:
        """Waits, and raises what it failed with unless somebody was told already."""
        if os.getpid() == self._process:
            self._thread.join()
            if self._error is not None and not self._told:
                self._told = True
                raise self._error
