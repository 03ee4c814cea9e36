"""What callers give, checked and made plain. Never opens a store."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Invalid

FILE_MODE = 0o644
"""The permissions of files that come from memory."""
_STEP_MAX = 2**64 - 1
_NARROW = ("float32", "float16", "bfloat16")
_FLOAT32_MAX = 3.4e38


@dataclass(frozen=True)
class Label:
    """What a checkpoint is stored as."""

    run: str
    step: int | None
    metrics: dict[str, float]
    meta: dict[str, str]
    tags: set[str]
    replace: bool

    @classmethod
    def of(
        cls,
        run: str,
        step: int | None,
        metrics: Mapping[str, Any] | None,
        meta: Mapping[str, str] | None,
        tags: Iterable[str],
        replace: bool,
    ) -> Label:
        """From the arguments of :meth:`ckpt_store.Store.put`. Raises Invalid that names what is wrong."""
        numbers = {name: number(name, value) for name, value in (metrics or {}).items()}
        texts = {name: str(value) for name, value in (meta or {}).items()}
        return cls(run, None if step is None else whole(step), numbers, texts, set(tags_of(tags)), replace)

    def __str__(self) -> str:
        return self.run if self.step is None else f"{self.run}@{self.step}"


def whole(step: Any) -> int:
    """A step, which may be an integer of numpy or a tensor of one; 100.0 and "100" are mistakes and not rounded."""
    try:
        found = operator.index(step)
    except (TypeError, ValueError, RuntimeError):
        raise Invalid(f"step is {_shown(step)}, which is no whole number") from None
    if not 0 <= found <= _STEP_MAX:
        raise Invalid(f"step is {found}, which is not from 0 to {_STEP_MAX}")
    return found


def number(name: str, metric: Any) -> float:
    """A metric, which may be a tensor or an array of one element.

    0.1 in float32 is 0.10000000149011612 in float64. It becomes 0.1: people read it, and as a float32 it is the same.
    """
    try:
        # Of a tensor that a gradient flows through torch would warn.
        found = float(metric.detach() if hasattr(metric, "detach") else metric)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise Invalid(f"the metric {name} is {_shown(metric)}, which is not one number") from None
    is_narrow = str(getattr(metric, "dtype", "")).endswith(_NARROW)
    for digits in range(6, 10) if is_narrow and math.isfinite(found) else ():
        short = float(f"{found:.{digits}g}")
        if abs(short) < _FLOAT32_MAX and struct.unpack("f", struct.pack("f", short))[0] == found:
            return short
    return found


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags to keep. Of a text that is meant for one tag Python would make one of each letter."""
    if isinstance(tags, str):
        raise Invalid(f"tags is the text {tags!r}; a list of texts is meant")
    return tuple(tags)


def one_of(name: str, value: str, *allowed: str) -> str:
    """The value, if it is one that the argument of this name can have."""
    if value not in allowed:
        raise Invalid(f"{name} is {value!r}, and can be {' or '.join(map(repr, allowed))}")
    return value


def at_least_one(name: str, count: int | None) -> None:
    """Refuses a number of a rule that is none."""
    if count is not None and count < 1:
        raise Invalid(f"{name} is {count}; it is a number from 1 up, or None for no such rule")


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    return f"{str(value)[:40]!r} of type {type(value).__name__}"
