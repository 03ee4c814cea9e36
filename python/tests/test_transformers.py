"""StoreCallback in real trainings: kill and resume, Trainer's own bookkeeping, metrics, two ranks, a full disk."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import pytest
import torch
from transformers import Trainer, TrainerCallback

import ckpt_store as ckpt
from ckpt_store.transformers import StoreCallback

EXAMPLE = Path(__file__).parents[2] / "examples" / "transformers_trainer.py"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("transformers_trainer", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Kill(TrainerCallback):
    """Ends the process as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def losses(trainer: Trainer) -> dict[int, tuple[float, ...]]:
    """What was logged of each step: loss and size of the gradient, or what the evaluation found."""
    found: dict[int, tuple[float, ...]] = {}
    for line in trainer.state.log_history:
        if "loss" in line:
            found[line["step"]] = found.get(line["step"], ()) + (line["loss"], line["grad_norm"])
        elif "eval_loss" in line:
            found[line["step"]] = found.get(line["step"], ()) + (line["eval_loss"],)
    return found


def folders(output: Path) -> list[str]:
    return sorted(os.listdir(output), key=lambda name: (len(name), name))


def steps(store: ckpt.Store, run: str = "tiny") -> list[int]:
    return sorted(held.step or 0 for held in store.checkpoints(run))


def train(tmp_path: Path, steps: int = 12, resume: Any = None, callbacks: Any = (), **more: Any) -> Trainer:
    """A training with the callback's arguments in `hook` and the rest for TrainingArguments."""
    hook = {"run": "tiny"} | more.pop("hook", {})
    store = more.pop("store", tmp_path / "store")
    trainer = example().make_trainer(str(tmp_path / "out"), StoreCallback(store, **hook), steps, **more)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training that nothing interrupts, without the callback."""
    out = tmp_path_factory.mktemp("whole")
    trainer = example().make_trainer(str(out), TrainerCallback(), save_strategy="no")
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one leaves that was killed at step 8."""
    place = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, __file__, "kill", str(place), "8"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place


@pytest.mark.parametrize("from_folder", [False, True])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, whole: Trainer, killed: Path, from_folder: bool
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    store = ckpt.Store(tmp_path / "store", create=False)
    assert steps(store) == [3, 6]
    assert folders(tmp_path / "out") == ["checkpoint-6"]
    path = None if from_folder else Path(ckpt.materialize(store, "tiny@latest"))

    class Look(TrainerCallback):
        """Whether the copy from which it was resumed is still there, before each save and after it."""

        def __init__(self) -> None:
            self.seen: dict[int, bool] = {}

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.seen[state.global_step] = path is not None and path.exists()

    look = Look()
    resumed = train(tmp_path, resume=True if path is None else str(path), callbacks=[look])
    assert losses(resumed) == losses(whole)
    assert look.seen == {step: path is not None and step < 10 for step in range(7, 13)}
    assert steps(store) == [3, 6, 9, 12]
    weights = store.load_tensors("tiny@12")
    for name, tensor in whole.model.state_dict().items():
        if name != "lm_head.weight":  # Tied to wte.
            assert torch.equal(weights[name], tensor), name
    assert store.verify()["damaged"] == []


def test_metrics_and_metadata_are_those_of_the_step(tmp_path: Path) -> None:
    trainer = train(tmp_path, 6, logging_steps=2, eval_steps=2, save_steps=3, metric_for_best_model="loss")
    store = ckpt.Store(tmp_path / "store")
    logged = losses(trainer)
    third, sixth = store.checkpoint("tiny@3"), store.checkpoint("tiny@6")
    # No evaluation and no loss is of step 3 itself: the loss is step 2's, the evaluation would be of other weights.
    assert third.metrics == {"loss": logged[2][0]}
    assert sixth.metrics == {"loss": logged[6][0], "eval_loss": logged[6][2]}
    assert store.best("tiny", "eval_loss") == sixth


