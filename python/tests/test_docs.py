"""What docs/hooks.md shows of the store is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt_store as ckpt

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"


class Model(torch.nn.Module):
    """One that has what the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 1)


def blocks(heading: str) -> list[str]:
    """The Python of a section."""
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    found = re.findall(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert found, heading
    return found


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has before the first line, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    folder = tmp_path / "out" / "checkpoint-300"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return {"ckpt": ckpt, "model": Model()}


def run(heading: str, names: dict[str, Any]) -> None:
    for block in blocks(heading):
        exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)


def test_the_store(shown: dict[str, Any], tmp_path: Path) -> None:
    run("The store", shown)
    weights = shown["model"].state_dict()
    assert torch.equal(shown["state"]["model"]["head.weight"], weights["head.weight"])
    assert shown["some"].keys() == {"model.encoder.weight", "model.encoder.bias"}
    assert torch.equal(shown["some"]["model.encoder.bias"], weights["encoder.bias"])
    assert torch.equal(torch.load(tmp_path / "back.pt")["model"]["head.bias"], weights["head.bias"])
    store = ckpt.Store("runs/store", create=False)
    assert [one.step for one in store.checkpoints("a")] == [100, 200]
    assert store.runs() == ["a"], "what was put was dropped"
    assert store.checkpoint("a@paper").tags == {"first", "paper"} and store.checkpoint("a@100").pinned


def test_plain_pytorch(shown: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD(shown["model"].parameters(), 0.1)
    shown |= {"optimizer": optimizer, "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 1)}
    for steps in (3000, 5000):
        run("Plain PyTorch", shown | {"steps": steps, "loss": torch.tensor(0.5, requires_grad=True)})
    assert [one.step for one in ckpt.Store("runs/store").checkpoints("a")] == [3000, 4000, 5000]


def test_materializing(shown: dict[str, Any]) -> None:
    store = ckpt.Store("runs/store")
    for step in (500, 600):
        store.put("out/checkpoint-300", run="a", step=step)
    run("Materializing a checkpoint", shown)
    assert (Path("out/checkpoint-500") / "config.json").read_text() == "{}"
