"""torch.distributed.checkpoint into a store: two ranks save, one, two and three load, and torch's own reader loads."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

import dcp_rank
from ckpt_store import Store, errors
from ckpt_store._dcp_files import MemoryFiles
from ckpt_store._dcp_rows import read_rows
from ckpt_store.dcp import StoreReader, StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def ranks(job: str, world: int, directory: Path, code: int = 0) -> list[dict[str, Any]]:
    """What each rank of a job told, all of which end with this code."""
    script = str(Path(__file__).with_name("dcp_rank.py"))
    started = [
        subprocess.Popen(
            [sys.executable, script, job, str(rank), str(world), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        ended = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [code] * world, "\n".join(err for _, err in ended)
    return [json.loads(out.splitlines()[-1]) for out, _ in ended if out]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    directory = tmp_path_factory.mktemp("dcp")
    yield directory, ranks("save", 2, directory)


def empty() -> dict[str, Any]:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in dcp_rank.whole().items()}
    return {"model": tensors, "plain": torch.zeros(40), "step": 0, "texts": []}


def assert_same(state: dict[str, Any]) -> None:
    for name, tensor in dcp_rank.whole().items():
        assert torch.equal(state["model"][name], tensor), name
    assert torch.equal(state["plain"], torch.arange(40.0)) and state["step"] == 17 and state["texts"] == ["a", "b"]


def test_two_ranks_save_one_checkpoint_and_load_it(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    directory, told = saved
    assert [rank["committed_by"] for rank in told] == [True, False]
    for rank in told:
        assert rank["async"] and rank["replaced"] and rank["fsdp"]
        assert rank["exists"] == {"0": "Exists: a@2 is there already: another step, or replace=True"}
        assert rank["one_fails"] == {"1": "RuntimeError: no data here"}
        assert "0" in rank["missing"] and "1" in rank["missing"]
    store = Store(directory / "store")
    assert [one.step for one in store.checkpoints("a")] == [2, 4, 5, 1], "nothing of the failed step is there"
    assert store.checkpoint("a@4").metrics == {"loss": 0.5} and "first" in store.checkpoint("a@4").tags
    # Tensors have the names that the metadata gives, and what the failed step wrote is garbage.
    assert torch.equal(store.load_tensors("a@2", "plain")["plain"], torch.arange(40.0))
    assert "model.rows[150:300,0:512]" in store.load_tensors("a@2")
    store.gc()
    assert store.verify()["sound"]
    # Nothing but the store lies beside it.
    assert {path.name for path in directory.iterdir()} == {"store", "plain", "meeting-save-2"}


def test_saving_the_same_again_adds_next_to_nothing(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (Store(saved[0] / "store").checkpoint(f"a@{step}") for step in (2, 4))
    assert second.logical_bytes > 1_000_000
    assert second.added_bytes < 20_000 and first.added_bytes < 20_000


def test_the_files_are_those_of_the_file_system_writer(
    saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    directory, _ = saved
    got = Store(directory / "store").get("a@2", tmp_path / "got")
    plain = directory / "plain"
    assert sorted(os.listdir(got)) == sorted(os.listdir(plain)) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    for name in ("__0_0.distcp", "__1_0.distcp"):
        assert (got / name).read_bytes() == (plain / name).read_bytes()
    state = empty()
    dcp.load(state, storage_reader=dcp.FileSystemReader(got))
    assert_same(state)


def test_ranks_that_are_killed_leave_the_store_as_it_was(
    saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    store = Store(shutil.copytree(saved[0] / "store", tmp_path / "store"))
    before = store.checkpoints()
    store.gc()
    held = store.stats()["stored_bytes"]
    assert ranks("die", 2, tmp_path, code=-signal.SIGKILL) == [{"error": "RuntimeError"}]
    assert store.checkpoints() == before and store.verify()["sound"]
    assert store.stats()["stored_bytes"] > held, "the part of the rank that had written is garbage now"
    store.gc()
    assert store.stats()["stored_bytes"] <= held
    state = empty()
    dcp.load(state, storage_reader=StoreReader(store, "a@2"))
    assert_same(state)


def test_one_process_loads_what_two_wrote(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    state = empty()
    dcp.load(state, storage_reader=StoreReader(saved[0] / "store", "a@2"))
    assert_same(state)


def test_three_ranks_load_what_two_wrote(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    assert ranks("load", 3, saved[0]) == [{"same": True, "local": True}] * 3


def test_a_directory_of_the_file_system_writer_is_read_as_well(
    saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    store.put(saved[0] / "plain", run="b", step=1)
    state = empty()
    dcp.load(state, storage_reader=StoreReader(store, "b@1"))
    assert_same(state)


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    def __init__(self, data: bytes, seen: list[int]) -> None:
        super().__init__(data)
        self._seen = seen

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._seen[0] += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        filled = super().readinto(buffer)
        self._seen[0] += filled
        return filled


def test_only_what_is_asked_for_is_read(
    saved: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(saved[0] / "store")
    seen = [0]
    opened = store.open

    def counting(ref: str, file: str | None = None) -> Any:
        with opened(ref, file) as stream:
            return Counting(stream.read(), seen)

    monkeypatch.setattr(store, "open", counting)
    state: dict[str, Any] = {"model": {"half": torch.zeros(60, 512, dtype=torch.float16)}}
    dcp.load(state, storage_reader=StoreReader(store, "a@2"))
    assert torch.equal(state["model"]["half"], dcp_rank.whole()["half"])
    size = 60 * 512 * 2
    assert size < seen[0] < size + 60_000


class OneTensor:
    """As much of a planner as reading one tensor needs."""

    def __init__(self, *shape: int) -> None:
        self.target = torch.zeros(shape)
        self.committed = False

    def resolve_tensor(self, item: ReadItem) -> torch.Tensor:
        return self.target

    def commit_tensor(self, item: ReadItem, tensor: torch.Tensor) -> None:
        self.committed = tensor.data_ptr() == self.target.data_ptr()


@pytest.mark.parametrize(("first", "shape", "most"), [((10, 0), (5, 512), 40_000), ((10, 3), (5, 7), 400_000)])
def test_of_a_part_only_its_rows_are_read(
    saved: tuple[Path, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    first: tuple[int, int],
    shape: tuple[int, int],
    most: int,
) -> None:
    store = Store(saved[0] / "store")
    seen = [0]
    opened = store.open
    monkeypatch.setattr(store, "open", lambda ref, file=None: Counting(opened(ref, file).read(), seen))
    reader = StoreReader(store, "a@2")
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, True)
    (index,) = [one for one in metadata.storage_data if one.fqn == "model.rows" and one.offset == torch.Size([150, 0])]
    sizes = [torch.Size(one) for one in ((0, 0), first, shape)]
    item = ReadItem(LoadItemType.TENSOR, index, sizes[0], index, *sizes[1:])
    planner = OneTensor(*shape)
    seen[0] = 0
    reader.read_data(LoadPlan([item]), planner)
    rows, columns = (slice(begin, begin + size) for begin, size in zip(first, shape))
    assert torch.equal(planner.target, dcp_rank.whole()["rows"][150:][rows, columns])
    assert planner.committed and 0 < seen[0] < most


def archive(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_rows_are_read_where_they_lie_and_nothing_else_is() -> None:
    grid = torch.arange(4000 * 100, dtype=torch.bfloat16).reshape(4000, 100)
    data = b"before" + archive(grid) + b"after"
    length = len(data) - 11
    seen = [0]
    rows = read_rows(Counting(data, seen), 6, length, 1000, [50, 100])
    assert rows is not None and torch.equal(rows, grid[1000:1050])
    assert seen[0] < 40_000, "the other 790 kB are not read"
    assert torch.equal(read_rows(io.BytesIO(data), 6, length, 0, [4000, 100]), grid)
    assert read_rows(io.BytesIO(data), 6, length, 3999, [2, 100]) is None
    assert read_rows(io.BytesIO(data), 6, length, 0, [2, 99]) is None
    empty = read_rows(io.BytesIO(data), 6, length, 7, [0, 100])
    assert empty is not None and empty.shape == (0, 100)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(30, 20).t(),
        torch.zeros(()),
        torch.nn.Parameter(torch.zeros(3)),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(6, dtype=torch.uint16),
        {"a": torch.zeros(3)},
        [torch.zeros(3)],
        "text",
    ],
    ids=["transposed", "scalar", "parameter", "sparse", "untyped", "dict", "list", "text"],
)
def test_of_anything_but_a_plain_tensor_no_rows_are_read(value: Any) -> None:
    data = archive(value)
    shape = value.shape if isinstance(value, torch.Tensor) else (1,)
    assert read_rows(io.BytesIO(data), 0, len(data), 0, shape) is None


class Evil:
    """What makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_hostile_archive_runs_nothing_and_reads_nothing_outside(tmp_path: Path) -> None:
    data = archive(torch.zeros(5, 3))
    for at in range(0, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        try:
            rows = read_rows(io.BytesIO(bytes(broken)), 0, len(broken), 1, [2, 3])
        except (EOFError, RuntimeError, NotImplementedError, OSError):
            continue
        assert rows is None or rows.shape == (2, 3)
    for cut in range(0, len(data), 50):
        assert read_rows(io.BytesIO(data[:cut]), 0, cut, 0, [1, 3]) is None
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil(tmp_path / "made")))
        file.writestr("archive/data/0", b"x" * 8)
    assert read_rows(made, 0, len(made.getvalue()), 0, [1]) is None
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "made")))
    assert (tmp_path / "made").exists(), "it would have"


