"""What a Lightning checkpoint tells of itself: step, metrics, and a run for those who name none. Never changes it.

Imports no framework: what it looks at was made by the one that runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import _arguments
from .stub_files import Place, local

_STRATEGIES = ("lightning.pytorch.strategies.strategy", "pytorch_lightning.strategies.strategy")
_FRAMES_MAX = 12
_NAME_BYTES_MAX = 255


def step_of(checkpoint: Mapping[str, Any]) -> int | None:
    """Lightning's ``global_step``; of a dict that Fabric saves, ``step`` if it has one."""
    for key in ("global_step", "step"):
        value = number(checkpoint.get(key))
        if value is not None and value >= 0 and value == int(value):
            return int(value)
    return None


def metrics_of(checkpoint: Mapping[str, Any], place: Place, trainer: Any | None) -> dict[str, float]:
    """Every scalar that the Trainer has logged, else what its ModelCheckpoints wrote down for the file at ``place``.

    A ModelCheckpoint's ``current_score`` is not used: it is the score of the last file that made the top k, which need
    not be this one.
    """
    found: dict[str, float] = {}
    callbacks = checkpoint.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        if isinstance(state, Mapping) and isinstance(state.get("monitor"), str):
            best = state.get("best_k_models")
            score = number(best.get(os.fspath(place))) if isinstance(best, Mapping) else None
            if score is not None:
                found[state["monitor"]] = score
    if trainer is not None:
        for name, value in _logged(trainer).items():
            score = number(value)
            if score is not None:
                found[name] = score
    return {name: value for name, value in found.items() if _is_name(name)}


def _logged(trainer: Any) -> Mapping[str, Any]:
    """With several ranks only what is computed already: to compute, all of them must take part, and one alone would
    wait for ever."""
    if trainer.world_size == 1:
        logged: Mapping[str, Any] = trainer.callback_metrics
        return logged
    return getattr(getattr(trainer, "_logger_connector", None), "_callback_metrics", {})


def number(value: Any) -> float | None:
    """A number, or a tensor with one element, as a float; ``None`` for all else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        if value.numel() != 1 or value.is_complex():
            return None
    except (AttributeError, TypeError, RuntimeError):
        return None
    return _arguments.number("", value)


def caller() -> tuple[Any | None, Any | None]:
    """The strategy that is saving, and its Trainer; ``None`` when another thread saves for it.

    A ``CheckpointIO`` is told neither of them, and the metrics are nowhere else. Only the frames of the callers are
    looked through, for a ``self`` that is one of Lightning's strategies.
    """
    kinds = tuple(sys.modules[name].Strategy for name in _STRATEGIES if name in sys.modules)
    frame = sys._getframe(1)
    for _ in range(_FRAMES_MAX):
        owner = frame.f_locals.get("self")
        if kinds and isinstance(owner, kinds):
            module = owner.lightning_module
            return owner, getattr(module, "_trainer", None)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None, None


def run_of(place: Place) -> str:
    """The directory of the file, as seen from here, without Lightning's own ``checkpoints``:
    ``lightning_logs/version_3``.

    Of a directory elsewhere, its last two names.
    """
    path = local(place)
    if path is not None:
        directory = Path(os.path.abspath(path)).parent
        here = Path.cwd()
        inside = directory.is_relative_to(here)
        parts = list(directory.relative_to(here).parts if inside else directory.parts[1:])
    else:
        inside = False
        parts = [part for part in os.fspath(place).split("://", 1)[1].split("/")[:-1] if part]
    if parts and parts[-1] == "checkpoints":
        parts.pop()
    if not inside:
        parts = parts[-2:]
    names = [re.sub(r"[@\x00-\x1f\x7f]", "_", part).strip() for part in parts]
    run = "/".join(name for name in names if name not in ("", ".", ".."))
    return run if _is_name(run) else "lightning"


def stem_of(place: Place) -> str:
    """The name of the file without ending and version: ``last`` of ``last-v1.ckpt``; ``""`` when it has numbers in it.

    Those with numbers differ from checkpoint to checkpoint and would make a run of each.
    """
    stem = re.sub(r"-v\d+$", "", Path(os.fspath(place)).stem)
    return stem if re.fullmatch(r"[A-Za-z][A-Za-z_.-]*", stem) else ""


def _is_name(name: Any) -> bool:
    """Whether a store takes it for the name of a run or a metric."""
    if not isinstance(name, str) or not name or name.strip() != name or not name.isprintable():
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _NAME_BYTES_MAX
