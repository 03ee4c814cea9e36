"""A store between threads, forks, signals and a full disk: what happens to a training that has one."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import ckpt_store as ckpt


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


FORK = """
import os, sys, torch, ckpt_store as ckpt
store = ckpt.Store(sys.argv[1])
state = {"w": torch.randn(1_500_000)}
store.save(state, run="parent", step=0)
file = store.open("parent@0")
handle = store.save_async(state, run="parent", step=1)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            assert torch.equal(store.load("parent@0")["w"], state["w"])
            for step in range(4):
                store.save({"w": state["w"] + step, "child": child}, run=f"child{child}", step=step)
            assert torch.equal(ckpt.Store(sys.argv[1]).load(f"child{child}@3")["w"], state["w"] + 3)
            try:
                handle.result()
            except ckpt.CkptError as error:
                assert "forked" in str(error)
            else:
                raise AssertionError("a child can't know what its parent's thread does")
            file.close()
            del file, store
        except BaseException as error:
            print("child", child, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    children.append(pid)
for step in range(2, 6):
    store.save(state, run="parent", step=step)
handle.result()
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
store.rm("parent@0")
store.gc()
assert file.read(4) == b"PK\\x03\\x04", "the children did not end what the parent has open"
assert store.verify()["sound"]
assert len(store.checkpoints()) == 5 + 12
"""


def test_both_sides_of_a_fork_use_a_store(tmp_path: Path) -> None:
    ran = run(FORK, tmp_path / "store")
    assert ran.returncode == 0, ran.stderr


def test_workers_of_a_data_loader_read_a_store(store: ckpt.Store) -> None:
    store.save({f"t{n}": torch.full((50_000,), float(n)) for n in range(8)}, run="data")

    class Tensors(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> float:
            return float(store.load_tensors("data", f"t{index}")[f"t{index}"].mean())

    for context in ("fork", "spawn"):
        if context == "spawn":
            assert pickle.loads(pickle.dumps(store)).load("data").keys() == {f"t{n}" for n in range(8)}
            continue
        loader = torch.utils.data.DataLoader(Tensors(), batch_size=2, num_workers=2, multiprocessing_context=context)
        assert torch.cat(list(loader)).tolist() == [float(n) for n in range(8)]


def test_many_threads_save_into_one_store(store: ckpt.Store) -> None:
    shared = torch.randn(400_000)
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for step in range(5):
                own = torch.full((40_000,), float(thread * 10 + step))
                store.save({"shared": shared, "own": own}, run=f"r{thread}", step=step)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.checkpoints()) == 20
    assert store.verify()["sound"]
    assert (store.load("r3@4")["own"] == 34).all()


def test_other_threads_run_while_a_save_works(store: ckpt.Store) -> None:
    state = {"w": torch.randn(30_000_000)}
    turns = 0
    done = threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    store.save(state, run="a")
    done.set()
    counter.join()
    assert turns > 20, "the GIL was released"


INTERRUPTED = """
import os, signal, sys, threading, time, torch, ckpt_store as ckpt
store = ckpt.Store(sys.argv[1])
state = {"w": torch.randn(60_000_000)}
store.save({"small": torch.ones(3)}, run="a", step=0)
main = threading.main_thread()
threading.Timer(0.06, lambda: signal.pthread_kill(main.ident, signal.SIGINT)).start()
try:
    for step in range(1, 50):
        state["w"] += 1
        store.save(state, run="a", step=step)
except KeyboardInterrupt:
    print("interrupted after", len(store.checkpoints("a")))
    assert store.verify()["sound"]
    store.save({"small": torch.ones(3)}, run="a", step=100)
    assert store.latest("a").step == 100
"""


def test_ctrl_c_stops_a_save_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    started = time.monotonic()
    ran = run(INTERRUPTED, tmp_path / "store")
    assert ran.returncode == 0, ran.stderr
    assert "interrupted after" in ran.stdout
    assert not list((tmp_path / "store" / "sessions").iterdir()), "nobody is left at work"
    assert time.monotonic() > started


KILLED = """
import sys, torch, ckpt_store as ckpt
store = ckpt.Store(sys.argv[1])
w = torch.randn(3_000_000)
for step in range(10_000):
    w[step] += 1
    print(store.save({"w": w, "step": step}, run="a", step=step).step, flush=True)
"""


def test_a_killed_training_has_all_that_save_returned(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "store"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(6)]
    process.send_signal(signal.SIGKILL)
    seen += [int(line) for line in process.stdout.read().split()]
    process.wait()
    store = ckpt.Store(tmp_path / "store", create=False)
    steps = [one.step for one in store.checkpoints("a")]
    assert steps[: len(seen)] == seen
    assert len(steps) <= len(seen) + 1
    assert store.load("a@latest")["step"] == steps[-1]
    assert store.verify()["sound"]


def test_a_full_disk_is_no_space_and_training_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        store = ckpt.Store(disk / "store")
        state = {"w": torch.randn(2_000_000)}
        store.save(state, run="a", step=1)
        step = 1
        for save in (store.save, lambda *args, **kw: store.save_async(*args, **kw).result()):
            with pytest.raises(ckpt.NoSpace) as raised:
                while step < 20:
                    state["w"] += torch.randn(2_000_000)
                    save(state, run="a", step=step + 1)
                    step += 1
            assert isinstance(raised.value, OSError)
            assert raised.value.errno == errno.ENOSPC
            assert raised.value.needs_bytes > raised.value.free_bytes - raised.value.reserve_bytes
            assert "nothing was changed" in str(raised.value)
            assert [one.step for one in store.checkpoints("a")] == list(range(1, step + 1))
            assert store.verify()["sound"]
        assert 1 < step < 20
        # The training goes on, and a gc makes room.
        store.gc(keep_last=1)
        saved = store.save(state, run="a", step=step + 1)
        assert torch.equal(store.load(saved.ref)["w"], state["w"])
    finally:
        subprocess.run(["umount", disk], check=True)


def test_damage_is_named(store: ckpt.Store, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        store.save({"encoder.weight": torch.randn(2_000_000)}, run="a", step=step)
    newest = max((store.path / "packs").rglob("*/*"), key=lambda pack: pack.stat().st_mtime_ns)
    with open(newest, "r+b") as pack:
        pack.seek(3_000_000)
        pack.write(b"damage" * 1000)
    into = store.path / "x"
    for read in (lambda: store.load("a@2"), lambda: store.load_tensors("a@2"), lambda: store.get("a@2", into)):
        with pytest.raises(ckpt.Corrupt, match="encoder.weight") as raised:
            read()
        assert raised.value.damage[0]["checkpoint"] == "a@2"
        assert raised.value.damage[0]["tensor"] == "encoder.weight"
    with caplog.at_level(logging.WARNING, "ckpt_store"):
        assert store.load("a@latest-good")["encoder.weight"].shape == (2_000_000,)
    assert "a@2" in caplog.text


def test_what_the_system_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ckpt.Invalid):
        ckpt.Store(tmp_path / "file")
    with pytest.raises(ckpt.NotFound):
        ckpt.Store(tmp_path / "store").put(tmp_path / "gone.ckpt", run="a")
    if os.getuid() == 0:
        return
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ckpt.Unavailable) as raised:
        ckpt.Store(tmp_path / "locked" / "store")
    assert raised.value.errno == errno.EACCES


def test_the_wheel_brings_the_command(store: ckpt.Store) -> None:
    from importlib.metadata import files, version

    try:
        installed = version("ckpt-store")
    except ModuleNotFoundError:
        pytest.skip("the package is not installed from its wheel")
    commands = [path for path in files("ckpt-store") or () if path.name == "ckpt" and "bin" in path.parts]
    assert commands
    store.save({}, run="a", step=1)
    from shutil import which

    command = [which("ckpt") or "ckpt", "--store", store.path, "ls"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a" in listed.stdout
    shown = subprocess.run([which("ckpt") or "ckpt", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[-1] == installed
