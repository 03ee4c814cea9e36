"""Writes checkpoints of torch.distributed.checkpoint, by one process and by two with gloo.

usage: distributed_run.py OUTDIR
"""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from truth import Path, Truth, folder, main, seed, tensors_in, torch


def state() -> dict[str, Any]:
    """A model and its optimizer after one step."""
    model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 12)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 12, "note": {"a": [1, 2]}}


def rank(number: int, out: str) -> None:
    """What each of two processes does: large tensors cut by rows, small ones whole."""
    warnings.filterwarnings("ignore")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=number, world_size=2)
    seed()
    mesh, whole = init_device_mesh("cpu", (2,)), state()
    for name, tensor in whole["model"].items():
        if tensor.ndim == 2:
            whole["model"][name] = distribute_tensor(tensor, mesh, [Shard(0 if tensor.shape[0] > 4 else 1)])
    dcp.save(whole, checkpoint_id=f"{out}/two")
    dist.destroy_process_group()


def described(path: Path) -> dict[str, Any]:
    """Lists what lies in each file by .metadata; a piece of a tensor is named like the slice of it that it is."""
    metadata = dcp.FileSystemReader(path).read_metadata()
    tensors: dict[str, list[dict[str, Any]]] = {}
    for index, place in metadata.storage_data.items():
        known = metadata.state_dict_metadata[index.fqn]
        if isinstance(known, BytesStorageMetadata):
            continue
        data = (path / place.relative_path).read_bytes()[place.offset : place.offset + place.length]
        tensor = torch.load(io.BytesIO(data))
        name = index.fqn
        if tensor.shape != known.size:
            starts = index.offset
            name += f"[{','.join(f'{a}:{a + n}' for a, n in zip(starts, tensor.shape, strict=True))}]"
        tensors.setdefault(place.relative_path, []).extend(tensors_in(tensor, name))
    return folder(path, tensors)


def write(out: Path) -> Truth:
    warnings.filterwarnings("ignore")
    dcp.save(state(), checkpoint_id=out / "one", no_dist=True)
    (out / "rendezvous").unlink(missing_ok=True)
    mp.spawn(rank, args=(str(out),), nprocs=2)
    (out / "rendezvous").unlink(missing_ok=True)
    return [described(out / "one"), described(out / "two")]


if __name__ == "__main__":
    main(write)
