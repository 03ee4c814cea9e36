"""The benchmarks of the Python package: saving and loading a state_dict, and a Lightning training that saves."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

from context import HERE, Context
from measure import bytes_under, output, say
from report import Result, Row, duration, size

UNCHANGED_MAX, FIRST_MAX, COPY_MAX, STEPS_MAX, LOAD_MAX = 0.15, 1.0, 1.2, 1.1, 1.0
EXTRA_BYTES_MAX = 300e6
# 160 validations of a training with an encoder of 60 M parameters that stay, and 4.89 M that train.
LIGHTNING_SCALE, VALIDATIONS = 0.1, 160


def hooks(bench: Context) -> Result:
    """A state_dict of 1 GB, saved and loaded in one process, beside what torch does with it."""
    saved, copied = child(bench, "save"), child(bench, "copy")
    spare, all_cores = child(bench, "steps", threads=1), child(bench, "steps")
    loaded, extra = child(bench, "load"), child(bench, "memory")
    first, unchanged, durable, torch_ = (median(saved[k]) for k in ("first", "unchanged", "durable", "torch"))
    clone, places = median(copied["clone"]), median(copied["places"])
    copy_first, copy_again = median(copied["first"]), median(copied["again"])
    rows = [
        times("`save`, unchanged, against `torch.save`", unchanged, torch_, UNCHANGED_MAX),
        times("`save`, unchanged, against `torch.save` + fsync", unchanged, durable),
        times("`save`, the first, against `torch.save` + fsync", first, durable, FIRST_MAX),
        times("`save`, the first, against `torch.save`", first, torch_),
        times("`save_async` returns, the first, against cloning", copy_first, clone, COPY_MAX),
        times("`save_async` returns, later ones, against cloning", copy_again, clone, COPY_MAX),
        times("`save_async` returns, later ones, against copying into tensors that are there", copy_again, places),
        *steps("the store on the other core", spare, STEPS_MAX),
        *steps("the store on both cores", all_cores),
        times("`load`, against `torch.load`", median(loaded["store"]), median(loaded["torch"]), LOAD_MAX),
        few(loaded),
        memory("the first", extra["first"]),
        memory("unchanged", extra["unchanged"]),
    ]
    kind = output("df", "--output=fstype", bench.disk).split()[-1]
    method = (
        f"200 tensors of fp32, {size(saved['bytes'])} as a file, random with the spread of trained weights, in memory "
        f"that has been touched; store and file on the same disk ({kind}), where `torch.save` + fsync writes "
        f"{saved['bytes'] / durable / 1e9:.1f} GB/s. `save` returns when the checkpoint is durable; `torch.save` alone "
        f"when the page cache has the file, which is read from there as well. Medians of {bench.runs} in turn, in one "
        "process, and the disk is idle before each. A step is one of a small AdamW training with "
        "`torch.set_num_threads(1)`; it stands beside the same step without a save, and the store's threads are "
        "limited by `RAYON_NUM_THREADS=1` or not. Memory is the peak of all resident memory during a save over that "
        "before it."
    )
    return Result("hooks", "Saving and loading from Python", method, rows)


def lightning(bench: Context) -> Result:
    """A training of 160 validations, whose ModelCheckpoint keeps each one's checkpoint in a store."""
    folder = bench.folder("lightning")
    say(f"training, {VALIDATIONS} checkpoints")
    found = python(HERE / "hooks_lightning.py", folder, str(LIGHTNING_SCALE), str(VALIDATIONS))
    ours, alone = bytes_under(folder / "store") + found["stub_bytes"], found["alone_bytes"]
    # It is the same in all but a few bytes of bookkeeping, so those not written are taken to be as large.
    by_files = VALIDATIONS * sum(alone) / len(alone)
    needed = found["frozen_bytes"] + VALIDATIONS * found["trained_bytes"]
    save, alone_save = median(found["seconds"]), median(found["alone_seconds"])
    total, alone_total = sum(found["seconds"]), VALIDATIONS * sum(found["alone_seconds"]) / len(alone)
    rows = [
        Row("stored, against ModelCheckpoint alone", size(ours), size(by_files), f"{by_files / ours:.2f}x smaller"),
        Row("stored, against the frozen part once + all that trains", size(ours), size(needed), f"{ours / needed:.3f}"),
        Row("one save", duration(save), duration(alone_save), f"{alone_save / save:.1f}x faster"),
        Row("all saves", duration(total), duration(alone_total), f"{alone_total / total:.1f}x faster"),
    ]
    method = (
        f"A Trainer with `ModelCheckpoint(save_top_k=-1)` and `StoreCheckpointIO`, {VALIDATIONS} validations; an "
        f"encoder of {found['frozen_bytes'] / 4e6:.1f} M parameters is frozen, {found['trained_bytes'] / 12e6:.2f} M "
        f"train with AdamW, fp32, {size(by_files / VALIDATIONS)} a checkpoint. Beside it is what Lightning writes "
        f"without a store: {len(alone)} of the same checkpoints were written by it too, in the same run to the same "
        "disk, and stand for all; it does not wait for the disk, the store does. Stored bytes are all files of the "
        f"store, and the stubs. The checkpoint of step {found['step']} was loaded and every tensor compared; it loads "
        "strictly."
    )
    return Result("lightning", f"A Lightning training of {VALIDATIONS} validations", method, rows)


