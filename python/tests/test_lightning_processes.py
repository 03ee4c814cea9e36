"""The Lightning hook in processes that are killed, and in two that train together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

import ckpt_store
from ckpt_store import Store
from ckpt_store.lightning import stub_files

from lightning_training import main, uninterrupted

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def curve() -> list[float]:
    return uninterrupted()


def train(**told: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "lightning_training.py"), json.dumps(told, default=str)]
    env = {**os.environ, "PYTHONPATH": str(Path(ckpt_store.__file__).parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=told["root"], env=env)


@pytest.mark.parametrize("how", [{"kill_at": 7}, {"kill_before_stub": 6}, {"kill_at": 7, "asynchronous": True}])
def test_killed_and_resumed_from_the_latest(tmp_path: Path, curve: list[float], how: dict[str, Any]) -> None:
    told = {"root": tmp_path, "store": tmp_path / "store", "out": tmp_path / "losses"}
    killed = train(**told, **how)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(tmp_path / "store", create=False)
    latest = store.latest("a")
    # Asynchronous: step 6 was being saved when the process died.
    assert latest and latest.step in ((4, 6) if how.get("asynchronous") else (6,))
    model = main({**told, "resume": "a@latest"})
    assert model.losses == curve[latest.step :]
    assert [held.step for held in store.checkpoints("a")] == [2, 4, 6, 8, 10, 12]
    for path in (tmp_path / "ckpts").glob("*.ckpt"):
        stub = stub_files.read(path)
        assert stub and store.checkpoint(stub.id).step == stub.step
    assert not list((tmp_path / "ckpts").glob(".*"))


def test_two_ranks(tmp_path: Path, curve: list[float]) -> None:
    told = {"root": tmp_path, "store": tmp_path / "store", "out": tmp_path / "losses"}
    ranks = {"strategy": "ddp", "devices": 2}
    done = train(**told, **ranks, steps=4)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "store", create=False)
    assert [(held.run, held.step) for held in store.checkpoints()] == [("a", 2), ("a", 4)]
    assert store.checkpoint("a").metrics["train_loss"] == pytest.approx(curve[3])
    done = train(**told, **ranks, steps=8, resume="a@latest")
    assert done.returncode == 0, done.stderr
    assert [held.step for held in store.checkpoints()] == [2, 4, 6, 8]
    for rank in range(2):
        assert json.loads((tmp_path / f"losses.{rank}").read_text()) == pytest.approx(curve[4:8])


def test_the_example(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(ckpt_store.__file__).parent.parent)}
    for resume, checkpoints in (([], 8), (["a@latest"], 12)):
        command = [sys.executable, str(HERE.parent.parent / "examples" / "lightning_frozen_encoder.py"), *resume]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert f"{checkpoints} checkpoints of" in done.stdout and "width 256" in done.stdout
    held = Store(tmp_path / "runs" / "store", create=False).checkpoints("a")
    assert len(held) == 12 and sum(one.added_bytes for one in held) < 0.2 * sum(one.logical_bytes for one in held)
    assert (tmp_path / "runs" / "a" / "last.ckpt").is_symlink()
