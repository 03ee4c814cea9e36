"""JAX pytrees in a store, each as one safetensors file whose tensors are the leaves. Never pickles anything.

    from ckpt_store import Store
    from ckpt_store.jax import load, save

    store = Store("runs/store")
    save(store, {"params": params, "opt_state": opt_state}, run="a", step=100)
    state = load(store, "a@latest", like={"params": params, "opt_state": opt_state})
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy

from . import errors
from ._arguments import FILE_MODE, Label
from ._safetensors import Tensors, in_memory
from .checkpoint import Checkpoint
from .store import Store, StrPath, store_of

__all__ = ["load", "save"]

# The key of the file's metadata under which the structure stands, and the version of what stands there.
_STRUCTURE = "ckpt_store.pytree"
_VERSION = 1


def save(
    store: Store | StrPath,
    tree: Any,
    *,
    run: str,
    step: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    meta: Mapping[str, str] | None = None,
    tags: Iterable[str] = (),
    replace: bool = False,
    gc: bool = False,
    file: str = "pytree.safetensors",
) -> Checkpoint:
    """Stores a pytree: arrays of JAX and numpy, typed random keys, None, numbers and texts, in any containers.

    An array that is sharded over the devices of this process is put together; one of which other processes hold parts
    raises :class:`Invalid`, as does a leaf of any other kind. Both are named by their path. The rest is as in
    :meth:`Store.put`.
    """
    structure, tensors = _taken_apart(tree)
    described = json.dumps({"version": _VERSION, "tree": structure}, separators=(",", ":"))
    metadata = {"format": "flax", _STRUCTURE: described}
    label = Label.of(run, step, metrics, meta, tags, replace)
    return store_of(store, create=True)._put(label, [], [(file, FILE_MODE, in_memory(tensors, metadata))], None, gc)


def load(store: Store | StrPath, ref: str, like: Any = None, *, file: str | None = None) -> Any:
    """Gives the pytree of a checkpoint.

    With ``like``, a pytree of the same structure: its containers, the loaded leaves. Each array becomes what the one in
    ``like`` is, numpy's or JAX's with that sharding (a ``jax.ShapeDtypeStruct`` will do), and must have its shape and
    type. Without it, dicts, lists and tuples are as they were, other containers are dicts of their fields, and arrays
    of JAX are where JAX puts new ones.

    Raises :class:`Invalid` that names the leaves that are missing, too many or of another shape or type.
    """
    with store_of(store, create=False).open(ref, file) as opened:
        tensors = Tensors(opened)
        told = tensors.metadata.get(_STRUCTURE)
        if told is None:
            raise errors.Invalid(f"{ref} holds no pytree: it was not stored by ckpt_store.jax.save")
        try:
            described = json.loads(told)
            version = described["version"]
        except (ValueError, TypeError, KeyError):
            raise errors.Invalid(f"{ref} holds no sound pytree") from None
        if version != _VERSION:
            raise errors.Unsupported(f"{ref} was stored by another version of ckpt_store.jax, {version}")
        if like is None:
            return _built(described["tree"], tensors)
        return _filled(like, described["tree"], tensors, ref)


def _taken_apart(tree: Any) -> tuple[Any, dict[str, Any]]:
    """The structure as JSON, and the arrays by name."""
    tensors: dict[str, Any] = {}

    def walk(node: Any, path: tuple[Any, ...]) -> Any:
        if node is None:
            return {"none": True}
        children = _children(node)
        if children is None:
            return _leaf(node, path, tensors)
        parts = [[_key(key), walk(child, (*path, key))] for key, child in children]
        if type(node) in (list, tuple):
            return {type(node).__name__: [child for _, child in parts]}
        if type(node) is dict:
            return {"dict": parts}
        return {"node": f"{type(node).__module__}.{type(node).__qualname__}", "children": parts}

    return walk(tree, ()), tensors


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    """What is directly in a container, with its key; None for a leaf."""
    found, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)
    if len(found) == 1 and found[0][0] == ():
        return None
    return [(path[0], child) for path, child in found]


def _key(key: Any) -> Any:
    """The key of one step of a path as JSON has it."""
    value = _bare(key)
    if type(value) in (str, int, bool) or value is None:
        return value
    return {"key": repr(value)}


def _bare(key: Any) -> Any:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return str(key)


def _name(path: tuple[Any, ...], taken: Mapping[str, Any]) -> str:
    """A leaf's name: its keys, positions and attributes with dots between, as other formats have it."""
    name = ".".join(str(_bare(key)) for key in path) or "tensor"
    if name in taken or name == "__metadata__":
        number = 2
        while f"{name}#{number}" in taken:
            number += 1
        name = f"{name}#{number}"
    return name


