"""Saves in the background: asked for by several threads, interrupted, and in the midst of a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest
import torch

import ckpt_store as ckpt
from ckpt_store.copies import Snapshot
from ckpt_store.saving import SaveHandle


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Saves begin when the event is set."""
    begin = threading.Event()
    put = ckpt.Store._put

    def waits(*arguments: object) -> ckpt.Checkpoint:
        assert begin.wait(30)
        return put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ckpt.Store, "_put", waits)
    yield begin
    begin.set()


def test_threads_get_what_each_of_them_saved(store: ckpt.Store) -> None:
    wrong: list[str] = []

    def save(thread: int) -> None:
        for step in range(6):
            value = float(100 * thread + step)
            saved = store.save_async({"w": torch.full((300_000,), value)}, run=f"t{thread}", step=step)
            try:
                found = store.load(saved.result().id)["w"].unique().tolist()
            except ckpt.CkptError as error:
                found = [str(error)]
            if found != [value]:
                wrong.append(f"t{thread}@{step}: {found}")

    threads = [threading.Thread(target=save, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_after_ctrl_c_the_next_save_still_waits(store: ckpt.Store, slow: threading.Event) -> None:
    first = store.save_async({"w": torch.zeros(1000)}, run="a", step=1)
    # As Ctrl-C does it: the main thread waits in join.
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        store.wait()
    assert not first.done()
    threading.Timer(0.2, slow.set).start()
    second = store.save_async({"w": torch.ones(1000)}, run="a", step=2)
    assert first.done(), "there is one copy, and the first save was reading it"
    second.result()
    assert store.load("a@1")["w"].sum() == 0 and store.load("a@2")["w"].sum() == 1000


def test_a_handler_that_saves_while_a_copy_is_made_is_refused(
    store: ckpt.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []
    copy = Snapshot.copy

    def interrupted(self: Snapshot, storages: object) -> object:
        copies = copy(self, storages)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0)
        return copies

    def handler(_: int, __: FrameType | None) -> None:
        try:
            store.save_async({"w": torch.ones(1000)}, run="a", step=2)
        except ckpt.Busy as error:
            told.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Snapshot, "copy", interrupted)
            store.save_async({"w": torch.zeros(1000)}, run="a", step=1).result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 1 and store.load("a@1")["w"].sum() == 0
    store.save_async({"w": torch.ones(1000)}, run="a", step=3).result()


def test_a_handler_may_save_while_a_save_waits(store: ckpt.Store, slow: threading.Event) -> None:
    def handler(_: int, __: FrameType | None) -> None:
        slow.set()
        store.save_async({"w": torch.full((100_000,), 2.0)}, run="a", step=2)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        store.save_async({"w": torch.full((100_000,), 1.0)}, run="a", step=1)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        store.save_async({"w": torch.full((100_000,), 3.0)}, run="a", step=3)
        store.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [store.load(one.id)["w"].unique().tolist() for one in store.checkpoints("a")] == [[1.0], [2.0], [3.0]]


def test_a_child_saves_though_its_parent_was_about_to(store: ckpt.Store, slow: threading.Event) -> None:
    handles: list[SaveHandle] = [store.save_async({"w": torch.zeros(1000)}, run="a", step=1)]
    # Holds the lock until the save may begin.
    waiting = threading.Thread(target=store.wait)
    waiting.start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        slow.set()
        try:
            os._exit(0 if store.save_async({"w": torch.ones(1000)}, run="b", step=1).result().ref == "b@1" else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    slow.set()
    waiting.join()
    assert os.waitstatus_to_exitcode(ended[1]) == 0 and ended[0] == child
    assert handles[0].result().ref == "a@1" and store.load("b@1")["w"].sum() == 1000
