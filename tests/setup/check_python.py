"""Checks that this Python can do what the tests and the demo ask of it: train a little, save, load. Prints nothing."""

import io

import numpy as np
import safetensors.torch
import torch

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