def child(bench: Context, measurement: str, threads: int | None = None) -> dict[str, Any]:
    """Measures in a process of its own, in a folder that is there for it alone."""
    say(measurement + (f", {threads} thread of the store" if threads else ""))
    name = "-".join(["hooks", measurement, *([str(threads)] if threads else [])])
    folder = bench.folder(name)
    env = {"RAYON_NUM_THREADS": str(threads)} if threads else {}
    found = python(HERE / "hooks_state.py", measurement, folder, str(bench.runs), env=env)
    shutil.rmtree(folder)
    for what, of in found.items():
        if isinstance(of, list):
            say(f"{measurement}, {what}: " + " ".join(f"{number:.3f}" for number in sorted(of)))
    return found


def python(*arguments: str | Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs a script that uses the package; returns what it printed last, as JSON."""
    paths = [os.environ["CKPT_PYTHONPATH"], os.environ.get("PYTHONPATH")]
    env = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONWARNINGS": "ignore", **(env or {})}
    return json.loads(output(sys.executable, "-B", *arguments, env=env).splitlines()[-1])


def steps(words: str, found: dict[str, Any], limit: float | None = None) -> list[Row]:
    """Training steps beside saves; what is compared was measured right before each."""
    alone, rows = median(found["alone"]), []
    for kind in ("changed", "unchanged"):
        slower = median(found[kind])
        what = f"a training step beside a save, {kind}, {words}"
        row = Row(what, f"{alone * slower * 1e3:.1f} ms", f"{alone * 1e3:.1f} ms")
        row.ratio = f"{slower:.2f}x the time"
        if limit is not None:
            row.goal, row.met = f"at most {limit}x", slower <= limit
        rows.append(row)
    return rows


def few(loaded: dict[str, Any]) -> Row:
    read, wanted = loaded["few_read"], loaded["few_wanted"]
    return Row("`load_tensors` of 1 % of the bytes: read", size(read), size(wanted), f"{read / wanted:.3f}")


def memory(kind: str, extra: int) -> Row:
    words = f"memory beyond the tensors, `save`, {kind}"
    return Row(words, size(extra), goal="at most 300 MB", met=extra <= EXTRA_BYTES_MAX)


def times(what: str, ours: float, theirs: float, limit: float | None = None) -> Row:
    row = Row(what, duration(ours), duration(theirs), f"{ours / theirs:.2f}x the time")
    if limit is not None:
        row.goal, row.met = f"at most {limit}x", ours <= limit * theirs
    return row
