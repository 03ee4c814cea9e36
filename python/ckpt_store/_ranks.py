"""What the processes of one training do together, by way of Accelerate. Never leaves one waiting for a failed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from . import errors

Answer = TypeVar("Answer")


def on_main(work: Callable[[], Answer]) -> Answer:
    """Waits for all processes, does ``work`` on the main one, and gives all its answer, or raises its error in all."""
    state = PartialState()
    if state.num_processes == 1:
        return work()
    state.wait_for_everyone()
    told: list[object] = [None, None, None]
    failure: BaseException | None = None
    answer: Answer | None = None
    if state.is_main_process:
        try:
            answer = work()
            told = [None, None, answer]
        except BaseException as error:  # Ctrl-C too, or the others would wait for ever.
            failure = error
            told = [type(error).__name__, str(error), None]
    broadcast_object_list(told, from_process=0)
    if failure is not None:
        raise failure
    if told[0] is not None:
        raise _again(str(told[0]), str(told[1]))
    return told[2]  # type: ignore[return-value]


def on_all(work: Callable[[], None]) -> None:
    """Does ``work`` on all processes and waits for all; when it failed in one it raises in all."""
    state = PartialState()
    if state.num_processes == 1:
        return work()
    failure: BaseException | None = None
    try:
        work()
    except BaseException as error:
        failure = error
    told = None if failure is None else (state.process_index, type(failure).__name__, str(failure))
    failed = [one for one in gather_object([told]) if one is not None]
    if failure is not None:
        raise failure
    if failed:
        rank, kind, message = failed[0]
        raise _again(kind, f"process {rank}: {message}")


def _again(kind: str, message: str) -> Exception:
    """An error of another process, as the same kind where it is one of this package."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.CkptError):
        return found(message)
    return RuntimeError(f"{kind}: {message}")
