"""Times whole processes side by side, and measures their memory and what they leave on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


def say(text: str) -> None:
    """Tells the person who waits what is going on; the results alone go to stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass
class Command:
    """One program under test. `arguments` and `before` get the number of the run; what `before` does is not timed."""

    name: str
    arguments: Callable[[int], list[str]]
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[int], None] = lambda _run: None

    def run(self, number: int) -> float:
        """Runs it once; returns the seconds from before its start to after its end."""
        self.before(number)
        arguments = self.arguments(number)
        start = time.perf_counter()
        done = subprocess.run(arguments, env=os.environ | self.env, stdin=subprocess.DEVNULL, capture_output=True)
        seconds = time.perf_counter() - start
        check(done, arguments)
        return seconds

    def peak_anonymous_bytes(self, number: int) -> int:
        """Runs it once; returns its largest anonymous memory: what it allocated, without mapped files."""
        self.before(number)
        arguments = self.arguments(number)
        process = subprocess.Popen(
            arguments,
            env=os.environ | self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.001)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} failed with {process.returncode}")
        return peak


def check(done: subprocess.CompletedProcess[bytes], arguments: list[str]) -> None:
    if done.returncode != 0:
        raise SystemExit(
            f"bench: failed with {done.returncode}: {' '.join(arguments)}\n{done.stderr.decode(errors='replace')}"
        )


def anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended between the poll and the read
    return 0


def output(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Runs a command that is not timed; returns what it prints."""
    strings = [str(a) for a in arguments]
    done = subprocess.run(strings, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True)
    check(done, strings)
    return done.stdout.decode()


def alternate(commands: list[Command], runs: int) -> dict[str, float]:
    """Runs the commands in turn, A B A B, so that a change in the machine's load meets all of them alike.

    The first round warms caches and does not count. Returns the median seconds of each.
    """
    seconds: dict[str, list[float]] = {c.name: [] for c in commands}
    for number in range(runs + 1):
        for command in commands:
            taken = command.run(number)
            if number:
                seconds[command.name].append(taken)
    for name, all_of in seconds.items():
        say(f"{name}: " + " ".join(f"{s:.3f}" for s in sorted(all_of)) + " s")
    return {name: median(all_of) for name, all_of in seconds.items()}


def touch(path: Path) -> None:
    """Reads a file through, so that it lies in the page cache."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def bytes_under(folder: Path) -> int:
    """Returns the bytes of all files below a folder, as they are long."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
