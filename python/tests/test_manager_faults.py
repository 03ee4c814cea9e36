"""CheckpointManager when things go wrong: damage on the disk, a full disk, kill -9 in the middle of a training."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_store import Store, errors
from ckpt_store.torch import CheckpointManager
from test_manager import step_once, training

EXAMPLES = Path(__file__).parents[2] / "examples"


def packs(store: Store) -> set[Path]:
    return set((Path(store.path) / "packs").glob("*/*"))


def damage(files: set[Path]) -> None:
    """Flips bytes all over the payloads of these packs."""
    assert files
    for path in files:
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        for at in range(100, len(data) - 100, 97):
            data[at] ^= 0xFF
        path.write_bytes(data)


def lose(files: set[Path]) -> None:
    assert files
    for path in files:
        path.unlink()


def manifests(store: Store) -> set[Path]:
    return set((Path(store.path) / "checkpoints").glob("*"))


@pytest.mark.parametrize("objects", [packs, manifests])
@pytest.mark.parametrize("harm", [damage, lose])
def test_a_damaged_newest_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, objects: Any, harm: Any
) -> None:
    manager = CheckpointManager(tmp_path / "store", "a")
    assert manager.restore_latest(**training()) is None
    parts = training()
    written: list[set[Path]] = []
    for step in (1, 2, 3):
        before = objects(manager.store)
        step_once(parts)
        manager.save(step, **parts)
        written.append(objects(manager.store) - before)
        if step == 2:
            expected = parts["model"][0].weight.detach().clone()
    harm(written[2])
    with caplog.at_level(logging.WARNING, "ckpt_store"):
        again = training(seed=1)
        assert manager.restore_latest(**again) == 2
    assert torch.equal(again["model"][0].weight, expected)
    assert "a@3 is damaged" in caplog.text
    # Saving the step again takes the damaged one's place.
    step_once(again)
    manager.save(3, **again)
    assert manager.restore_latest(**training()) == 3
    harm(objects(manager.store))
    with pytest.raises(errors.Corrupt, match="no checkpoint of a is sound: a@3, a@2, a@1"):
        manager.restore_latest(**training())


FULL = """
import sys
import torch
from ckpt_store import errors
from ckpt_store.torch import CheckpointManager

manager = CheckpointManager(sys.argv[1] + "/store", "a", keep_last=2)
torch.manual_seed(0)
model = torch.nn.Linear(700, 700)
step = 0
try:
    while step < 40:
        step += 1
        with torch.no_grad():
            model.weight.normal_()
        last = model.weight.clone()
        # Tagged, so that nothing goes.
        manager.save(step, model=model)
        manager.store.tag(f"a@{step}", f"t{step}")
        kept = last
except errors.NoSpace as error:
    assert 5 < step < 20, step
    assert manager.steps() == list(range(1, step)), manager.steps()
    again = torch.nn.Linear(700, 700)
    assert manager.restore_latest(model=again) == step - 1
    assert torch.equal(again.weight, kept)
    try:
        # In the place of one that is there, which stays.
        manager.save(2, model=model)
        raise SystemExit("there was room")
    except errors.NoSpace:
        assert manager.steps() == list(range(1, step))
    # The training goes on, and saves again once there is room.
    model(torch.randn(1, 700)).sum().backward()
    manager.store.rm(*(f"a@{old}" for old in range(1, step - 2)))
    manager.store.gc()
    manager.save(step, model=model)
    assert manager.steps() == [step - 2, step - 1, step]
    print("the disk was full")
"""


def test_a_full_disk_raises_and_leaves_what_was_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A disk of its own, which goes with the process.
    mounted = f"mount -t tmpfs -o size=24m none '{disk}' || exit 77; exec '{sys.executable}' -c \"$0\" '{disk}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mounted, FULL], capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("mounting a small disk is not allowed here")
    assert (done.returncode, done.stdout) == (0, "the disk was full\n"), done.stderr


RUN = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch_loop
kill_at = int(sys.argv[4])
def after(step, loss):
    print(step, loss.hex(), flush=True)
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
torch_loop.train(sys.argv[2], int(sys.argv[3]), after)
"""


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import torch_loop

    def run(kill_at: int) -> tuple[int, dict[int, str]]:
        args = [sys.executable, "-c", RUN, str(EXAMPLES), str(tmp_path / "cut"), "170", str(kill_at)]
        done = subprocess.run(args, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        lines = (line.split() for line in done.stdout.splitlines())
        return done.returncode, {int(step): loss for step, loss in lines}

    code, first = run(130)
    assert code == -signal.SIGKILL and list(first)[-1] == 130
    code, second = run(0)
    assert code == 0 and list(second)[0] == 101
    whole = {step: loss.hex() for step, loss in torch_loop.train(tmp_path / "whole", 170)}
    assert len(whole) == 170 and first | second == whole
    assert CheckpointManager(tmp_path / "cut", "torch-loop").steps() == [50, 100, 150]
