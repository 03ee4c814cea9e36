"""PyTorch Lightning: keeps a Trainer's checkpoints in a store. Never changes what Lightning saves, or when.

    from ckpt_store.lightning import StoreCheckpointIO

    trainer = Trainer(plugins=[StoreCheckpointIO("runs/store", run="a")], callbacks=[ModelCheckpoint(save_top_k=-1)])
    trainer.fit(model, ckpt_path="a@latest")

Where a checkpoint would be, a stub of 2 KB stands: ``ModelCheckpoint`` counts, links and removes stubs as it would the
files. The same works with ``Fabric(plugins=[...])``. Both ``lightning`` and ``pytorch_lightning`` will do.
"""

from __future__ import annotations

from .asynchronous import AsyncStoreCheckpointIO
from .loading import load_from_checkpoint, open_checkpoint
from .plugin import StoreCheckpointIO

__all__ = ["AsyncStoreCheckpointIO", "StoreCheckpointIO", "load_from_checkpoint", "open_checkpoint"]
