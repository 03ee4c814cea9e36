"""Measures ckpt against tools run beside it and against its own goals. Run by `make bench`.

usage: bench.py --target DIR [--write] [--runs N] [NAME ...]

DIR holds the built binary and examples. Each NAME is a function in benchmarks.py; none means all of them. Prints
Markdown; --write puts it into docs/benchmarks.md as well. Whole processes are timed, start included, on files in the
page cache, in turn (A B A B), medians of at least five runs. Everything is made in temporary directories and removed at
the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from pathlib import Path

from benchmarks import BENCHMARKS
from context import HERE, Context
from measure import say
from report import machine, update

BUSY_LOAD = 0.5
MEMORY = Path("/dev/shm")
DOCUMENT = HERE.parent.parent / "docs" / "benchmarks.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures ckpt against other tools.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; none means all")
    parser.add_argument("--target", type=Path, required=True, help="the folder of the built binary")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command")
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return options


def stop(_signal: int, _frame: object) -> None:
    raise SystemExit(130)  # so that the temporary directories are removed


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, stop)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckpt"
    results = []
    if (load := os.getloadavg()[0]) > BUSY_LOAD:
        say(f"the machine is busy (load {load:.1f}): times and ratios will be worse and vary more than on an idle one")
    with (
        tempfile.TemporaryDirectory(prefix="bench.", dir=cache) as disk,
        tempfile.TemporaryDirectory(prefix="ckpt-bench.", dir=MEMORY) as memory,
    ):
        context = Context(options.target, Path(disk), Path(memory), options.runs)
        for name in options.names or BENCHMARKS:
            say(f"--- {name}")
            results.append(BENCHMARKS[name](context))
            print(results[-1].markdown(), flush=True)
            for place in (context.disk, context.memory):
                shutil.rmtree(place / name, ignore_errors=True)
        words = f"{machine(context.disk, context.memory)}, load {load:.1f} before the first run"
    if options.write:
        update(DOCUMENT, results, words)
    judged = [(result, row) for result in results for row in result.rows if row.met is not None]
    missed = [f"{result.title}: {row.what}" for result, row in judged if not row.met]
    print(f"{len(judged) - len(missed)} goals met, {len(missed)} not met")
    for line in missed:
        print(f"  not met: {line}")


if __name__ == "__main__":
    main()
