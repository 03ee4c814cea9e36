"""What the benchmarks share: where the programs are, a folder on disk and one in memory, and the 2.5 GB file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from measure import output, say, touch

HERE = Path(__file__).resolve().parent
BIG_SCALE = 0.84  # a file of 2.5 GB


@dataclass
class Context:
    """One run of the benchmarks. `target` has the built binary and the examples; `disk` and `memory` go after it."""

    target: Path
    disk: Path
    memory: Path
    runs: int

    @property
    def ckpt(self) -> Path:
        return self.target / "ckpt"

    def example(self, name: str) -> Path:
        return self.target / "examples" / name

    def folder(self, name: str, in_memory: bool = False) -> Path:
        made = (self.memory if in_memory else self.disk) / name
        made.mkdir()
        return made

    def checkpoints(self, folder: Path, count: int, scale: float) -> tuple[list[Path], dict[str, int]]:
        """Makes torch checkpoints; returns them and how many of their bytes are frozen and trained."""
        say(f"making {count} checkpoints with a frozen encoder, scale {scale}")
        facts = json.loads(output(sys.executable, HERE / "frozen_encoder.py", folder, str(count), str(scale)))
        return [folder / f"step-{250 * (i + 1)}.ckpt" for i in range(count)], facts

    def big(self) -> Path:
        """Returns the 2.5 GB file, made once, in the page cache."""
        file = self.disk / "big" / "step-250.ckpt"
        if not file.exists():
            self.checkpoints(file.parent, 1, BIG_SCALE)
            os.sync()
        touch(file)
        return file
