"""What Trainer tells StoreCallback where that needs a library or a server: searches, the Hub, another beginning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

import ckpt_store as ckpt
from ckpt_store.transformers import StoreCallback


def folders(output: Path) -> list[str]:
    return sorted(os.listdir(output))


def steps(store: ckpt.Store, run: str) -> list[int]:
    return sorted(held.step or 0 for held in store.checkpoints(run))


def event(hook: StoreCallback, name: str, out: Path, **state: Any) -> None:
    """Tells a callback of something as Trainer does."""
    arguments = {"output_dir": str(out), "use_cpu": True, "report_to": []} | state.pop("arguments", {})
    getattr(hook, name)(TrainingArguments(**arguments), TrainerState(**state), TrainerControl())


def test_each_trial_of_a_search_has_a_run(tmp_path: Path) -> None:
    hook = StoreCallback(tmp_path / "store", run="search")
    for trial in ("run-0", "run-1"):
        event(hook, "on_train_begin", tmp_path / "out", is_hyper_param_search=True)
        for step in (2, 4):
            folder = tmp_path / "out" / trial / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            (folder / "model.bin").write_text(f"{trial} {step}")
            event(hook, "on_save", tmp_path / "out", global_step=step, is_hyper_param_search=True)
        assert folders(tmp_path / "out" / trial) == ["checkpoint-4"]
    store = ckpt.Store(tmp_path / "store")
    assert {run: steps(store, run) for run in store.runs()} == {"search/run-0": [2, 4], "search/run-1": [2, 4]}
    assert store.open("search/run-1@2", "model.bin").read() == b"run-1 2"


@pytest.mark.parametrize(
    ("strategy", "left"), [("every_save", [4]), ("checkpoint", [2, 4]), ("all_checkpoints", [2, 4])]
)
def test_a_folder_that_may_be_uploaded_is_left(tmp_path: Path, strategy: str, left: list[int]) -> None:
    hook = StoreCallback(tmp_path / "store", run="a")
    hub = {"push_to_hub": True, "hub_strategy": strategy}
    event(hook, "on_train_begin", tmp_path / "out", arguments=hub)
    for step in (2, 4):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
        event(hook, "on_save", tmp_path / "out", global_step=step, arguments=hub)
    assert folders(tmp_path / "out") == [f"checkpoint-{step}" for step in left]
    with pytest.raises(ckpt.NotFound, match="checkpoint-6"):
        event(hook, "on_save", tmp_path / "out", global_step=6, arguments=hub)


def test_a_training_that_begins_again_by_itself_goes_over_its_own_steps(tmp_path: Path) -> None:
    """As with ``auto_find_batch_size``, which starts from step 0 once more when the memory did not suffice."""
    hook = StoreCallback(tmp_path / "store", run="a")
    for text in ("first", "second"):
        event(hook, "on_train_begin", tmp_path / "out")
        (tmp_path / "out" / "checkpoint-2").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "checkpoint-2" / "model.bin").write_text(text)
        event(hook, "on_save", tmp_path / "out", global_step=2)
    store = ckpt.Store(tmp_path / "store")
    assert steps(store, "a") == [2] and store.open("a@2", "model.bin").read() == b"second"
    assert [file.path for file in store.files("a@2")] == ["model.bin"]
