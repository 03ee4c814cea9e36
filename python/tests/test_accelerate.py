"""save_state and load_state in real loops: killed and resumed on one and two ranks, what was registered, failures."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

import ckpt_store as ckpt
from ckpt_store.accelerate import load_state, save_state

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate_loop.py"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("accelerate_loop", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(action: str, store: Path, world: int) -> list[subprocess.Popen[str]]:
    """The processes of one training, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    return [
        subprocess.Popen(
            [sys.executable, __file__, action, str(store)],
            env=os.environ | ({} if world == 1 else shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def answers(action: str, store: Path, world: int, code: int = 0) -> list[Any]:
    """What each process of a training says as JSON in its last line."""
    processes = started(action, store, world)
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode == code, err
            found.append(json.loads(out.splitlines()[-1]) if out.strip() else None)
    finally:
        for process in processes:
            process.kill()
    return found


def beside(store: Path) -> list[str]:
    return sorted(name for name in os.listdir(store.parent) if name != store.name)


@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, world: int) -> None:
    place = tmp_path / "store"
    answers("killed", place, world, -signal.SIGKILL)
    store = ckpt.Store(place, create=False)
    assert [held.step for held in store.checkpoints("loop")] == [3, 6]
    if world == 1:
        both = [[example().train(str(place), resume=True), example().train(str(tmp_path / "whole"))]]
    else:
        both = answers("resumed", place, world)
    for resumed, whole in both:
        assert len(whole) == 12 and resumed == whole[6:]
    assert {held.step for held in store.checkpoints("loop")} == {3, 6, 9, 12}
    with store.open("loop@12", f"random_states_{world - 1}.pkl") as states:
        assert states.read(2) == b"PK"
    assert store.verify()["damaged"] == []
    assert beside(place) == ["whole"]


def test_what_goes_wrong_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    told = answers("failures", tmp_path / "store", 2)
    expected = {"exists": "Exists", "full": "NoSpace", "other": "NoSpace", "missing": "NotFound", "no store": "Invalid"}
    assert told[0] == {**expected, "then": 2}
    assert told[1] == told[0]
    assert beside(tmp_path / "store") == ["file"]


class Counter:
    """What a user registers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def prepared(width: int = 3, **configuration: Any) -> tuple[Accelerator, torch.nn.Module, Counter]:
    accelerator = Accelerator(cpu=True, **configuration)
    model = torch.nn.Linear(width, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model, _ = accelerator.prepare(model, optimizer)
    counter = Counter(7)
    accelerator.register_for_checkpointing(counter)
    return accelerator, model, counter


def test_everything_comes_back_and_only_where_it_fits(tmp_path: Path) -> None:
    accelerator, model, counter = prepared()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    store = ckpt.Store(tmp_path / "store")
    saved = save_state(accelerator, store, run="a", metrics={"loss": 0.5}, meta={"why": "test"}, tags=["first"])
    assert saved.step is None and saved.metrics == {"loss": 0.5} and saved.tags == {"first"}
    counter.count = 0
    torch.nn.init.zeros_(model.weight)
    assert load_state(accelerator, store, "a@first").id == saved.id
    assert counter.count == 7
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())

    other, _, _ = prepared(width=4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_state(other, store, saved.id)
    more, _, _ = prepared()
    more.register_for_checkpointing(Counter(1))
    with pytest.raises(RuntimeError, match="custom checkpoints"):
        load_state(more, store, saved.id)
    assert beside(store.path) == []


def test_the_store_names_checkpoints_not_accelerate(tmp_path: Path) -> None:
    project = ProjectConfiguration(str(tmp_path / "project"), automatic_checkpoint_naming=True, total_limit=1)
    accelerator, _, _ = prepared(project_config=project)
    for step in (1, 2):
        save_state(accelerator, tmp_path / "store", run="a", step=step, safe_serialization=False)
    assert project.automatic_checkpoint_naming
    assert not (tmp_path / "project").exists() or not list((tmp_path / "project").rglob("*.bin"))
    store = ckpt.Store(tmp_path / "store", create=False)
    assert [held.step for held in store.checkpoints("a")] == [1, 2]
    assert store.open("a@2", "pytorch_model.bin").read(2) == b"PK"
    load_state(accelerator, store, "a@1")


def test_the_example_is_a_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--resume", "--steps", "15"]):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "store"), *more])
        example().main()
    assert "goes on from loop@12" in capsys.readouterr().out
    assert [held.step for held in ckpt.Store(tmp_path / "store").checkpoints("loop")] == [3, 6, 9, 12, 15]


def main(action: str, place: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    if action == "failures":
        print(json.dumps(failures(place)))
        leave()

    def kill(step: int) -> None:
        if step == 8 and action == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    train = example().train
    losses = train(place, resume=action == "resumed", after_step=kill)
    print(json.dumps([losses, train(str(Path(place).parent / "whole"))]))
    leave()


def leave() -> NoReturn:
    """Ends a process whose work is done. Not by way of the interpreter's end: what DDP holds of a group outlives
    that group, and Gloo's threads abort an interpreter that is ending (pytorch/pytorch#190489)."""
    Accelerator(cpu=True).end_training()
    sys.stdout.flush()
    os._exit(0)


def failures(place: str) -> dict[str, Any]:
    """The kind of error that this process sees when something fails in one of two."""

    def kind(work: Any) -> str:
        try:
            work()
        except Exception as error:
            return type(error).__name__
        return "none"

    accelerator, _, _ = prepared()
    told: dict[str, Any] = {}
    save_state(accelerator, place, run="a", step=1)
    told["exists"] = kind(lambda: save_state(accelerator, place, run="a", step=1))
    real_put, real_save = ckpt.Store.put, Accelerator.save_state

    def full(*_: Any, **__: Any) -> Any:
        raise ckpt.NoSpace("no room left")

    def cut_short(self: Accelerator, folder: str, *_: Any, **__: Any) -> None:
        Path(folder).mkdir(exist_ok=True)
        Path(folder, f"half_{self.process_index}").write_text("of it")
        if not self.is_main_process:
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    ckpt.Store.put = full  # type: ignore[method-assign]
    told["full"] = kind(lambda: save_state(accelerator, place, run="a", step=2))
    ckpt.Store.put = real_put  # type: ignore[method-assign]
    Accelerator.save_state = cut_short  # type: ignore[method-assign]
    told["other"] = kind(lambda: save_state(accelerator, place, run="a", step=2))
    Accelerator.save_state = real_save  # type: ignore[method-assign]
    told["missing"] = kind(lambda: load_state(accelerator, place, "a@2"))
    in_the_way = Path(place).with_name("file")
    in_the_way.touch()
    told["no store"] = kind(lambda: save_state(accelerator, in_the_way, run="a", step=2))
    # The training goes on, with all its processes.
    told["then"] = save_state(accelerator, place, run="a", step=2).step
    return told


if __name__ == "__main__":
    main(*sys.argv[1:])
