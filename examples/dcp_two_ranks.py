"""Two processes, a sharded model (FSDP2), one checkpoint; then one process reads it.

    python examples/dcp_two_ranks.py STORE

Starts its two ranks itself; with GPUs, start `train` from torchrun and take the backend "cpu:gloo,cuda:nccl".
"""

import sys
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ckpt_store import Store
from ckpt_store.dcp import StoreReader, StoreWriter

RUN = "dcp-two-ranks"
STEPS = 20
SAVE_EVERY = 10


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))


def train(rank, world, path, meeting):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    model = model_of()
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    store = Store(path)

    begun = 0
    if (latest := store.latest(RUN)) is not None:
        begun = latest.step or 0
        weights, moments = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": moments}, storage_reader=StoreReader(store, latest.id))
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)

    # A save in the background talks to the other ranks while the training does, so it needs a group of its own.
    savers = dist.new_group(backend="gloo")
    pending = None
    for step in range(begun + 1, STEPS + 1):
        torch.manual_seed(world * step + rank)
        inputs = torch.randn(32, 64)
        loss = nn.functional.mse_loss(model(inputs), inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % SAVE_EVERY == 0:
            if pending is not None:
                # One at a time; raises what it failed with.
                pending.result()
            weights, moments = get_state_dict(model, optimizer)
            writer = StoreWriter(store, run=RUN, step=step, metrics={"loss": loss.item()}, replace=True)
            states = {"model": weights, "optimizer": moments}
            pending = dcp.async_save(states, storage_writer=writer, process_group=savers)
    if pending is not None:
        pending.result()
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="torch.distributed")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, args=(2, sys.argv[1], f"{folder}/meeting"), nprocs=2)
    # One process alone, with a model that is not sharded.
    model = model_of()
    weights = model.state_dict()
    dcp.load({"model": weights}, storage_reader=StoreReader(sys.argv[1], f"{RUN}@latest"))
    model.load_state_dict(weights)
    inputs = torch.randn(32, 64)
    print(f"read by one process: loss {nn.functional.mse_loss(model(inputs), inputs).item():.4f}")