def test_trainer_rotates_and_loads_the_best_as_ever(tmp_path: Path) -> None:
    class Worse(TrainerCallback):
        """Makes each evaluation after the first worse, so that the first stays the best."""

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            metrics["eval_loss"] = float(state.global_step)

    best_and_more = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 2}
    trainer = train(tmp_path, callbacks=[Worse()], **best_and_more)
    store = ckpt.Store(tmp_path / "store")
    # Not one of the store's was dropped by the limit; on the disk are the best, and the newest.
    assert steps(store) == [3, 6, 9, 12]
    assert folders(tmp_path / "out") == ["checkpoint-3", "checkpoint-12"]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-3")
    first = store.load_tensors("tiny@3", "transformer.h.*")
    last = store.load_tensors("tiny@12", "transformer.h.*")
    loaded = trainer.model.state_dict()
    assert first and all(torch.equal(loaded[name], tensor) for name, tensor in first.items())
    assert not all(torch.equal(loaded[name], tensor) for name, tensor in last.items())

    # On another machine, where the best folder is not, it comes from the store.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(tmp_path / "out")
    again = train(elsewhere, 15, ckpt.materialize(store, "tiny@12"), [Worse()], store=store, **best_and_more)
    assert again.state.best_model_checkpoint == str(elsewhere / "out" / "checkpoint-3")
    loaded = again.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in first.items())
    assert folders(elsewhere / "out") == ["checkpoint-3", "checkpoint-15"]


