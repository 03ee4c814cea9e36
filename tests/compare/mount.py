"""The benchmark of the mount: files of a mounted store beside the same files on disk, in the page cache."""

from __future__ import annotations

import json
import mmap as memory_map
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import peers
from context import Context
from measure import output, say, touch
from report import Result, Row, duration, size

BYTES = 512 << 20
PIECE = 1 << 20
PAGE, PAGES = 4096, 100_000
# The first time each of them costs a chunk.
PAGES_ANEW = 5_000
# What a second read is to reach of the page cache, and a first one of filling memory or of decoding by all cores.
READ_MIN, MMAP_MIN, KERNEL_MIN, RAW_MIN, ENCODED_MIN = 0.25, 0.40, 0.90, 0.90, 0.80
PAGES_MAX, LISTING_MAX = 3.0, 2.0
LOAD_FIRST_MIN, LOAD_AGAIN_MIN = 0.5, 0.7
CHECKPOINTS = 10_000
PATIENCE_SECONDS = 60


def mount(bench: Context) -> Result:
    """Reads of mounted files, and what they are beside: ext4 and tmpfs."""
    folder = bench.folder("mount")
    store, at = folder / "store", folder / "mnt"
    at.mkdir()
    peers.ckpt_init(bench.ckpt, store)
    files = make_files(folder / "files")
    put = [bench.ckpt, "--store", store, "put", "--step", "1", "--json", "--run"]
    chunks = {name: json.loads(output(*put, name, file))["chunks"] for name, file in files.items()}
    os.sync()
    for path in [*files.values(), *(p for p in (store / "packs").rglob("*") if p.is_file())]:
        touch(path)
    place = Place(bench, store, at, bench.folder("mount", in_memory=True))
    rows = [*again(place, files["raw"]), *first(place, files, chunks["float32"]), *loaders(place, files["float32"])]
    rows += [*kernel(place, files["raw"]), *listing(bench, folder, at)]
    kind = output("df", "--output=fstype", folder).split()[-1]
    method = (
        f"Files of {size(BYTES)}, one of random bytes, whose chunks are kept raw, and others of weights, whose chunks "
        f"are encoded. Beside the mount is the same file on {kind}, which the page cache has, read in the same way by "
        "the same process into memory that was touched before. The packs of the store lie in the page cache too. Read "
        "again: the kernel has the file's pages from the mount. The first time: another server, whose own cache is "
        f"empty, and no page of the file. Medians of {bench.runs} in turn. What decoding all cores could do is their "
        "number times what `codec_speed` says of one thread on the same bytes."
    )
    return Result("mount", "A mounted store", method, rows)


@dataclass
class Place:
    """A store, where it is mounted, and a folder in memory."""

    bench: Context
    store: Path
    at: Path
    memory: Path

    def file(self, name: str) -> Path:
        return self.at / name / "step-1" / f"{name}.safetensors"

    @contextmanager
    def mounted(self, *more: str) -> Iterator[None]:
        """Mounts it by a server of its own."""
        command = [self.bench.ckpt, "--store", self.store, "mount", self.at, "--foreground", *more]
        with (self.memory / "log").open("ab") as log:
            server = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while not os.path.ismount(self.at):
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"bench: no mount: {(self.memory / 'log').read_text()}")
                time.sleep(0.01)
            yield
        finally:
            server.terminate()
            server.wait(PATIENCE_SECONDS)

    def status(self) -> dict:
        """What the mount says of itself."""
        told = json.loads(output(self.bench.ckpt, "--json", "mount", "--status", self.at))
        return told[0] if isinstance(told, list) else told


