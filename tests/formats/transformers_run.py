"""Trains a tiny GPT-2 with the Trainer of transformers and keeps its checkpoint folders; saves a model in shards.

usage: transformers_run.py OUTDIR
"""

from __future__ import annotations

import os
import warnings

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

from safetensors_files import safetensors_tensors
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from truth import Path, Truth, folder, main, tensors_in, torch


class Lines(torch.utils.data.Dataset):
    """Token ids made up on the spot."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(12) * (index + 3) % 90
        return {"input_ids": ids, "labels": ids}


def described(path: Path) -> dict:
    """What is in a folder: safetensors by safetensors, the rest by torch.load."""
    tensors = {}
    for file in path.iterdir():
        if file.suffix == ".safetensors":
            tensors[file.name] = safetensors_tensors(file)
        elif file.suffix in (".pt", ".pth", ".bin"):
            tensors[file.name] = list(tensors_in(torch.load(file, weights_only=False)))
    return folder(path, tensors)


def write(out: Path) -> Truth:
    warnings.filterwarnings("ignore")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        output_dir=str(out),
        disable_tqdm=True,
        logging_steps=2,
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        save_steps=2,
        use_cpu=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Lines()).train()
    model.save_pretrained(out / "sharded", max_shard_size="60KB")
    return [described(out / name) for name in ("checkpoint-2", "checkpoint-4", "sharded")]


if __name__ == "__main__":
    main(write)
