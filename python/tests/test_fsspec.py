"""ckpt:// paths: what a store holds as directories and files, to read and not to write."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

from ckpt_store import Store  # noqa: E402
from ckpt_store.fsspec import StoreFileSystem  # noqa: E402

DATA = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fsspec")
    (directory / "project").mkdir()
    store = Store(directory / "project" / ".ckpt")
    source = directory / "source"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "model.bin").write_bytes(DATA)
    (source / "sub" / "config.json").write_text('{"a": 1}\n')
    (source / "sub" / "deep" / "x.bin").write_bytes(b"x")
    for step in (100, 200):
        store.put(source, run="a", step=step, metrics={"loss": 1 / step}, tags=[f"tag{step}"])
    store.put(source / "model.bin", run="a/b", step=5)
    store.put(source / "model.bin", run="se-st/40k", step=7)
    store.put(source / "model.bin", run="loose")
    return directory / "project" / ".ckpt"


@pytest.fixture()
def files(path: Path) -> Any:
    return fsspec.filesystem("ckpt", store=str(path))


def test_directories_are_runs_then_checkpoints_then_files(files: Any) -> None:
    assert isinstance(files, StoreFileSystem)
    assert files.ls("", detail=False) == files.ls("ckpt://", detail=False) == ["a", "loose", "se-st"]
    assert files.ls("a", detail=False) == ["a/b", "a@100", "a@200"]
    assert files.ls("se-st", detail=False) == ["se-st/40k"]
    assert files.ls("ckpt://se-st/40k/", detail=False) == ["se-st/40k@7"]
    assert files.ls("a@100", detail=False) == ["a@100/model.bin", "a@100/sub"]
    assert files.ls("a@100/sub", detail=False) == ["a@100/sub/config.json", "a@100/sub/deep"]
    assert files.ls("a@100/model.bin", detail=False) == ["a@100/model.bin"]
    (loose,) = files.ls("loose")
    assert files.ls(loose["name"], detail=False) == [f"{loose['id']}/model.bin"]
    walked = [(root, sorted(dirs), sorted(names)) for root, dirs, names in files.walk("a@latest")]
    assert walked == [
        ("a@latest", ["sub"], ["model.bin"]),
        ("a@latest/sub", ["deep"], ["config.json"]),
        ("a@latest/sub/deep", [], ["x.bin"]),
    ]
    found = files.find("")
    assert "se-st/40k@7/model.bin" in found and "a@100/sub/deep/x.bin" in found and len(found) == 9
    assert files.du("a@100") == len(DATA) + 10


def test_info_tells_what_a_path_is(files: Any) -> None:
    assert files.info("") == {"name": "", "size": 0, "type": "directory"}
    assert files.info("se-st")["type"] == files.info("a@100/sub")["type"] == "directory"
    told = files.info("a@best:loss:min")
    assert told["type"] == "directory" and told["step"] == 200 and told["metrics"] == {"loss": 0.005}
    file = files.info("ckpt://a@tag100/model.bin")
    assert (file["type"], file["size"], file["name"]) == ("file", len(DATA), "a@tag100/model.bin")
    assert files.created("a@100/model.bin") == files.modified("a@100") == told_time(files)
    assert files.ukey("a@latest/model.bin") == files.ukey("a@200/model.bin") != files.ukey("a@100/model.bin")
    assert files.isfile("a@100/model.bin") and files.isdir("a@100") and files.size("a@100/model.bin") == len(DATA)
    for missing in ("b", "a@300", "a@100/nothing", "a@100/sub/nothing", "a@x@y", "se", "0" * 26):
        assert not files.exists(missing)
        for call in (files.info, files.ls, files.open):
            with pytest.raises(FileNotFoundError):
                call(missing)
    with pytest.raises(IsADirectoryError):
        files.open("a@100")


def told_time(files: Any) -> Any:
    return files.store.checkpoint("a@100").time


def test_files_are_read_whole_and_in_parts(files: Any, path: Path, tmp_path: Path) -> None:
    assert files.cat("a@100/model.bin") == DATA
    assert files.cat(["a@100/model.bin", "a@200/sub/deep/x.bin"]) == {
        "a@100/model.bin": DATA,
        "a@200/sub/deep/x.bin": b"x",
    }
    assert files.cat_file("a@100/model.bin", 1000, 1010) == DATA[1000:1010]
    assert files.tail("a@100/model.bin", 4) == DATA[-4:]
    with files.open("a@latest/model.bin") as file:
        file.seek(-6, 2)
        assert file.read() == DATA[-6:] and file.seek(300) == 300 and file.read(3) == DATA[300:303]
    with fsspec.open("ckpt://a@100/sub/config.json", "rt", store=str(path)) as file:
        assert file.read() == '{"a": 1}\n'
    files.get("a@100", str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out" / "sub" / "deep" / "x.bin").read_bytes() == b"x"
    assert (tmp_path / "out" / "model.bin").read_bytes() == DATA
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["model.bin", "sub"]


def test_a_copy_that_fails_leaves_nothing(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, size: int) -> bytes:
            raise OSError(errno.EIO, "damaged")

    monkeypatch.setattr(files, "_open", lambda *_, **__: Failing())
    with pytest.raises(OSError, match="damaged"):
        files.get_file("a@100/model.bin", str(tmp_path / "model.bin"))
    assert list(tmp_path.iterdir()) == []


def test_globs_match_runs_refs_and_files(files: Any) -> None:
    assert files.glob("a@*/model.bin") == [f"a@{name}/model.bin" for name in ("100", "200", "tag100", "tag200")]
    assert files.glob("ckpt://a@[12]00/*.bin") == ["a@100/model.bin", "a@200/model.bin"]
    assert files.glob("a@latest/**/x.bin") == ["a@latest/sub/deep/x.bin"]
    assert files.glob("*@latest/model.bin") == ["a@latest/model.bin", "loose@latest/model.bin"]
    assert files.glob("*/*@*") == ["a/b@5", "se-st/40k@7"]
    assert files.glob("a@100/sub/*", detail=True)["a@100/sub/deep"]["type"] == "directory"
    assert files.glob("*") == ["a", "loose", "se-st"] and files.glob("se*") == ["se-st"]
    assert files.glob("a@100/model.bin") == ["a@100/model.bin"] and files.glob("a@1000/*") == []
    with fsspec.open_files("ckpt://a@*00/model.bin", store=str(files.store.path)) as opened:
        assert [file.read(2) for file in opened] == [DATA[:2]] * 4


def test_nothing_can_be_written(files: Any, tmp_path: Path) -> None:
    before = files.find("")
    (tmp_path / "f").write_bytes(b"1")
    for call in (
        lambda: files.open("a@100/new", "wb"),
        lambda: files.rm("a@100", recursive=True),
        lambda: files.rm_file("a@100/model.bin"),
        lambda: files.mkdir("b"),
        lambda: files.makedirs("b/c"),
        lambda: files.cp_file("a@100/model.bin", "a@100/copy"),
        lambda: files.mv("a@100", "a@300"),
        lambda: files.touch("a@100/new"),
        lambda: files.pipe_file("a@100/new", b"x"),
        lambda: files.put_file(str(tmp_path / "f"), "a@100/f"),
    ):
        with pytest.raises(OSError) as told:
            call()
        assert told.value.errno == errno.EROFS
    assert files.find("") == before


def test_the_store_is_found_as_the_command_finds_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CKPT_STORE", raising=False)
    below = path.parent / "some" / "where"
    below.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(below)
    assert fsspec.filesystem("ckpt").exists("a@100")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match="CKPT_STORE"):
        fsspec.filesystem("ckpt")
    monkeypatch.setenv("CKPT_STORE", str(path))
    files = fsspec.filesystem("ckpt")
    assert files.exists("a@100")
    monkeypatch.delenv("CKPT_STORE")
    assert pickle.loads(pickle.dumps(files)).cat("a@100/sub/deep/x.bin") == b"x"


def test_torch_loads_from_it(path: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    store = Store(tmp_path / "store")
    store.save({"w": torch.arange(5)}, run="a", step=1)
    name = StoreFileSystem(store).ls("a@1", detail=False)[0]
    with fsspec.open(f"ckpt://{name}", store=store) as file:
        assert torch.load(file)["w"].tolist() == [0, 1, 2, 3, 4]
