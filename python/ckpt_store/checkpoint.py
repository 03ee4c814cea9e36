"""What a store says of a checkpoint. Values only: never reads a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """One stored checkpoint."""

    id: str
    """Its ULID; names it wherever a ref is expected."""
    run: str
    """The run that it belongs to."""
    step: int | None
    """The training step, when it has one."""
    time: datetime
    """When it was stored, with its time zone (UTC)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers such as ``val_loss``."""
    tags: frozenset[str] = frozenset()
    """Names that somebody gave it."""
    pinned: bool = False
    """Whether every policy keeps it."""
    logical_bytes: int = 0
    """Bytes of its files."""
    added_bytes: int = 0
    """Raw bytes that the store did not have before."""
    written_bytes: int = 0
    """Bytes that storing it wrote, after compression."""

    @property
    def ref(self) -> str:
        """How commands name it: ``RUN@STEP``, or its id when it has no step."""
        return self.id if self.step is None else f"{self.run}@{self.step}"

    @classmethod
    def _of(cls, entry: Mapping[str, Any]) -> Checkpoint:
        """From the core's own description of it."""
        return cls(
            id=entry["id"],
            run=entry["run"],
            step=entry["step"],
            time=datetime.fromisoformat(entry["time"].replace("Z", "+00:00")),
            metrics=dict(entry["metrics"]),
            tags=frozenset(entry["tags"]),
            pinned=entry["pinned"],
            logical_bytes=entry["logical_bytes"],
            added_bytes=entry["added_bytes"],
            written_bytes=entry.get("written_bytes", 0),
        )
