"""What can go wrong, by what the caller should do about it. Never leaves that to the words of a message alone."""

from __future__ import annotations

import errno


class CkptError(Exception):
    """Any failure of a store. The message says what happened, to which run, step, file or tensor, and what to do."""


class NotFound(CkptError, LookupError):
    """There is no such store, run, checkpoint, file or tensor. Names that are close stand in the message."""


class Exists(CkptError):
    """The thing is there already: another step, or ``replace=True``."""


class Busy(CkptError):
    """Somebody else is at work. Trying again later may succeed."""


class Invalid(CkptError, ValueError):
    """The call can't be carried out as it was made."""


class Changed(CkptError):
    """A source changed while it was read. Nothing was stored."""


class _OfTheSystem(CkptError, OSError):
    """A failure that code which knows files expects as an :class:`OSError`; ``errno`` is set where it is known."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NoSpace(_OfTheSystem):
    """The disk is too full. Nothing was stored and nothing was changed, so a training can go on; ``errno`` is
    ``ENOSPC``.

    ``needs_bytes`` is what storing it would have written, as far as that is known; ``free_bytes`` is what is free, of
    which ``reserve_bytes`` are to stay so, and not known where a quota is used up; ``gc_frees_bytes`` is what
    :meth:`ckpt_store.Store.gc` would free now.
    """

    needs_bytes: int | None = None
    free_bytes: int | None = None
    reserve_bytes: int | None = None
    gc_frees_bytes: int | None = None

    def __init__(self, message: str, number: int | None = errno.ENOSPC) -> None:
        super().__init__(message, number)


class Corrupt(CkptError):
    """Part of the store is damaged. ``damage`` names each place: checkpoint, file, tensor, chunk, pack, reason."""

    damage: tuple[dict[str, str | None], ...] = ()


class Unsupported(CkptError):
    """The store was written by another version of ckpt, or the installed framework lacks what is asked for."""


class Unavailable(_OfTheSystem):
    """The operating system or the storage refused."""


class Internal(CkptError):
    """A mistake of ckpt itself; please report it."""
