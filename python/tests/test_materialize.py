"""A checkpoint as a path: where it is, who shares it, when it goes, and what a kill or a full disk leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import ckpt_store as ckpt
from ckpt_store import _scratch
from ckpt_store.materialized import materialized

# Holds a checkpoint until its stdin ends; says where it is.
HOLDER = """
import sys, ckpt_store
print(ckpt_store.materialize(sys.argv[1], sys.argv[2]), flush=True)
sys.stdin.read()
"""


def fill(folder: Path, text: str = "x") -> Path:
    """A folder as a framework writes one."""
    (folder / "inner").mkdir(parents=True)
    (folder / "model.bin").write_text(text * 1000)
    (folder / "inner" / "state.json").write_text(text)
    (folder / "empty").write_text("")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ckpt.Store:
    made = ckpt.Store(tmp_path / "disk" / "store") if (tmp_path / "disk").mkdir() is None else None
    assert made is not None
    made.put(fill(tmp_path / "saved-somehow"), run="a", step=500)
    made.put(fill(tmp_path / "other", "y"), run="a")
    (tmp_path / "epoch=3.ckpt").write_bytes(b"one file")
    made.put(tmp_path / "epoch=3.ckpt", run="file", step=3)
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hold(store: ckpt.Store, ref: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.path), ref], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")
    assert process.returncode == 0


def beside(store: ckpt.Store) -> list[str]:
    """What lies beside the store."""
    return sorted(name for name in os.listdir(store.path.parent) if name != "store")


def test_its_name_is_what_a_framework_expects(store: ckpt.Store, tmp_path: Path) -> None:
    with materialized(store, "a@500") as path:
        assert path.name == "checkpoint-500"
        assert content(path) == content(tmp_path / "saved-somehow")
        assert path.is_relative_to(store.path.parent) and not path.is_relative_to(store.path)
    latest = store.checkpoint("a@latest")
    with materialized(store.path, "a@latest") as path:
        assert path.name == f"checkpoint-{latest.id}"
    with materialized(store, "file@3") as path:
        assert path.name == "epoch=3.ckpt" and path.read_bytes() == b"one file"
    assert beside(store) == []
    with pytest.raises(ckpt.NotFound):
        ckpt.materialize(store, "a@7")
    with pytest.raises(ckpt.NotFound):
        ckpt.materialize(tmp_path / "no store", "a@7")
    assert not (tmp_path / "no store").exists()


def test_with_dest_it_is_there_and_stays(store: ckpt.Store, tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "er" / "checkpoint-500"
    assert ckpt.materialize(store, "a@500", dest) == str(dest)
    assert content(dest) == content(tmp_path / "saved-somehow")
    inode = dest.stat().st_ino
    assert ckpt.materialize(store, "a@500", str(dest)) == str(dest)
    assert dest.stat().st_ino == inode, "what was there already was written anew"
    for change in ("z" * 1000, "x" * 999):
        (dest / "model.bin").write_text(change)
        with pytest.raises(ckpt.Exists):
            ckpt.materialize(store, "a@500", dest)
    (dest / "model.bin").write_text("x" * 1000)
    assert ckpt.materialize(store, "a@500", dest) == str(dest)
    (dest / "inner" / "state.json").rename(dest / "inner" / "state.txt")
    with pytest.raises(ckpt.Exists):
        ckpt.materialize(store, "a@500", dest)
    one = tmp_path / "one.ckpt"
    assert ckpt.materialize(store, "file@3", one) == str(one) and one.read_bytes() == b"one file"
    assert ckpt.materialize(store, "file@3", one) == str(one)
    with pytest.raises(ckpt.Exists):
        ckpt.materialize(store, "a@500", one)
    assert beside(store) == []


def test_many_processes_share_one_and_the_last_removes_it(store: ckpt.Store) -> None:
    holders = [hold(store, "a@500") for _ in range(3)]
    paths = {path for _, path in holders}
    assert len(paths) == 1
    path = paths.pop()
    inode = path.stat().st_ino
    for process, _ in holders[:2]:
        end(process)
        assert path.stat().st_ino == inode, "it went although somebody held it"
    end(holders[2][0])
    assert beside(store) == []


def test_what_a_kill_left_goes_with_the_next_and_is_not_trusted(store: ckpt.Store) -> None:
    process, path = hold(store, "a@500")
    other, _ = hold(store, "file@3")
    for one in (process, other):
        one.send_signal(signal.SIGKILL)
        one.communicate()
    (path / "model.bin").write_text("somebody's")
    with materialized(store, "a@500") as again:
        assert again == path and (path / "model.bin").read_text() == "x" * 1000
        assert len(list(path.parent.parent.glob("*.lock"))) == 1, "the other one's was left"
    assert beside(store) == []


def test_a_forked_child_leaves_it_alone(store: ckpt.Store) -> None:
    script = """
