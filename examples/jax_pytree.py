"""A training in JAX that can be killed at any moment and carries on where it was.

    python examples/jax_pytree.py STORE

`ckpt log jax-pytree --tensor params.w --store STORE` follows one leaf over its checkpoints.
"""

import sys

import jax
import jax.numpy as jnp

from ckpt_store import Store
from ckpt_store.jax import load, save

STEPS = 200
SAVE_EVERY = 50


def begin():
    key = jax.random.key(0)
    params = {"w": jax.random.normal(key, (32, 1)), "b": jnp.zeros(1)}
    momentum = jax.tree_util.tree_map(jnp.zeros_like, params)
    return {"params": params, "momentum": momentum, "key": key, "step": 0}


@jax.jit
def update(params, momentum, key):
    key, drawn = jax.random.split(key)
    inputs = jax.random.normal(drawn, (64, 32))

    def loss_of(params):
        return jnp.mean((inputs @ params["w"] + params["b"] - inputs.sum(1, keepdims=True)) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(params)
    momentum = jax.tree_util.tree_map(lambda m, g: 0.9 * m + g, momentum, grads)
    params = jax.tree_util.tree_map(lambda p, m: p - 0.01 * m, params, momentum)
    return params, momentum, key, loss


def train(path, steps=STEPS):
    store = Store(path)
    state = begin()
    if store.latest("jax-pytree") is not None:
        state = load(store, "jax-pytree@latest", like=state)
    losses = []
    while state["step"] < steps:
        params, momentum, key, loss = update(state["params"], state["momentum"], state["key"])
        state = {"params": params, "momentum": momentum, "key": key, "step": state["step"] + 1}
        losses.append((state["step"], float(loss)))
        if state["step"] % SAVE_EVERY == 0:
            save(store, state, run="jax-pytree", step=state["step"], metrics={"loss": float(loss)}, replace=True)
    return losses


if __name__ == "__main__":
    for step, loss in train(sys.argv[1]):
        if step % SAVE_EVERY == 0:
            print(f"step {step}: loss {loss:.6f}")
