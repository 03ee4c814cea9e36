"""One rank of test_dcp.py: `dcp_rank.py JOB RANK WORLD DIR`. Prints what the test compares."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from ckpt_store import Store
from ckpt_store.dcp import StoreReader, StoreWriter

ROWS, COLUMNS = 300, 512


def whole(scale: int = 1) -> dict[str, torch.Tensor]:
    """The state of a training, unsharded; every element tells its place."""
    grid = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS)
    return {
        "rows": grid * scale,
        "columns": grid.T.contiguous() * scale,
        "everywhere": torch.arange(COLUMNS, dtype=torch.bfloat16) * scale,
        "half": (grid[:60] * scale).to(torch.float16),
    }


def sharded(mesh: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    placed = {"rows": Shard(0), "columns": Shard(1), "everywhere": Replicate(), "half": Shard(0)}

    def local(name: str) -> torch.Tensor:
        placement = placed[name]
        if not isinstance(placement, Shard):
            return tensors[name].clone()
        # A clone, because torch can't copy a DTensor of a local part that begins later in its storage.
        return tensors[name].chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].contiguous().clone()

    state = {name: DTensor.from_local(local(name), mesh, [placed[name]]) for name in tensors}
    return {"model": state, "plain": torch.arange(40.0), "step": 17, "texts": ["a", "b"]}


def empty(mesh: Any) -> dict[str, Any]:
    state = sharded(mesh, {name: torch.zeros_like(tensor) for name, tensor in whole().items()})
    return state | {"plain": torch.zeros(40), "step": 0, "texts": []}


def same(state: dict[str, Any], scale: int = 1) -> bool:
    found = {name: value.full_tensor() for name, value in state["model"].items()}
    expected = whole(scale)
    return (
        found.keys() == expected.keys()
        and all(torch.equal(found[name], expected[name]) for name in expected)
        and torch.equal(state["plain"], torch.arange(40.0))
        and (state["step"], state["texts"]) == (17, ["a", "b"])
    )


class FailsOnRankOne(dcp.DefaultSavePlanner):
    def resolve_data(self, write_item: Any) -> Any:
        if dist.get_rank() == 1:
            raise RuntimeError("no data here")
        return super().resolve_data(write_item)


class DiesOnRankOne(dcp.DefaultSavePlanner):
    def resolve_data(self, write_item: Any) -> Any:
        if dist.get_rank() == 1 and "rows" in write_item.index.fqn:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().resolve_data(write_item)


def failures(save: Any) -> dict[str, str]:
    try:
        save()
    except CheckpointException as error:
        return {str(rank): f"{type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items()}
    return {}


def save(rank: int, directory: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    store = Store(directory / "store")
    state = sharded(mesh, whole())
    about: dict[str, Any] = {}

    writer = StoreWriter(store, run="a", step=1, metrics={"loss": 0.5}, meta={"by": "test"}, tags=["first"])
    dcp.save(state, storage_writer=writer)
    about["committed_by"] = writer.checkpoint is not None
    dcp.save(state, storage_writer=StoreWriter(store, run="a", step=2))
    dcp.save(state, storage_writer=dcp.FileSystemWriter(directory / "plain"))
    about["exists"] = failures(lambda: dcp.save(state, storage_writer=StoreWriter(store, run="a", step=2)))
    about["one_fails"] = failures(
        lambda: dcp.save(state, storage_writer=StoreWriter(store, run="a", step=3), planner=FailsOnRankOne())
    )
    dcp.save(state, checkpoint_id="a@4", storage_writer=writer)

    # In the background, and what is changed meanwhile is not what is stored.
    pending = dcp.async_save(state, storage_writer=StoreWriter(store, run="a", step=5, thread_count=2))
    for tensor in state["model"].values():
        tensor.to_local().mul_(2)
    pending.result()
    dcp.save(state, storage_writer=StoreWriter(store, run="a", step=1, replace=True))

    again = empty(mesh)
    dcp.load(again, storage_reader=StoreReader(store, "a@5"))
    about["async"] = same(again)
    again = empty(mesh)
    dcp.load(again, checkpoint_id="a@1", storage_reader=StoreReader(store, "a@5"))
    about["replaced"] = same(again, 2)
    try:
        dcp.load(again, storage_reader=StoreReader(store, "a@99"))
    except CheckpointException as error:
        about["missing"] = {str(rank): str(cause) for rank, (cause, _) in error.failures.items()}
    about["fsdp"] = fsdp(mesh, store)
    return about


def fsdp(mesh: Any, store: Store) -> bool:
    """Whether a model and its optimizer, sharded by FSDP2, come back."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import fully_shard

    def made(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.ones(2, 64)).sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = made(0)
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
    dcp.save(states, storage_writer=StoreWriter(store, run="fsdp", step=1))
    other, its_optimizer = made(1)
    again = dict(zip(("model", "optimizer"), get_state_dict(other, its_optimizer)))
    dcp.load(again, storage_reader=StoreReader(store, "fsdp"))
    set_state_dict(other, its_optimizer, model_state_dict=again["model"], optim_state_dict=again["optimizer"])
    pairs = zip(model.parameters(), other.parameters())
    moments = zip(optimizer.state.values(), its_optimizer.state.values())
    return all(torch.equal(one.to_local(), two.to_local()) for one, two in pairs) and all(
        torch.equal(one["exp_avg"].to_local(), two["exp_avg"].to_local()) for one, two in moments
    )


def load(rank: int, directory: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    store = Store(directory / "store", create=False)
    state = empty(mesh)
    dcp.load(state, storage_reader=StoreReader(store, "a@2"))
    return {"same": same(state), "local": isinstance(state["model"]["rows"], DTensor)}


def die(rank: int, directory: Path) -> dict[str, Any]:
    state = sharded(init_device_mesh("cpu", (2,)), whole(3))
    store = Store(directory / "store")
    try:
        dcp.save(state, storage_writer=StoreWriter(store, run="a", step=7), planner=DiesOnRankOne())
    except RuntimeError as error:
        # As if this rank were killed as well, as whoever starts ranks does then.
        print(json.dumps({"error": type(error).__name__}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"error": None}


if __name__ == "__main__":
    job, rank, world, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    # torch tells of its own experimental parts.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    meeting = directory / f"meeting-{job}-{world}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    told = {"save": save, "load": load, "die": die}[job](rank, directory)
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)