def test_only_what_the_store_has_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Meddle(TrainerCallback):
        """Changes a stored folder, and puts others there that were never stored."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                (out / "checkpoint-3" / "mine.txt").write_text("important")
                (out / "checkpoint-1").mkdir()
                (out / "checkpoint-mine").mkdir()

    train(tmp_path, callbacks=[Meddle()])
    assert folders(out) == ["checkpoint-1", "checkpoint-3", "checkpoint-12", "checkpoint-mine"]
    assert "mine.txt" not in [name for name in os.listdir(out / "checkpoint-12")]
    # What policies let go is no longer in the store, so its folder stays.
    store = ckpt.Store(tmp_path / "store")
    store.rm("tiny@12")
    train(tmp_path, 15, True)
    assert "checkpoint-12" in folders(out) and "checkpoint-15" in folders(out)


def test_a_folder_that_was_written_but_not_stored_is_not_lost(tmp_path: Path) -> None:
    """The process was killed in between, and the training goes on from the folder."""
    train(tmp_path, 6)
    store = ckpt.Store(tmp_path / "store")
    metrics = store.checkpoint("tiny@6").metrics
    store.rm("tiny@6")
    (tmp_path / "out" / "checkpoint-6" / "ckpt-store.json").unlink()
    train(tmp_path, 9, True)
    assert steps(store) == [3, 6, 9] and store.checkpoint("tiny@6").metrics == metrics
    assert folders(tmp_path / "out") == ["checkpoint-9"]


def test_delete_source_false_leaves_the_folders_to_trainer(tmp_path: Path) -> None:
    train(tmp_path, hook={"delete_source": False}, save_total_limit=3, save_only_model=True)
    assert folders(tmp_path / "out") == ["checkpoint-6", "checkpoint-9", "checkpoint-12"]
    store = ckpt.Store(tmp_path / "store")
    assert steps(store) == [3, 6, 9, 12]
    held = Path(ckpt.materialize(store, "tiny@9"))
    assert not (held / "optimizer.pt").exists() and (held / "model.safetensors").exists()
    assert not (held / "ckpt-store.json").exists()
    note = json.loads((tmp_path / "out" / "checkpoint-9" / "ckpt-store.json").read_text())
    assert note["ref"] == "tiny@9" and note["id"] == store.checkpoint("tiny@9").id


def test_a_new_training_does_not_overwrite_an_older_one(tmp_path: Path) -> None:
    train(tmp_path, 6)
    store = ckpt.Store(tmp_path / "store")
    before = store.checkpoints("tiny")
    with pytest.raises(ckpt.Exists, match="up to step 6.*materialize"):
        train(tmp_path, 6)
    assert store.checkpoints("tiny") == before
    # Going back to an earlier step on purpose: what is trained again takes the place of what it was.
    train(tmp_path, 6, ckpt.materialize(store, "tiny@3"), learning_rate=0.1)
    after = store.checkpoint("tiny@6")
    assert steps(store) == [3, 6] and after.id not in [held.id for held in before]
    assert store.latest("tiny") == after
    train(tmp_path, 6, hook={"replace": True})
    assert store.checkpoint("tiny@3").id not in [held.id for held in before]


class FullDisk:
    """Puts fail while `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        real = ckpt.Store.put

        def put(store: ckpt.Store, *args: Any, **more: Any) -> ckpt.Checkpoint:
            if self.full:
                raise ckpt.NoSpace("no room left")
            return real(store, *args, **more)

        monkeypatch.setattr(ckpt.Store, "put", put)


def test_a_full_disk_stops_the_training_or_only_delays_the_store(
    tmp_path: Path, whole: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    with pytest.raises(ckpt.NoSpace):
        train(tmp_path)
    assert folders(tmp_path / "out") == ["checkpoint-3"]

    class Freed(TrainerCallback):
        """Somebody makes room after step 7."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            disk.full = state.global_step <= 7

    trainer = train(tmp_path, hook={"on_no_space": "warn"}, callbacks=[Freed()])
    assert losses(trainer) == losses(whole)
    assert [record.getMessage() for record in caplog.records if "training goes on" in record.getMessage()]
    store = ckpt.Store(tmp_path / "store")
    assert steps(store) == [3, 6, 9, 12]
    assert [held.step for held in sorted(store.checkpoints("tiny"), key=lambda held: held.id)] == [3, 6, 9, 12]
    assert "eval_loss" in store.checkpoint("tiny@6").metrics
    assert folders(tmp_path / "out") == ["checkpoint-12"]
    with pytest.raises(ValueError, match="on_no_space"):
        StoreCallback(tmp_path / "store", run="tiny", on_no_space="ignore")  # type: ignore[arg-type]


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    train(tmp_path, 3)
    store = ckpt.Store(tmp_path / "store")
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 2000, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    trainer = example().make_trainer(str(tmp_path / "out"), StoreCallback(store, run="tiny"))
    trainer.model = trainer.model_wrapped = GPT2LMHeadModel(GPT2Config(**sizes))
    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer.train(resume_from_checkpoint=ckpt.materialize(store, "tiny@3"))
    # What materialize gives is what from_pretrained takes, and all of it.
    _, info = GPT2LMHeadModel.from_pretrained(ckpt.materialize(store, "tiny@3"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_the_example_is_a_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [str(tmp_path / "out"), str(tmp_path / "store")]
    for more in ([], ["--resume", "--steps", "15"]):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *place, *more])
        example().main()
    told = capsys.readouterr().out
    assert "tiny@15: eval_loss" in told and steps(ckpt.Store(place[1])) == [3, 6, 9, 12, 15]


def ranks(action: str, tmp_path: Path) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of one training, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, action, str(tmp_path), "0"],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = []
    try:
        for process in started:
            out, err = process.communicate(timeout=120)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in started:
            process.kill()
    return done


def test_two_ranks(tmp_path: Path) -> None:
    for done in ranks("ranks", tmp_path):
        assert done.returncode == 0, done.stderr
        assert "a full disk was raised here" in done.stdout
    store = ckpt.Store(tmp_path / "store")
    assert steps(store) == [3, 6]
    held = Path(ckpt.materialize(store, "tiny@6"))
    states = [torch.load(held / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in range(2)]
    assert len(states) == 2
    assert folders(tmp_path / "out")[:1] == ["checkpoint-6"]


def main(action: str, directory: str, step: str) -> None:
    path = Path(directory)
    if action == "kill":
        train(path, callbacks=[Kill(int(step))])
    elif action == "ranks":
        import time

        real = torch.save

        def slow(obj: Any, to: Any, *more: Any, **others: Any) -> None:
            # The other rank is still writing its file when this one is done.
            if os.environ["RANK"] == "1" and "rng_state" in str(to):
                time.sleep(0.7)
            real(obj, to, *more, **others)

        torch.save = slow
        train(path, 6)

        def full(*_: Any, **__: Any) -> None:
            raise ckpt.NoSpace("no room left")

        ckpt.Store.put = full  # type: ignore[method-assign]
        try:
            train(path, 9, ckpt.materialize(path / "store", "tiny@latest"))
        except ckpt.NoSpace:
            print("a full disk was raised here")


if __name__ == "__main__":
    main(*sys.argv[1:])
