"""The small file that stands where Lightning expects a checkpoint. Never opens a store, executes or imports anything.

A stub is a zip as torch writes them, with three things in it: a description of where the checkpoint is (JSON), the same
in words, and a pickle of 300 bytes whose only storage is a record that isn't there and that bears those words as its
name. So ``torch.load`` of a stub fails, whatever its arguments, and the words stand in its error. The pickle names
nothing but ``torch.FloatStorage``.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import struct
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import Invalid

BYTES_MAX = 65536
"""A longer file is no stub. Real ones have about 2,000 bytes, with the path of the store in them seven times."""
_ABOUT, _WORDS, _PICKLE, _VERSION = "stub/ckpt.json", "stub/README.txt", "stub/data.pkl", "stub/version"
_FORMAT = 1


@dataclass(frozen=True)
class Stub:
    """Where a checkpoint is."""

    store: str
    """The path of its store."""
    relative: str
    """The same, as seen from the directory of the stub; ``""`` where there is no such way."""
    id: str
    """The checkpoint's id."""
    run: str
    """Its run."""
    step: int | None
    """Its step."""
    file: str
    """The file of the checkpoint that the stub stands for."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, store: Path, file: str, beside: Path | None) -> Stub:
        """The stub of a checkpoint in ``store``, to stand in the directory ``beside`` (``None``: on another
        machine)."""
        relative = ""
        if beside is not None:
            relative = os.path.relpath(os.path.realpath(store), os.path.realpath(beside))
        return cls(str(store), relative, checkpoint.id, checkpoint.run, checkpoint.step, file)

    @property
    def ref(self) -> str:
        """How a person names the checkpoint."""
        return self.id if self.step is None else f"{self.run}@{self.step}"

    @property
    def words(self) -> str:
        """What a person reads who opens the file, or gives it to torch."""
        get = f"ckpt get {self.id} {shlex.quote(self.file)} --force --store {shlex.quote(self.store)}"
        return (
            f"THIS FILE IS A STUB AND NOT DAMAGED. Its checkpoint, {self.ref}, is in the store {self.store}. "
            f"To load it: ckpt_store.lightning.load_from_checkpoint(MODULE, {self.file!r}), "
            f"or ckpt_store.Store({self.store!r}).load({self.id!r}). "
            f"To have the file itself in the place of this stub: {get}"
        )

    def stores(self, beside: Path | None) -> list[Path]:
        """Paths at which the store may be, the likeliest first: both may have been moved together, or the stub
        alone."""
        found = [Path(self.store)]
        if beside is not None and self.relative:
            found.append(Path(os.path.normpath(Path(os.path.realpath(beside), self.relative))))
        return found

    def to_bytes(self) -> bytes:
        """What the file holds."""
        words = self.words
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_member(_WORDS), f"{words}\n".encode("utf-8", "backslashreplace"))
            archive.writestr(_member(_ABOUT), json.dumps({"ckpt_stub": _FORMAT, **asdict(self)}))
            archive.writestr(_member(_PICKLE), _pickle(words))
            archive.writestr(_member(_VERSION), "3\n")
        made = held.getvalue()
        if len(made) > BYTES_MAX:
            raise Invalid(f"the path of the store is too long for a stub: {self.store}")
        return made

    @classmethod
    def from_bytes(cls, held: bytes) -> Stub | None:
        """The stub in ``held``, or ``None`` when it is anything else, whatever that is."""
        if len(held) > BYTES_MAX or not held.startswith(b"PK\x03\x04"):
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(held)) as archive:
                about = archive.getinfo(_ABOUT)
                if about.compress_type != zipfile.ZIP_STORED or about.file_size > BYTES_MAX:
                    return None
                told: Any = json.loads(archive.read(about))
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, NotImplementedError, RuntimeError,
        RecursionError):
            return None
        if not isinstance(told, dict) or told.get("ckpt_stub") != _FORMAT:
            return None
        values = {field.name: told.get(field.name) for field in fields(cls)}
        step = values.pop("step")
        if not all(isinstance(value, str) for value in values.values()) or not (step is None or type(step) is int):
            return None
        return cls(step=step, **values)  # type: ignore[arg-type]  # checked one line above


def _member(name: str) -> zipfile.ZipInfo:
    """Without the time of day, so that the same stub has the same bytes."""
    return zipfile.ZipInfo(name)


def _pickle(words: str) -> bytes:
    """Protocol 2, by hand: ``('storage', torch.FloatStorage, words, 'cpu', 1)`` as a persistent id."""

    def text(value: str) -> bytes:
        held = value.encode("utf-8", "backslashreplace")
        return b"X" + struct.pack("<I", len(held)) + held

    return b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + text(words) + text("cpu") + b"K\x01tQ."
