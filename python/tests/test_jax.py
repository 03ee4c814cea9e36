"""Pytrees of JAX in a store: every leaf comes back as it was, and what can't be stored or does not fit is named."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
# Before the first array: two devices for the shardings.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from ckpt_store import Store, errors  # noqa: E402
from ckpt_store._safetensors import Tensors  # noqa: E402
from ckpt_store.jax import load, save  # noqa: E402

Moments = collections.namedtuple("Moments", "mu nu")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Train:
    params: Any
    moments: Any
    name: str = dataclasses.field(default="t", metadata={"static": True})


def tree(scale: float = 1.0) -> dict[str, Any]:
    kernel = jnp.arange(12.0).reshape(3, 4) * scale
    params = {"dense": {"kernel": kernel, "bias": jnp.ones(4, jnp.bfloat16) * scale}, "layers": [kernel, (kernel + 1,)]}
    return {
        "train": Train(params, Moments(kernel * 2, [jnp.zeros((0, 3)), jnp.float32(scale)])),
        "key": jax.random.key(int(scale)),
        "old_key": jax.random.PRNGKey(3),
        "numpy": numpy.arange(5, dtype=numpy.float64) * scale,
        "scalar": numpy.float16(0.5),
        "step": int(7 * scale),
        "lr": 0.1,
        "odd": [math.inf, 1 + 2j, True, "text", None],
        "empty": [{}, [], ()],
        7: jnp.arange(3, dtype=jnp.int8),
    }


def same(one: Any, two: Any) -> bool:
    ones, its = jax.tree_util.tree_flatten(one)
    twos, other = jax.tree_util.tree_flatten(two)
    assert its == other
    for left, right in zip(ones, twos):
        assert type(left) is type(right), (left, right)
        if hasattr(left, "dtype") and jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        if hasattr(left, "dtype"):
            assert left.dtype == right.dtype and left.shape == right.shape
            assert numpy.asarray(left).tobytes() == numpy.asarray(right).tobytes()
        else:
            assert left == right
    return True


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_with_like_everything_comes_back(store: Store, tmp_path: Path) -> None:
    mixed = {key: value for key, value in tree().items() if key != 7} | {"seven": tree()[7]}
    saved = save(store, mixed, run="a", step=1, metrics={"loss": 0.5}, meta={"by": "test"}, tags=["t"])
    assert saved.ref == "a@1" and saved.metrics == {"loss": 0.5} and "t" in saved.tags
    like = {key: value for key, value in tree(3.0).items() if key != 7} | {"seven": tree()[7]}
    assert same(load(store, "a@1", like), mixed)
    # Nothing is left beside the store.
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_without_like_containers_are_plain(store: Store) -> None:
    save(store, tree()["train"], run="a", step=1)
    back = load(store, "a")
    assert type(back) is dict and back.keys() == {"params", "moments"} and back["moments"].keys() == {"mu", "nu"}
    expected = tree()["train"]
    assert same(back["params"], expected.params)
    assert same(back["moments"]["nu"], expected.moments.nu)
    odd = {"odd": tree()["odd"], "empty": tree()["empty"], "key": tree()["key"], "scalar": numpy.float16(2)}
    save(store, odd, run="b", step=1)
    assert same(load(store, "b"), odd)
    keys = {1: jnp.zeros(2), 2: [3]}
    save(store, keys, run="c")
    assert load(store, "c").keys() == {1, 2}
    save(store, jnp.arange(3), run="d")
    assert load(store, "d").tolist() == [0, 1, 2]
    save(store, None, run="e")
    assert load(store, "e") is None


def test_the_file_is_safetensors_with_the_leaves_names(store: Store, tmp_path: Path) -> None:
    save(store, {"train": tree()["train"], "a.b": jnp.ones(1), "a": {"b": jnp.zeros(2)}}, run="a", step=1)
    got = load_file(store.get("a@1", tmp_path / "got"))
    assert set(got) == {
        "train.params.dense.kernel",
        "train.params.dense.bias",
        "train.params.layers.0",
        "train.params.layers.1.0",
        "train.moments.mu",
        "train.moments.nu.0",
        "train.moments.nu.1",
        "a.b",
        "a.b#2",
    }
    assert got["train.params.dense.bias"].dtype == ml_dtypes.bfloat16
    assert got["train.params.dense.kernel"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    back = load(store, "a@1")
    assert back["a.b"].tolist() == [1] and back["a"]["b"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e3m4", "int4", "complex64", "complex128", "bool"]
)
def test_every_type_comes_back(store: Store, name: str) -> None:
    array = numpy.array([[0, 1], [1, 0]]).astype(numpy.dtype(name))
    save(store, {"x": array, "zero": array[0, 1]}, run="a", step=1)
    back = load(store, "a")
    assert back["x"].dtype == array.dtype and back["x"].tobytes() == array.tobytes()
    assert back["zero"].dtype == array.dtype and back["zero"] == array[0, 1]


def test_views_and_other_byte_orders_are_written_as_values(store: Store) -> None:
    grid = numpy.arange(12.0).reshape(3, 4)
    save(store, {"t": grid.T, "step": grid[::2], "big": grid.astype(">f8")}, run="a", step=1)
    back = load(store, "a")
    assert (back["t"] == grid.T).all() and (back["step"] == grid[::2]).all() and (back["big"] == grid).all()


def test_sharded_arrays_are_put_together_and_placed_again(store: Store) -> None:
    mesh = jax.sharding.Mesh(numpy.array(jax.devices()), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    value = jax.device_put(jnp.arange(8.0), split)
    save(store, {"w": value}, run="a", step=1)
    for like in (value, jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=split)):
        back = load(store, "a", {"w": like})["w"]
        assert back.sharding == split and back.tolist() == value.tolist()
    assert load(store, "a", {"w": numpy.zeros(8, numpy.float32)})["w"].tolist() == value.tolist()


def test_an_array_of_other_processes_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(jnp.ones(1)), "is_fully_addressable", False)
    monkeypatch.setattr(type(jnp.ones(1)), "is_fully_replicated", False)
    with pytest.raises(errors.Invalid, match=r"\['w'\]\[0\] is spread over several processes.*process_allgather"):
        save(store, {"w": [jnp.ones(2)]}, run="a")
    monkeypatch.setattr(type(jnp.ones(1)), "is_fully_replicated", True)
    save(store, {"w": [jnp.ones(2)]}, run="a")
    monkeypatch.undo()
    assert load(store, "a")["w"][0].tolist() == [1, 1]


def test_what_does_not_fit_is_named(store: Store) -> None:
    save(store, {"a": jnp.zeros((2, 3)), "b": {"c": jnp.ones(1)}, "k": jax.random.key(0), "n": 1}, run="a", step=1)
    like = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.ones(1)}, "k": jax.random.key(1), "n": 0}
    for change, told in (
        ({"d": jnp.ones(1)}, "a@1 does not have the structure that is asked for: it has no d"),
        ({"b": {}}, "it also has b.c"),
        ({"a": jnp.zeros((3, 2))}, r"a is float32 \(2, 3\) in a@1, and float32 \(3, 2\) is asked for"),
        ({"a": jnp.zeros((2, 3), jnp.bfloat16)}, "and bfloat16"),
        ({"k": jnp.zeros(2, jnp.uint32)}, "k is a random key in a@1"),
    ):
        with pytest.raises(errors.Invalid, match=told):
            load(store, "a@1", like | change)
    for leaf, told in ((object(), "builtins.object"), (numpy.array(["x"]), "type <U1"), (b"x", "builtins.bytes")):
        with pytest.raises(errors.Invalid, match=rf"\['x'\] is .*{told}"):
            save(store, {"x": leaf}, run="b")
    assert store.runs() == ["a"]
    save(store, {"x": numpy.arange(3)}, run="b")
    with pytest.raises(errors.Invalid, match="x is int64, which JAX has only with jax_enable_x64"):
        load(store, "b", {"x": jax.ShapeDtypeStruct((3,), numpy.int64)})
    with pytest.raises(errors.NotFound):
        load(store, "a@9")


def test_a_file_of_somebody_else_is_no_pytree(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": numpy.ones(3)}, path)
    store.put(path, run="a", step=1)
    with pytest.raises(errors.Invalid, match="a@1 holds no pytree"):
        load(store, "a@1")
    path.write_bytes(b"text that is long enough")
    store.put(path, run="a", step=2)
    with pytest.raises(errors.Invalid, match="no safetensors file"):
        load(store, "a@2")


def test_a_hostile_header_reads_nothing_outside() -> None:
    for entry in (
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 4 << 50]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [],
    ):
        text = json.dumps({"w": entry}).encode()
        file = io.BytesIO(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(errors.Invalid):
            Tensors(file).read("w")


def test_the_second_save_of_what_did_not_change_adds_next_to_nothing(store: Store) -> None:
    frozen = jax.random.normal(jax.random.key(0), (1000, 500))
    save(store, {"frozen": frozen, "head": jnp.ones(10)}, run="a", step=1)
    second = save(store, {"frozen": frozen, "head": jnp.zeros(10)}, run="a", step=2)
    assert second.logical_bytes > 2_000_000 and second.added_bytes < 10_000


def test_a_path_is_a_store_too(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        load(tmp_path / "store", "a@1")
    save(tmp_path / "store", {"w": jnp.ones(3)}, run="a", step=numpy.int32(1))  # type: ignore[arg-type]
    assert same(load(str(tmp_path / "store"), "a@1"), {"w": jnp.ones(3)})


def test_the_example_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import jax_pytree

    whole = jax_pytree.train(tmp_path / "whole", 120)
    jax_pytree.train(tmp_path / "cut", 70)
    assert jax_pytree.train(tmp_path / "cut", 120) == whole[50:]