import os, sys, time, ckpt_store
from ckpt_store.materialized import materialized
parent = os.getpid()
path = ckpt_store.materialize(sys.argv[1], "a@500")
child = os.fork()
if child == 0:
    sys.exit(0)  # With what Python does at its end.
assert os.waitpid(child, 0)[1] == 0
assert os.path.isdir(path)
try:
    with materialized(sys.argv[1], "file@3") as file:
        child = os.fork()
        if child == 0:
            sys.exit(0)  # Out of the block.
        assert os.waitpid(child, 0)[1] == 0
        assert file.exists()
except SystemExit:
    os._exit(0)
told, tell = os.pipe()
child = os.fork()
if child == 0:
    # One that asks for it has it in its own right, also when its parent is gone.
    assert ckpt_store.materialize(sys.argv[1], "a@500") == path
    os.write(tell, b"x")
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(0.3)
    print("there" if os.path.isdir(path) else "gone")
    sys.exit(0)
os.read(told, 1)
"""
    # Its output ends when the grandchild's does.
    done = subprocess.run([sys.executable, "-c", script, store.path], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "there\n", done.stderr
    assert beside(store) == []


def test_a_failure_leaves_nothing(store: ckpt.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: ckpt.Store, ref: str, dest: Path, **_: object) -> Path:
        (dest / "half").write_text("of it")
        raise ckpt.Corrupt("damaged")

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "get", fails)
        with pytest.raises(ckpt.Corrupt):
            ckpt.materialize(store, "a@500")
    assert beside(store) == []
    with materialized(store, "a@500") as path:
        assert path.is_dir()


def test_without_room_beside_the_store_it_goes_elsewhere_or_says_so(
    store: ckpt.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = namedtuple("room", "f_bavail f_frsize")
    full = {str(store.path.parent)}
    real = os.statvfs
    monkeypatch.setattr(
        _scratch.os, "statvfs", lambda path: room(0, 1) if any(str(path).startswith(f) for f in full) else real(path)
    )
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(_scratch.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    with materialized(store, "a@500") as path:
        assert path.is_relative_to(tmp_path / "tmp")
    full.add(str(tmp_path / "tmp"))
    with pytest.raises(ckpt.NoSpace) as raised:
        ckpt.materialize(store, "a@500")
    assert raised.value.needs_bytes == 1001 and raised.value.free_bytes == 0
    assert beside(store) == [] and os.listdir(tmp_path / "tmp") == []


def test_a_directory_that_others_can_write_is_not_used(store: ckpt.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _scratch._roots(store.path)[0]
    root.mkdir()
    root.chmod(0o777)
    with materialized(store, "a@500") as path:
        assert not path.is_relative_to(root)


def test_what_was_removed_under_its_holders_is_made_anew(store: ckpt.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    process, path = hold(store, "a@500")
    _scratch.remove(path)
    monkeypatch.setattr(_scratch, "_PATIENCE_SECS", 0.05)
    started = time.monotonic()
    with materialized(store, "a@500") as again:
        assert again.is_dir() and again != path
    assert time.monotonic() - started < 5
    end(process)
    assert beside(store) == []
