"""The Lightning hook, in real trainings: what ModelCheckpoint leaves, resuming, removing, runs and metrics."""

from __future__ import annotations

import pickle
import shutil
import sys
import types
from abc import ABC
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
torch = pytest.importorskip("torch")
pytest.importorskip("fsspec")

import ckpt_store
from ckpt_store import NotFound, Store
from ckpt_store.lightning import AsyncStoreCheckpointIO, StoreCheckpointIO, open_checkpoint
from ckpt_store.lightning import facts as lightning_facts, stub_files
from lightning.fabric import Fabric
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_training import fit, same, saver, state, tree


SAVERS: dict[str, list[dict[str, Any]]] = {
    "top-k and last": [{"monitor": "val_loss", "save_top_k": 2, "save_last": True}],
    "top-k and link": [{"monitor": "val_loss", "save_top_k": 2, "save_last": "link"}],
    "top-1": [{"save_last": True, "every_n_epochs": 1}],
    "every step's weights": [{"train_time_interval": timedelta(0), "save_weights_only": True, "save_top_k": -1}],
    "two": [
        {"monitor": "val_loss", "save_top_k": 1, "filename": "best"},
        {"every_n_train_steps": 3, "save_top_k": -1, "filename": "{step}", "monitor": "train_loss"},
    ],
    "one name": [{"filename": "same", "every_n_train_steps": 2, "save_top_k": 2, "monitor": "train_loss"}],
    "no versions": [{"filename": "same", "every_n_train_steps": 2, "save_top_k": -1, "enable_version_counter": False}],
}


@pytest.mark.parametrize("kind", [StoreCheckpointIO, AsyncStoreCheckpointIO])
@pytest.mark.parametrize("name", SAVERS)
def test_the_same_files_as_without_a_store(tmp_path: Path, name: str, kind: Any) -> None:
    if name == "one name" and kind is AsyncStoreCheckpointIO:
        pytest.skip("ModelCheckpoint makes versions of a name by looking for the file, which is not yet there")
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain_savers = [saver(plain, **arguments) for arguments in SAVERS[name]]
    our_savers = [saver(ours, **arguments) for arguments in SAVERS[name]]
    fit(tmp_path, None, plain_savers)
    keeper = kind(tmp_path / "store", run="a")
    fit(tmp_path, keeper, our_savers)

    assert tree(ours) == tree(plain)
    assert len(tree(ours)) >= (2 if name != "no versions" else 1)
    for path in plain.iterdir():
        loaded = keeper.load_checkpoint(ours / path.name)
        assert same(torch.load(path), loaded, str(plain), str(ours)), path.name
        assert (ours / path.name).stat().st_size < 8192
    for a, b in zip(plain_savers, our_savers, strict=True):
        assert same(a.state_dict(), b.state_dict(), str(plain), str(ours))
    # What ModelCheckpoint has removed or written over is not in the store either, and nothing is there twice.
    stubs = [stub_files.read(ours / name) for name, link in tree(ours).items() if link is None]
    assert sorted(stub.id for stub in stubs if stub) == sorted(held.id for held in keeper.store.checkpoints())


