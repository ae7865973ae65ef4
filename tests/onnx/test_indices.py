"""Positions, remainders and loops, against ONNX Runtime and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
from ir.types import Array
from tests.onnx.models import FLOAT, INT64, agrees, as_runtime, info, make, model_of, node_model
from tests.oracles import SEED, integer

BOOL = 9


def drawn(seed: int, *shape: int) -> tuple[np.random.Generator, Array]:
    rng = np.random.default_rng(SEED + seed)
    return rng, rng.standard_normal(shape).astype(np.float32)


def places(rng: np.random.Generator, size: int, *shape: int) -> Array:
    """Positions from the start and from the end."""
    return rng.integers(-size, size, shape)


def of_both_kinds(kind: str, x: Array, index: Array, *more: Array, **attributes: Any) -> None:
    """Positions that are given when the model runs, and such that are stored in it."""
    rest = {f"u{number}": array for number, array in enumerate(more)}
    given = {"x": x, "i": index, **rest}
    as_runtime(node_model(kind, given, **attributes), given)
    if not more:
        as_runtime(node_model(kind, {"x": x}, {"i": index}, **attributes), {"x": x})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0,)])
def test_slices_at_positions(axis: int, shape: tuple[int, ...]) -> None:
    rng, x = drawn(1, 5, 7, 3)
    of_both_kinds("Gather", x, places(rng, x.shape[axis], *shape), axis=axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_elements_at_positions(axis: int) -> None:
    rng, x = drawn(2, 5, 7, 3)
    of_both_kinds("GatherElements", x, places(rng, x.shape[axis], 4, 6, 2), axis=axis)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_parts_at_positions_on_several_axes(depth: int, rows: tuple[int, ...]) -> None:
    rng, x = drawn(3, 5, 7, 3)
    index = np.stack([places(rng, size, *rows) for size in x.shape[:depth]], -1)
    of_both_kinds("GatherND", x, index)


def test_a_position_beyond_the_axis_is_refused() -> None:
    _, x = drawn(4, 5, 7)
    for index in (5, -6):
        with pytest.raises(convc.LoadError, match=f"index {index} is beyond an axis of 5"):
            convc.load(node_model("Gather", {"x": x}, {"i": np.array([index])}))


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_parts_are_put_at_positions(reduction: str, depth: int, dtype: type) -> None:
    rng, x = drawn(5, 5, 7, 3)
    x = (9 * x).astype(dtype)
    every = np.array(list(np.ndindex(*x.shape[:depth])))
    index = rng.permutation(every)[:4] - x.shape[:depth] * rng.integers(0, 2, (4, depth))
    updates = (9 * drawn(6, 4, *x.shape[depth:])[1]).astype(dtype)
    of_both_kinds("ScatterND", x, index, updates, reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("axis", [0, 1])
def test_elements_are_put_at_positions(reduction: str, axis: int) -> None:
    rng, x = drawn(7, 5, 4)
    x[0] = np.nan
    order = np.argsort(rng.standard_normal(x.shape), axis)[:3, :2] - x.shape[axis]
    updates = drawn(8, *order.shape)[1]
    of_both_kinds("ScatterElements", x, order, updates, axis=axis, reduction=reduction)


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_are_exact(fmod: int) -> None:
    rng, a = drawn(9, 20_000)
    a, b = a * 2.0 ** rng.integers(-9, 9, a.size), drawn(10, a.size)[1]
    a = a.astype(np.float32)
    a[:4], b[4:8] = (0, np.inf, -np.inf, np.nan), (0, np.inf, -np.inf, np.nan)
    with np.errstate(invalid="ignore"):
        wanted = np.fmod(a, b) if fmod else np.mod(a, b)
    agrees(node_model("Mod", {"a": a, "b": b}, fmod=fmod), {"a": a, "b": b}, {"y0": wanted}, 0.0)
    if fmod:  # without, ONNX Runtime takes no floats
        as_runtime(node_model("Mod", {"a": a, "b": b}, fmod=fmod), {"a": a, "b": b}, 0.0)


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_of_integers(fmod: int) -> None:
    rng = np.random.default_rng(SEED)
    a, b = rng.integers(-(2**40), 2**40, 99), rng.integers(1, 2**20, 99) * rng.choice([-1, 1], 99)
    as_runtime(node_model("Mod", {"a": a, "b": b}, fmod=fmod), {"a": a, "b": b}, 0.0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_loop_of_known_length(rounds: int) -> None:
    """A value is carried on, and what every round makes of it is stacked."""
    body = make.make_graph(
        [
            make.make_node("Identity", ["going"], ["still"]),
            make.make_node("Cast", ["round"], ["number"], to=FLOAT),
            make.make_node("Mul", ["old", "number"], ["product"]),
            make.make_node("Add", ["product", "x"], ["new"]),
            make.make_node("Neg", ["new"], ["negative"]),
        ],
        "body",
        [info("round", [], INT64), info("going", [], BOOL), info("old", [2, 3])],
        [info("still", [], BOOL), info("new", [2, 3]), info("negative", [2, 3])],
    )
    node = make.make_node("Loop", ["count", "", "x"], ["last", "all"], body=body)
    outputs = [info("last", None), info("all", None)]
    model = model_of([node], [info("x", [2, 3])], outputs, {"count": np.array(rounds)})
    as_runtime(model, {"x": drawn(integer(np.random.default_rng(SEED), 0, 9), 2, 3)[1]})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (0, 3)])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_one_hot(shape: tuple[int, ...], axis: int, kind: type) -> None:
    """Positions beyond the depth are nowhere."""
    index = np.random.default_rng(SEED).integers(-9, 9, shape)
    constants = {"depth": np.array(7), "values": np.array([2, 5], kind)}
    element = make.np_dtype_to_tensor_dtype(np.dtype(kind))
    given = {"i": index}
    as_runtime(node_model("OneHot", given, constants, element=element, axis=axis), given)