def make_files(folder: Path) -> dict[str, Path]:
    """Makes a file of random bytes and files of weights with the spread of trained ones."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    say(f"making three files of {size(BYTES)}")
    torch.manual_seed(5)
    made = {
        "raw": [torch.randint(-(2**63), 2**63 - 1, (BYTES // 8 // 8,)) for _ in range(8)],
        "float32": [torch.randn(BYTES // 8 // 4) * 0.02 for _ in range(8)],
        "bfloat16": [(torch.randn(BYTES // 8 // 2) * 0.02).bfloat16() for _ in range(8)],
    }
    for name, tensors in made.items():
        save_file({f"layer.{i}.weight": tensor for i, tensor in enumerate(tensors)}, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in made}


# Ways to read, each into memory that is there. They return nothing: what they bring is compared elsewhere.
Way = Callable[[Path], None]
piece = memoryview(bytearray(PIECE))


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass


@contextmanager
def mapping(path: Path, advice: int | None) -> Iterator[memoryview]:
    with path.open("rb") as file, memory_map.mmap(file.fileno(), 0, prot=memory_map.PROT_READ) as mapped:
        if advice is not None:
            mapped.madvise(advice)
        with memoryview(mapped) as view:
            yield view


def read_mapped(path: Path, advice: int | None = None) -> None:
    with mapping(path, advice) as view:
        for start in range(0, len(view), PIECE):
            part = view[start : start + PIECE]
            piece[: len(part)] = part
            part.release()


def read_sequential(path: Path) -> None:
    read_mapped(path, memory_map.MADV_SEQUENTIAL)


def pages(path: Path, engine: str, count: int = PAGES) -> float:
    """Reads so many pages at random by fio; returns the seconds that they take."""
    engine_is = [f"--ioengine={engine}", "--rw=randread", f"--bs={PAGE}", f"--number_ios={count}", "--readonly"]
    # What the page cache has stays there, and a page may come twice.
    chosen = ["--invalidate=0", "--norandommap", "--randseed=1", "--allrandrepeat=1", f"--size={BYTES}"]
    told = output("fio", "--name=pages", f"--filename={path}", "--output-format=json", *engine_is, *chosen)
    job = json.loads(told)["jobs"][0]["read"]
    return count / job["iops"]


def forget(path: Path) -> None:
    """Lets the kernel forget what it has of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(runs: int, *works: Callable[[], float]) -> list[float]:
    """Has each measure itself in turn, A B A B; the first round does not count. Returns the median of each."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(runs + 1):
        for work, of in zip(works, taken, strict=True):
            result = work()
            if number:
                of.append(result)
    return [median(of) for of in taken]


def beside(runs: int, way: Callable[[Path], object], ours: Path, theirs: Path) -> list[float]:
    """One way to read two things, in turn."""
    return in_turn(runs, lambda: seconds(lambda: way(ours)), lambda: seconds(lambda: way(theirs)))


def same(ours: Path, theirs: Path) -> None:
    output("cmp", ours, theirs)


def again(place: Place, file: Path) -> list[Row]:
    """A file that was read before: the kernel answers."""
    rows = []
    with place.mounted():
        mounted = place.file("raw")
        same(mounted, file)
        for words, way, least in (
            ("`read` again", read, READ_MIN),
            ("`mmap` again", read_mapped, MMAP_MIN),
        ):
            ours, theirs = beside(place.bench.runs, way, mounted, file)
            rows.append(speed(words, ours, theirs, BYTES, least))
        # Large folios make ext4's mappings faster than those of any file system that keeps pages one by one.
        paged = place.memory / "paged"
        shutil.copyfile(file, paged)
        ours, theirs = beside(place.bench.runs, read_mapped, mounted, paged)
        rows.append(speed("`mmap` again, against tmpfs, which has pages of 4 KiB as FUSE does", ours, theirs, BYTES))
        paged.unlink()
        ours, theirs = beside(place.bench.runs, read_sequential, mounted, file)
        rows.append(times("`mmap` again, `MADV_SEQUENTIAL`", ours, theirs, PAGES_MAX))
        for words, engine in (("`pread`", "psync"), ("`mmap`", "mmap")):
            ours, theirs = in_turn(place.bench.runs, lambda: pages(mounted, engine), lambda: pages(file, engine))
            rows.append(times(f"{PAGES:,} pages of 4 KiB at random again, {words}", ours, theirs, PAGES_MAX))
    return rows


def first(place: Place, files: dict[str, Path], chunks: int) -> list[Row]:
    """A file that nobody has read: the server answers. `chunks` are those of the file of fp32."""
    rows = []
    source = memoryview(files["raw"].read_bytes())

    def fill() -> float:
        target = place.memory / "filled"

        def write() -> None:
            with target.open("wb", buffering=0) as to:
                for start in range(0, len(source), PIECE):
                    to.write(source[start : start + PIECE])

        taken = seconds(write)
        target.unlink()
        return taken

    def anew(name: str, way: Way) -> Callable[[], float]:
        def measured() -> float:
            with place.mounted():
                forget(place.file(name))
                return seconds(lambda: way(place.file(name)))

        return measured

    ours, theirs = in_turn(place.bench.runs, anew("raw", read), fill)
    raw = "for the first time, chunks kept raw, against filling a tmpfs file"
    rows.append(speed(f"`read` {raw}", ours, theirs, BYTES, RAW_MIN))
    ours, theirs = in_turn(place.bench.runs, anew("raw", read_mapped), fill)
    rows.append(speed(f"`mmap` {raw}", ours, theirs, BYTES))
    for name, dtype in (("float32", "f32"), ("bfloat16", "bf16")):
        data = place.memory / "data"
        data.write_bytes(files[name].read_bytes()[-(64 << 20) :])
        decoding = json.loads(output(place.bench.example("codec_speed"), data, dtype))["decode_gb_s"]
        data.unlink()
        cores = len(os.sched_getaffinity(0))
        could = BYTES / (cores * decoding * 1e9)
        ours = in_turn(place.bench.runs, anew(name, read))[0]
        words = f"`read` for the first time, {name}, against {cores} cores that decode {decoding:.1f} GB/s each"
        rows.append(speed(words, ours, could, BYTES, ENCODED_MIN))
        ours, checked = in_turn(place.bench.runs, anew(name, read), lambda: verified(place, name))
        words = f"`read` for the first time, {name}, against `verify`, which decodes and checks it on all cores"
        rows.append(speed(words, ours, checked, BYTES))
    with place.mounted():
        before = place.status()["chunks_decoded"]
        read(place.file("float32"))
        decoded = place.status()["chunks_decoded"] - before
    words = "chunks decoded for reading a file from front to back, of those it has"
    rows.append(Row(words, f"{decoded}", f"{chunks}", f"{decoded / chunks:.3f}", "each once", decoded == chunks))

    def pages_anew() -> float:
        with place.mounted():
            forget(place.file("raw"))
            return pages(place.file("raw"), "psync", PAGES_ANEW)

    ours, theirs = in_turn(place.bench.runs, pages_anew, lambda: pages(files["raw"], "psync", PAGES_ANEW))
    rows.append(times(f"{PAGES_ANEW:,} pages of 4 KiB at random for the first time, `pread`", ours, theirs))
    return rows


def verified(place: Place, name: str) -> float:
    """Seconds that the command takes to read, decode and check all chunks of a checkpoint."""
    command = [place.bench.ckpt, "--store", place.store, "verify", f"{name}@1"]
    return seconds(lambda: output(*command))


def loaders(place: Place, file: Path) -> list[Row]:
    """safetensors' load_file, whose tensors are then copied to others that are there."""
    from safetensors.torch import load_file

    to = {name: tensor.clone() for name, tensor in load_file(file).items()}

    def load(path: Path) -> None:
        for name, tensor in load_file(path).items():
            to[name].copy_(tensor)

    def anew() -> float:
        with place.mounted():
            forget(place.file("float32"))
            return seconds(lambda: load(place.file("float32")))

    def on_disk() -> float:
        return seconds(lambda: load(file))

    ours, theirs = in_turn(place.bench.runs, anew, on_disk)
    rows = [speed("`load_file` for the first time", ours, theirs, BYTES, LOAD_FIRST_MIN)]
    with place.mounted():
        mounted = place.file("float32")
        ours, theirs = in_turn(place.bench.runs, lambda: seconds(lambda: load(mounted)), on_disk)
    return [*rows, speed("`load_file` again", ours, theirs, BYTES, LOAD_AGAIN_MIN)]


