"""What a store says of a checkpoint. Values only: never reads a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
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
            time=datetime.fromtimestamp(entry["time_ms"] / 1000, timezone.utc),
            metrics=dict(entry["metrics"]),
            tags=frozenset(entry["tags"]),
            pinned=entry["pinned"],
            logical_bytes=entry["logical_bytes"],
            added_bytes=entry["added_bytes"],
            written_bytes=entry["written_bytes"],
        )


@dataclass(frozen=True)
class StoredFile:
    """A member of a checkpoint."""

    path: str
    """Its path inside the checkpoint."""
    size: int
    """Bytes; 0 for what is no regular file."""
    kind: str
    """``"file"``, ``"directory"`` or ``"link"``."""
    format: str | None
    """What it was taken for, such as ``"torch zip"``."""

    @classmethod
    def _of(cls, file: Mapping[str, Any]) -> StoredFile:
        return cls(file["path"], file["size"], file["kind"], file["format"])


@dataclass(frozen=True)
class GcReport:
    """What a gc did, or would do."""

    dropped: tuple[tuple[Checkpoint, tuple[str, ...]], ...]
    """The checkpoints that went, each with the reason."""
    kept: tuple[tuple[Checkpoint, tuple[str, ...]], ...]
    """Those that stayed, each with all that keeps it."""
    freed_bytes: int
    """Bytes that the store is smaller by."""
    dry_run: bool
    """Whether nothing was done."""

    @classmethod
    def _of(cls, report: Mapping[str, Any], dry_run: bool) -> GcReport:
        def verdicts(key: str) -> tuple[tuple[Checkpoint, tuple[str, ...]], ...]:
            return tuple((Checkpoint._of(entry), tuple(reasons)) for entry, reasons in report[key])

        return cls(verdicts("dropped"), verdicts("kept"), report["freed_bytes"], dry_run)