def test_what_the_store_tells_of_a_training(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    savers = [saver(tmp_path / "x", monitor="val_loss", save_top_k=-1, save_last=True)]
    trainer, _ = fit(tmp_path, StoreCheckpointIO(store, run="se/one"), savers)
    held = store.checkpoints("se/one")
    assert [checkpoint.step for checkpoint in held] == [4, 8, 12]
    scores = {Path(path).name: score.item() for path, score in savers[0].best_k_models.items()}
    for checkpoint, (name, score) in zip(held, scores.items(), strict=True):
        assert checkpoint.metrics["val_loss"] == pytest.approx(score)
        assert set(checkpoint.metrics) == {"val_loss", "train_loss"}
        assert stub_files.read(tmp_path / "x" / name).id == checkpoint.id  # type: ignore[union-attr]
    # The frozen 64 KiB are there once, with "last" and all.
    last = store.checkpoints("se/one/last")
    assert [checkpoint.step for checkpoint in last] == [12]
    assert last[0].metrics == held[-1].metrics
    assert all(checkpoint.added_bytes < 40_000 < 65_536 < checkpoint.logical_bytes for checkpoint in [*held[1:], *last])
    best = store.best("se/one", "val_loss")
    assert best and stub_files.read(savers[0].best_model_path).id == best.id  # type: ignore[union-attr]
    # Where the Trainer is out of reach, as in another thread, what ModelCheckpoint wrote down remains.
    dumped = trainer._checkpoint_connector.dump_checkpoint()
    path = savers[0].best_model_path
    assert lightning_facts.metrics_of(dumped, path, None) == {"val_loss": pytest.approx(scores[Path(path).name])}
    assert lightning_facts.metrics_of(dumped, tmp_path / "elsewhere.ckpt", None) == {}


def test_resuming_from_anything(tmp_path: Path, curve: list[float]) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a")
    savers = [saver(tmp_path / "x", every_n_train_steps=2, save_top_k=-1, save_last="link")]
    _, model = fit(tmp_path, keeper, savers, max_steps=6)
    assert model.losses == curve[:6]
    plain = tmp_path / "plain.ckpt"
    with open_checkpoint(tmp_path / "x" / "last.ckpt") as file:
        plain.write_bytes(file.read())
    stub = savers[0].best_model_path
    store.tag("a@6", "good")
    refs = ["a@latest", "a", "a@6", "a@good", "a@best:train_loss", store.checkpoint("a").id]
    for resume in (stub, Path(stub), f"{tmp_path}/x/last.ckpt", *refs, plain):
        trainer, model = fit(tmp_path, keeper, [], resume, max_steps=8)
        assert model.losses == curve[6:8], resume
    with pytest.raises(FileNotFoundError, match="a@7.*no such checkpoint"):
        fit(tmp_path, keeper, [], "a@7")
    # To the end, and then what Lightning itself finds: best and last.
    trainer, model = fit(tmp_path, keeper, savers, "a@latest")
    assert model.losses == curve[6:]
    assert [held.step for held in store.checkpoints("a")] == [2, 4, 6, 8, 10, 12]
    for which in ("best", "last"):
        (results,) = trainer.validate(model, ckpt_path=which, verbose=False)
        assert "val_loss" in results


def test_removing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a", gc_every=None)
    paths = [tmp_path / f"{step}.ckpt" for step in range(6)]
    for step, path in enumerate(paths):
        keeper.save_checkpoint(state(step), path)
    store.pin("a@0")
    store.tag("a@1", "paper")
    shutil.copy(paths[2], tmp_path / "copy.ckpt")
    (tmp_path / "links").mkdir()
    for link, target in ((tmp_path / "link.ckpt", "4.ckpt"), (tmp_path / "links" / "last.ckpt", "../4.ckpt")):
        link.symlink_to(target)
        keeper.remove_checkpoint(link)
        assert not link.is_symlink() and paths[4].exists()
    for path in paths[:4]:
        keeper.remove_checkpoint(path)
        assert not path.exists()
    # Pinned, tagged, and named by a copy of its stub: those stay.
    assert [held.step for held in store.checkpoints("a")] == [0, 1, 2, 4, 5]
    keeper.remove_checkpoint(tmp_path / "copy.ckpt")
    assert [held.step for held in store.checkpoints("a")] == [0, 1, 4, 5]
    keeper.remove_checkpoint(tmp_path / "never.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(b"anything")
    (tmp_path / "sharded.ckpt").mkdir()
    (tmp_path / "sharded.ckpt" / "0").write_bytes(b"x")
    for name in ("plain.ckpt", "sharded.ckpt"):
        keeper.remove_checkpoint(tmp_path / name)
        assert not (tmp_path / name).exists()
    # Dropped behind our back, and told so.
    store.rm("a@4")
    with pytest.raises(NotFound, match=r"4\.ckpt is a stub of a@4 .*dropped"):
        keeper.load_checkpoint(paths[4])
    keeper.remove_checkpoint(paths[4])
    StoreCheckpointIO(store, run="a", drop_removed=False).remove_checkpoint(paths[5])
    assert not paths[5].exists() and store.checkpoint("a@5").step == 5


def test_room_is_freed_as_it_goes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a", gc_every=3)
    for step in range(8):
        keeper.save_checkpoint(state(step, step), tmp_path / "one.ckpt")
    packs = [path for path in (tmp_path / "store" / "packs").rglob("*") if path.is_file()]
    assert 1 <= len(packs) <= 3
    keeper.teardown()
    assert [held.step for held in store.checkpoints()] == [7]
    assert len([path for path in (tmp_path / "store" / "packs").rglob("*") if path.is_file()]) == 1


def test_a_step_saved_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "store")
    keeper = StoreCheckpointIO(store, run="a")
    for name, value in (("best-1.ckpt", 0.0), ("last.ckpt", 0.0), ("ema-1.ckpt", 5.0), ("last-v1.ckpt", 6.0)):
        keeper.save_checkpoint(state(1, value, name=name), tmp_path / name)
    assert {held.run for held in store.checkpoints()} == {"a", "a/last", "a/2", "a/3"}
    for name, value in (("best-1.ckpt", 0.0), ("last.ckpt", 0.0), ("ema-1.ckpt", 5.0), ("last-v1.ckpt", 6.0)):
        loaded = keeper.load_checkpoint(tmp_path / name)
        assert loaded["name"] == name and loaded["state_dict"]["w"][0] == value
    assert store.checkpoint("a/last@1").added_bytes < 4096
    assert not caplog.records
    # The same path again takes its place, unless it is pinned.
    before = store.checkpoint("a@1")
    keeper.save_checkpoint(state(1, 7.0), tmp_path / "best-1.ckpt")
    after = store.checkpoint("a@1")
    assert after.id != before.id and keeper.load_checkpoint("a@1")["state_dict"]["w"][0] == 7.0
    store.pin("a@1")
    keeper.save_checkpoint(state(1, 8.0), tmp_path / "best-1.ckpt")
    assert store.checkpoint("a@1").id == after.id
    assert keeper.load_checkpoint(tmp_path / "best-1.ckpt")["state_dict"]["w"][0] == 8.0
    # Another training under the same name takes nothing away, and hears of it once.
    other = StoreCheckpointIO(store, run="a")
    other.save_checkpoint(state(1, 9.0), tmp_path / "other-1.ckpt")
    assert "run a has step 1 already" in caplog.text
    assert len(store.checkpoints()) == 6


def test_lightnings_own_wrapper(tmp_path: Path, curve: list[float]) -> None:
    store = Store(tmp_path / "store")
    keeper = AsyncCheckpointIO(StoreCheckpointIO(store, run="a"))
    savers = [saver(tmp_path / "x", monitor="val_loss", save_top_k=-1)]
    fit(tmp_path, keeper, savers, max_steps=8)
    assert [held.step for held in store.checkpoints("a")] == [4, 8]
    assert all(set(held.metrics) == {"val_loss"} for held in store.checkpoints("a"))
    _, model = fit(tmp_path, keeper, [], "a@4")
    assert model.losses == curve[4:]


def test_fabric(tmp_path: Path) -> None:
    keeper = StoreCheckpointIO(tmp_path / "store", run="a")
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[keeper])
    model = torch.nn.Linear(3, 2)
    fabric.save(tmp_path / "x" / "5.ckpt", {"model": model, "step": 5})
    assert keeper.store.checkpoint("a@5").step == 5
    other = {"model": torch.nn.Linear(3, 2), "step": 0}
    for source in (tmp_path / "x" / "5.ckpt", "a@5"):
        fabric.load(source, other)
        assert other["step"] == 5 and same(dict(model.state_dict()), dict(other["model"].state_dict()), "", "")