def kernel(place: Place, file: Path) -> list[Row]:
    """A file that is laid down whole, which the kernel reads by itself where it can."""
    laid = place.bench.disk / "mount" / "laid"
    laid.mkdir()
    rows = []
    with place.mounted("--materialize", str(laid), "--materialize-limit", "2GB"):
        mounted = place.file("raw")
        end = time.monotonic() + PATIENCE_SECONDS
        while not (place.status().get("materialized") or {}).get("files") and time.monotonic() < end:
            read(mounted)
        told = place.status()
        if not (told.get("materialized") or {}).get("files") or told.get("materialize_why_not"):
            say(f"nothing is laid down whole: {told.get('materialize_why_not')}")
            return [Row("laid down whole (`--materialize`)", str(told.get("materialize_why_not")))]
        same(mounted, file)
        for words, way in (("`read`, laid down whole", read), ("`mmap`, laid down whole", read_mapped)):
            ours, theirs = beside(place.bench.runs, way, mounted, file)
            rows.append(speed(words, ours, theirs, BYTES, KERNEL_MIN))
    return rows


def walk(folder: Path) -> None:
    """Lists a folder of folders, and asks for each entry's size, as those do who look for the newest checkpoint."""
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry) as inner:
                    for file in inner:
                        file.stat(follow_symlinks=False)