def _leaf(value: Any, path: tuple[Any, ...], tensors: dict[str, Any]) -> Any:
    shown = jax.tree_util.keystr(path) or "the tree"
    kind = type(value)
    if kind in (bool, int, str):
        return {kind.__name__: value}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    described: dict[str, Any] = {"tensor": _name(path, tensors)}
    if isinstance(value, jax.Array):
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            described |= {"kind": "key", "impl": str(jax.random.key_impl(value))}
            value = jax.random.key_data(value)
        else:
            described["kind"] = "jax"
        if not value.is_fully_addressable:
            if not value.is_fully_replicated:
                raise errors.Invalid(
                    f"{shown} is spread over several processes: gather it first, with "
                    "jax.experimental.multihost_utils.process_allgather, and save in one of them"
                )
            value = value.addressable_data(0)
    elif isinstance(value, (numpy.ndarray, numpy.generic)):
        described["kind"] = "numpy" if isinstance(value, numpy.ndarray) else "scalar"
    else:
        raise errors.Invalid(f"{shown} is a {kind.__module__}.{kind.__qualname__}, which is no array, number or text")
    if value.dtype != bool and not jax.numpy.issubdtype(value.dtype, jax.numpy.number):
        raise errors.Invalid(f"{shown} is an array of type {value.dtype}, which can't be stored")
    tensors[described["tensor"]] = value
    return described


def _value(described: Mapping[str, Any], tensors: Tensors) -> Any:
    """A leaf as it was, an array as numpy's."""
    for kind, value in described.items():
        if kind in ("bool", "int", "str"):
            return value
        if kind == "float":
            return float.fromhex(value)
        if kind == "complex":
            return complex(float.fromhex(value[0]), float.fromhex(value[1]))
    array = tensors.read(described["tensor"])
    return array[()] if described["kind"] == "scalar" else array


def _placed(described: Mapping[str, Any], value: Any, shown: str, sharding: Any = None) -> Any:
    """A value as an array of JAX."""
    if described.get("kind") == "key":
        key = jax.random.wrap_key_data(jax.numpy.asarray(value), impl=described["impl"])
        return key if sharding is None else jax.device_put(key, sharding)
    placed = jax.device_put(value, sharding)
    if placed.dtype != value.dtype:
        raise errors.Invalid(f"{shown} is {value.dtype.name}, which JAX has only with jax_enable_x64 set")
    return placed


def _built(described: Mapping[str, Any], tensors: Tensors) -> Any:
    if "none" in described:
        return None
    if "list" in described:
        return [_built(child, tensors) for child in described["list"]]
    if "tuple" in described:
        return tuple(_built(child, tensors) for child in described["tuple"])
    parts = described.get("dict", described.get("children"))
    if parts is not None:
        return {_step(key): _built(child, tensors) for key, child in parts}
    value = _value(described, tensors)
    return _placed(described, value, described["tensor"]) if described.get("kind") in ("jax", "key") else value


def _filled(like: Any, described: Any, tensors: Tensors, ref: str) -> Any:
    saved = dict(_leaves(described, ()))
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {tuple(_step(_key(key)) for key in path): leaf for path, leaf in leaves}
    shown = {path: ".".join(map(str, path)) or "the tree" for path in [*wanted, *saved]}
    missing = [shown[path] for path in wanted if path not in saved]
    extra = [shown[path] for path in saved if path not in wanted]
    if missing or extra:
        told = [f"it has no {_listed(missing)}"] * bool(missing) + [f"it also has {_listed(extra)}"] * bool(extra)
        raise errors.Invalid(f"{ref} does not have the structure that is asked for: {', and '.join(told)}")
    filled = [_fitted(leaf, saved[path], tensors, shown[path], ref) for path, leaf in wanted.items()]
    return jax.tree_util.tree_unflatten(structure, filled)


def _leaves(node: Mapping[str, Any], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """The described leaves with their paths."""
    if "none" in node:
        return
    for kind in ("list", "tuple", "dict", "children"):
        if kind in node:
            pairs = enumerate(node[kind]) if kind in ("list", "tuple") else node[kind]
            for key, child in pairs:
                yield from _leaves(child, (*path, _step(key)))
            return
    yield path, node


def _step(key: Any) -> Any:
    """One step of a path as it can be compared, from what JSON has."""
    return key["key"] if isinstance(key, dict) else key


def _fitted(leaf: Any, described: Mapping[str, Any], tensors: Tensors, shown: str, ref: str) -> Any:
    """The stored leaf as what is asked for."""
    value = _value(described, tensors)
    is_key = described.get("kind") == "key"
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        if is_key != jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise errors.Invalid(f"{shown} is {'a' if is_key else 'no'} random key in {ref}, unlike what is asked for")
        stored = numpy.asarray(value)
        there, here = (f"{array.dtype.name} {tuple(array.shape)}" for array in (stored, leaf))
        if not is_key and there != here:
            raise errors.Invalid(f"{shown} is {there} in {ref}, and {here} is asked for")
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return _placed(described, value, shown, getattr(leaf, "sharding", None))
    return value


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