def test_runs_of_those_who_name_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, run in (
        ("lightning_logs/version_3/checkpoints/epoch=0.ckpt", "lightning_logs/version_3"),
        (tmp_path / "out" / "deep" / "er" / "x.ckpt", "out/deep/er"),
        ("/data/me/exp@7/checkpoints/x.ckpt", "me/exp_7"),
        ("s3://bucket/project/one/checkpoints/x.ckpt", "project/one"),
        ("x.ckpt", "lightning"),
    ):
        assert lightning_facts.run_of(place) == run
    keeper = StoreCheckpointIO("store", run=lambda path, saved: f"a/{Path(path).stem}/{saved['epoch']}")
    keeper.save_checkpoint(state(1), "y.ckpt")
    assert keeper.store.runs() == ["a/y/0"]


def test_for_both_packages_and_spawned_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class CheckpointIO(ABC):
        """As the other package would have it."""

    other = types.ModuleType("lightning_fabric.plugins.io.checkpoint_io")
    other.CheckpointIO = CheckpointIO  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, other.__name__, other)
    for kind in (StoreCheckpointIO, AsyncStoreCheckpointIO):
        keeper = kind(tmp_path / "store", run="a")
        assert isinstance(keeper, CheckpointIO)
        keeper.save_checkpoint(state(5), tmp_path / "5.ckpt")
        keeper.teardown()
        again = pickle.loads(pickle.dumps(keeper))
        assert again._opened is None
        assert again.load_checkpoint(tmp_path / "5.ckpt")["global_step"] == 5
    with pytest.raises(ckpt_store.Invalid, match="on_no_space"):
        StoreCheckpointIO(tmp_path / "store", on_no_space="ignore")  # type: ignore[arg-type]
    # A wrong path is told when the Trainer is made, not when it saves.
    (tmp_path / "file").write_text("x")
    with pytest.raises(ckpt_store.CkptError):
        StoreCheckpointIO(tmp_path / "file")


def test_one_rank_of_several_computes_no_metric() -> None:
    class Several:
        world_size = 2
        _logger_connector = types.SimpleNamespace(_callback_metrics={"loss": torch.tensor(0.5)})

        @property
        def callback_metrics(self) -> dict[str, Any]:
            raise AssertionError("would wait for the other ranks")

    assert lightning_facts.metrics_of({}, "x.ckpt", Several()) == {"loss": 0.5}
    alone = types.SimpleNamespace(world_size=1, callback_metrics={"loss": 0.25, "name": "x", " bad": 1.0})
    assert lightning_facts.metrics_of({}, "x.ckpt", alone) == {"loss": 0.25}


def test_numbers_are_what_was_logged() -> None:
    # A float32 has no more digits than it needs, and is the same number when it is one again.
    for text in ("0.1", "2.670884", "1.0000001", "1e-07", "16777216.0", "0.0", "-3.25", "inf"):
        value = torch.tensor(float(text))
        assert repr(lightning_facts.number(value)) == text
    assert lightning_facts.number(torch.tensor(0.1, dtype=torch.float64)) == 0.1
    assert lightning_facts.number(torch.tensor([1 / 3], dtype=torch.bfloat16)) == 0.33398438
    assert lightning_facts.number(torch.tensor(7)) == 7.0
    assert lightning_facts.number(2.670883893966675) == 2.670883893966675
    assert str(lightning_facts.number(torch.tensor(float("nan")))) == "nan"
    for other in (True, "1", None, torch.zeros(2), torch.tensor(1j)):
        assert lightning_facts.number(other) is None