def look(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


def listing(bench: Context, folder: Path, at: Path) -> list[Row]:
    """A run of ten thousand checkpoints, beside directories of the same shape."""
    say(f"filling a store: {CHECKPOINTS} checkpoints")
    place = Place(bench, folder / "many", at, bench.memory / "mount")
    scratch = place.memory / "many"
    output(bench.example("fill_store"), scratch, "--checkpoints", str(CHECKPOINTS))
    shutil.copytree(scratch, place.store)
    shutil.rmtree(scratch)
    plain = folder / "plain"
    plain.mkdir()
    for step in range(CHECKPOINTS):
        checkpoint = plain / f"step-{step}"
        checkpoint.mkdir()
        (checkpoint / "many.source.tmp").write_bytes(step.to_bytes(8, "little"))
    (plain / "latest").symlink_to(f"step-{CHECKPOINTS - 1}")
    rows = []

    def ls(path: Path) -> None:
        subprocess.run(["ls", "-lR", path], stdout=subprocess.DEVNULL, check=True)

    ways: tuple[tuple[str, Way], ...] = (
        (f"`scandir` and `stat` of {CHECKPOINTS:,} checkpoints", look),
        (f"`scandir` and `stat` of {CHECKPOINTS:,} checkpoints and their files", walk),
        (f"`ls -lR` of {CHECKPOINTS:,} checkpoints", ls),
    )
    with place.mounted():
        run = at / "fill"
        for words, way in ways:
            if way is look:
                rows.append(Row(f"{words}, the first time", duration(seconds(lambda: way(run)))))
            ours, theirs = beside(bench.runs, way, run, plain)
            rows.append(times(words, ours, theirs, LISTING_MAX))
            # Entries of a run are asked for again after a second.
            ours, theirs = in_turn(bench.runs, lambda: later(lambda: way(run)), lambda: seconds(lambda: way(plain)))
            rows.append(times(f"{words}, a second later", ours, theirs, LISTING_MAX))
    return rows


def later(work: Callable[[], object]) -> float:
    time.sleep(1.5)
    return seconds(work)


def speed(what: str, ours: float, theirs: float, bytes_: int, least: float | None = None) -> Row:
    """A row of speeds, with how much of the other's ours is."""
    goal, met = (f"at least {least}", theirs >= least * ours) if least else ("", None)
    cells = (f"{bytes_ / taken / 1e9:.2f} GB/s" for taken in (ours, theirs))
    return Row(what, *cells, f"{theirs / ours:.2f}", goal, met)


def times(what: str, ours: float, theirs: float, limit: float | None = None) -> Row:
    goal, met = (f"at most {limit:g}x", ours <= limit * theirs) if limit else ("", None)
    return Row(what, duration(ours), duration(theirs), f"{ours / theirs:.2f}x the time", goal, met)
