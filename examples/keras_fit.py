"""Trains a small Keras model and keeps a checkpoint of every few steps in a store.

usage: keras_fit.py STORE [--epochs 6] [--resume]

Kill it whenever you like and run it again with --resume: it goes on from the latest checkpoint, with the losses of a
training that was never interrupted. (Not with a Dropout: Keras saves no state of random numbers.)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import ckpt_store as ckpt
from ckpt_store.keras import StoreCheckpoint, load_model

STEPS_IN_EPOCH = 10
SAVE_EVERY = 5


def batches(step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Your data from that step on, here made up on the spot."""
    while True:
        noise = np.random.default_rng(step)
        ids = noise.integers(0, 5000, (8, 4))
        yield ids, (ids.sum(axis=1, keepdims=True) % 2).astype("float32")
        step += 1


def new_model() -> keras.Model:
    """A model with a frozen part, which the store keeps once for all checkpoints."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((4,)),
        keras.layers.Embedding(5000, 64, trainable=False),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def train(store: str, epochs: int, resume: bool, *more: keras.callbacks.Callback) -> keras.callbacks.History:
    """Trains and gives the numbers of each epoch that it trained."""
    # With everything in it: the model, its weights, the optimizer with its step.
    model = load_model(store, "fit@latest") if resume else new_model()
    step = int(model.optimizer.iterations)
    return model.fit(
        batches(step),
        steps_per_epoch=STEPS_IN_EPOCH,
        initial_epoch=step // STEPS_IN_EPOCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[StoreCheckpoint(store, run="fit", monitor="loss", save_freq=SAVE_EVERY), *more],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint of the store")
    chosen = parser.parse_args()
    train(chosen.store, chosen.epochs, chosen.resume)

    store = ckpt.Store(chosen.store)
    for held in store.checkpoints("fit"):
        loss, new = held.metrics["loss"], f"{held.added_bytes:,} of {held.logical_bytes:,} bytes were new"
        print(f"{held.ref}: loss {loss:.4f}, {new}")
    # One that is to stay whatever happens, and then what retention would drop: the last 3 and the best 2 stay as well.
    store.pin(f"fit@{STEPS_IN_EPOCH}")
    plan = store.gc(run="fit", keep_last=3, keep_best=2, metric="loss", mode="min", dry_run=True)
    print(f"retention would drop {len(plan.dropped)} checkpoints and keep {len(plan.kept)}")


if __name__ == "__main__":
    main()
