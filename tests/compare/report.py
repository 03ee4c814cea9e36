"""Turns results into Markdown, and keeps the generated parts of docs/benchmarks.md up to date."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from measure import output
from peers import versions


@dataclass
class Row:
    """One line of a table. `met` is None where the figure is there for comparison alone."""

    what: str
    ckpt: str
    peer: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        verdict = {True: "met", False: "**not met**", None: ""}[self.met]
        return [self.what, self.ckpt, self.peer, self.ratio, self.goal, verdict]


@dataclass
class Result:
    """One benchmark's table, under its heading."""

    name: str
    title: str
    method: str
    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        header = ["", "ckpt", "beside it", "ratio", "goal", ""]
        lines = [header, ["---"] * len(header), *(row.cells() for row in self.rows)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        measured = f"Measured on {date.today().isoformat()}; again with `make bench ONLY={self.name}`."
        return "\n\n".join([f"### {self.title}", self.method, table, measured]) + "\n"


def size(count: float) -> str:
    """Decimal units, as disks are sold."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def machine(*places: Path) -> str:
    """Describes the machine without naming it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    kinds = [output("df", "--output=fstype", p).split()[-1] for p in places]
    cores = f"{os.cpu_count()} cores ({model.group(1).strip()})" if model else f"{os.cpu_count()} cores"
    return f"{cores}, {memory:.0f} GiB of memory, files on {' and '.join(kinds)}"


def update(document: Path, results: list[Result], machine_words: str) -> None:
    """Writes each result between its own markers, so that one benchmark can be renewed without the others."""
    text = document.read_text("utf-8") if document.exists() else "# Benchmarks\n"
    parts = {"machine": f"Machine: {machine_words}. Peers: {versions()}.\n"} | {r.name: r.markdown() for r in results}
    for name, body in parts.items():
        begin, end = f"<!-- bench {name}: generated -->", f"<!-- end of {name} -->"
        block = f"{begin}\n{body}{end}"
        if begin in text:
            text = text[: text.index(begin)] + block + text[text.index(end) + len(end) :]
        else:
            text = f"{text.rstrip()}\n\n{block}\n"
    document.parent.mkdir(exist_ok=True)
    document.write_text(text, "utf-8")