def test_one_process_saves_without_a_group(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    view = torch.arange(100_000.0)[::2]
    writer = StoreWriter(store, run="x/y", single_file_per_rank=False)
    dcp.save({"view": view, "small": torch.ones(2), "big": torch.arange(50_000)}, storage_writer=writer)
    assert writer.checkpoint is not None and writer.checkpoint.step is None
    state = {"view": torch.zeros(50_000), "small": torch.zeros(2), "big": torch.zeros(50_000, dtype=torch.int64)}
    dcp.load(state, storage_reader=StoreReader(store, "x/y"))
    assert torch.equal(state["view"], view) and torch.equal(state["big"], torch.arange(50_000))
    with pytest.raises(CheckpointException, match="Missing key in checkpoint state_dict: more"):
        dcp.load({"more": torch.zeros(2)}, storage_reader=StoreReader(store, "x/y"))


class FailsOnce(dcp.DefaultSavePlanner):
    failing = True

    def resolve_data(self, write_item: Any) -> Any:
        if self.failing and write_item.index.fqn == "b":
            raise RuntimeError("no data here")
        return super().resolve_data(write_item)


def test_a_writer_that_failed_begins_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    writer = StoreWriter(store, run="a", step=1, single_file_per_rank=False)
    with pytest.raises(CheckpointException, match="no data here"):
        dcp.save({"a": torch.ones(1), "b": torch.ones(1)}, storage_writer=writer, planner=FailsOnce())
    assert store.runs() == []
    writer.single_file_per_rank = True
    dcp.save({"a": torch.ones(1)}, storage_writer=writer, planner=FailsOnce())
    assert [file.path for file in store.files("a@1")] == [".metadata", "__0_0.distcp"]


def test_large_tensors_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    piece = MemoryFiles.piece

    def counting(self: MemoryFiles, data: Any) -> Any:
        made = piece(self, data)
        copied.append(len(made) if isinstance(made, bytes) else 0)
        return made

    monkeypatch.setattr(MemoryFiles, "piece", counting)
    big = torch.arange(1_000_000.0)
    dcp.save({"big": big}, storage_writer=StoreWriter(tmp_path / "store", run="a", step=1))
    assert 0 < sum(copied) < 10_000
    state = {"big": torch.zeros(1_000_000)}
    dcp.load(state, storage_reader=StoreReader(tmp_path / "store", "a@1"))
    assert torch.equal(state["big"], big)


def test_the_example_resumes_and_one_process_reads_it(tmp_path: Path) -> None:
    example = str(Path(__file__).parents[2] / "examples" / "dcp_two_ranks.py")
    run = [sys.executable, example, str(tmp_path / "store")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("read by one process: loss 0.")
    assert [one.step for one in Store(tmp_path / "store").checkpoints("dcp-two-ranks")] == [10, 20]


def test_what_names_no_checkpoint_to_write_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert StoreWriter.validate_checkpoint_id("a/b@7") and not StoreWriter.validate_checkpoint_id("a@latest")
    writer = StoreWriter(store, run="a", step=1)
    with pytest.raises(errors.Invalid, match="'a@best' is no RUN@STEP"):
        writer.reset("a@best")
    with pytest.raises(errors.Unsupported, match="use_collectives=True"):
        dcp.save({"x": torch.ones(1)}, storage_writer=writer, use_collectives=False)
    assert store.runs() == []
    copied = pickle.loads(pickle.dumps(writer))
    dcp.save({"x": torch.ones(1)}, storage_writer=copied)
    assert [one.ref for one in store.checkpoints("a")] == ["a@1"]


def test_mistakes_are_told_at_once_and_by_name(tmp_path: Path) -> None:
    for wrong in ({"step": 3.5}, {"metrics": {"loss": None}}, {"tags": "paper"}):
        with pytest.raises(errors.Invalid, match=next(iter(wrong)).rstrip("s")):
            StoreWriter(tmp_path / "store", run="a", **wrong)  # type: ignore[arg-type]
    dcp.save({"a": torch.ones(1)}, storage_writer=StoreWriter(tmp_path / "store", run="a", step=1))
    with pytest.raises(CheckpointException) as told:
        dcp.load({"a": torch.ones(1)}, storage_reader=StoreReader(tmp_path / "store", "a@lates"))
    assert "no checkpoint a@lates" in str(told.value.failures[0][0])


def test_ranks_that_find_different_checkpoints_are_told(tmp_path: Path) -> None:
    reader = StoreReader(Store(tmp_path / "store"), "a@latest")
    plans = [LoadPlan([], storage_data=id) for id in ("one", "two")]
    with pytest.raises(errors.Changed, match="a@latest named one and two for different ranks"):
        reader.prepare_global_plan(plans)
