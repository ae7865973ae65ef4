"""Pools that a convolution does as it stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.types import Array
from tests.loops_runner import as_loops, run

TARGETS = pytest.mark.parametrize("target", available())
Finish = Callable[[ir.Builder, ir.Value], ir.Value]


def network(
    size: tuple[int, ...], taps: int, pool: Finish, dtype: str = "f32", channels: int = 20
) -> ir.Graph:
    """A convolution with all that finishes it, a pool, and what reads that."""
    rng = np.random.default_rng(3)
    b = ir.Builder("pooled")
    x = b.input("x", f"{dtype}[2, 3, {', '.join(map(str, size))}]")
    w = rng.standard_normal((channels, 3, *[taps] * len(size))).astype(x.type.dtype.numpy)
    y = b.conv(x, b.weight("w", w), pad=taps // 2, name="conv")
    y = b.bias(y, b.weight("b", rng.standard_normal(channels).astype(x.type.dtype.numpy)))
    y = b.relu(y + b.input("shortcut", y.type))
    b.output("y", b.softmax(pool(b, y), 1))
    return b.build()


def arrays(graph: ir.Graph, seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        for name, type in graph.inputs.items()
    }


def compiled(graph: ir.Graph, algorithm: str, **how: Any) -> convc.Model:
    return convc.compile(graph, 1, algorithms={"conv": algorithm}, by_image=False, **how)


def sweeps(model: convc.Model) -> int:
    """Pools that have a step of their own."""
    return sum(step.algorithm == "sweep" for step in model.stages().plan.steps)


def check(graph: ir.Graph, model: convc.Model, tolerance: float = 2e-5) -> None:
    inputs = arrays(graph)
    want = ir.interpret(graph, inputs, "float64")["y"]
    got = model.run(inputs)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    loops = run(model.stages().plan, inputs, as_loops(reverse=True))["y"]
    np.testing.assert_allclose(loops, want.reshape(-1), rtol=0, atol=tolerance)


POOLS: dict[str, tuple[tuple[int, ...], Finish, int]] = {
    # size of the image, the pool, the least outputs of a tile
    "2x2": ((8, 12), lambda b, y: b.max_pool(y, 2), 2),
    "odd": ((9, 13), lambda b, y: b.max_pool(y, 2), 2),
    "one row": ((9, 13), lambda b, y: b.max_pool(y, (1, 2)), 2),
    "4x2": ((9, 7), lambda b, y: b.max_pool(y, (4, 2)), 4),
    "average": ((10, 6), lambda b, y: b.average_pool(y, 2), 2),
    "sum": ((10, 7), lambda b, y: b.sum_pool(y, 2), 2),
    "1-D": ((23,), lambda b, y: b.max_pool(y, 2), 2),
    "whole tile": ((2, 2), lambda b, y: b.max_pool(y, 2), 2),
}


@TARGETS
@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("case", POOLS)
def test_winograd_stores_what_the_pool_makes(case: str, outputs: int, target: str) -> None:
    size, pool, least = POOLS[case]
    graph = network(size, 3, pool)
    model = compiled(graph, f"winograd{outputs}", target=target)
    assert sweeps(model) == (0 if outputs >= least else 1)
    check(graph, model)


@TARGETS
@pytest.mark.parametrize("case", POOLS)
def test_direct_stores_what_the_pool_makes(case: str, target: str) -> None:
    size, pool, _ = POOLS[case]
    graph = network(size, 3, pool)
    model = compiled(graph, "direct", target=target)
    assert sweeps(model) == 0 or case == "4x2"  # too large for 16 registers
    check(graph, model)


def test_direct_pools_groups_strides_and_dilations() -> None:
    rng = np.random.default_rng(0)
    b = ir.Builder("geometry")
    x = b.input("x", "f32[2, 6, 19, 17]")
    w = rng.standard_normal((32, 3, 3, 2)).astype(np.float32)
    y = b.conv(x, b.weight("w", w), 2, 1, 2, groups=2, name="conv")
    b.output("y", b.softmax(b.max_pool(y, (2, 3)), 1))
    model = compiled(b.build(), "direct")
    assert sweeps(model) == 0
    check(model.graph, model)


def test_without_channels_there_is_the_bias() -> None:
    b = ir.Builder("none")
    y = b.conv(b.input("x", "f32[1, 0, 8, 8]"), b.weight("w", np.zeros((16, 0, 3, 3), np.float32)),
               pad=1, name="conv")  # fmt: skip
    y = b.relu(b.bias(y, b.weight("b", np.arange(16, dtype=np.float32) - 3)))
    b.output("y", b.softmax(b.max_pool(y, 2), 1))
    model = compiled(b.build(), "direct")
    assert sweeps(model) == 0
    check(model.graph, model)


def test_a_window_that_no_register_tile_holds_is_pooled_apart() -> None:
    graph = network((12, 13), 3, lambda b, y: b.max_pool(y, 6))
    model = compiled(graph, "direct")
    assert sweeps(model) == 1
    check(graph, model)


@pytest.mark.parametrize("taps", [2, 5, 9])
def test_kernels_of_any_length(taps: int) -> None:
    graph = network((14, 11), taps, lambda b, y: b.max_pool(y, 2))
    model = compiled(graph, "winograd2")
    assert sweeps(model) == 0
    check(graph, model, 1e-4)


def test_three_dimensions_and_doubles() -> None:
    graph = network((5, 6, 7), 3, lambda b, y: b.max_pool(y, (1, 2, 2)), "f64", 9)
    for algorithm in ("winograd2", "direct"):
        model = compiled(graph, algorithm)
        assert sweeps(model) == 0
        check(graph, model, 1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        lambda b, y: b.max_pool(y, 3, 2),
        lambda b, y: b.max_pool(y, 2, 2, 1),
        lambda b, y: b.max_pool(y, 2, 2, edge="partial"),
        lambda b, y: b.max_pool(y, 2, 4, dilation=2),
        lambda b, y: b.max_pool(y, 2) + b.max_pool(b.scale(y, 2.0), 2),
        lambda b, y: b.concat([b.max_pool(y, 2), b.average_pool(y, 2)], 1),
        lambda b, y: (b.output("z", y), b.max_pool(y, 2))[1],
    ],
    ids=["overlapping", "padded", "partial", "dilated", "read twice", "two pools", "an output"],
)
def test_other_pools_have_steps_of_their_own(pool: Finish) -> None:
    graph = network((9, 9), 3, pool)
    for algorithm in ("winograd2", "direct"):
        model = compiled(graph, algorithm)
        assert sweeps(model) > 0
        check(graph, model)


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2)])
def test_strided_and_dilated_convolutions(stride: int, dilation: int) -> None:
    """The outputs of a tile are neighbours with a stride, not with a dilation."""
    rng = np.random.default_rng(0)
    b = ir.Builder("geometry")
    w = b.weight("w", rng.standard_normal((17, 3, 3, 3)).astype(np.float32))
    y = b.conv(b.input("x", "f32[1, 3, 19, 18]"), w, stride, 2, dilation, name="conv")
    b.output("y", b.softmax(b.max_pool(y, 2), 1))
    model = compiled(b.build(), "winograd2")
    assert sweeps(model) == (dilation > 1)
    check(model.graph, model)


def test_a_pooled_result_may_be_given_out() -> None:
    b = ir.Builder("out")
    w = np.random.default_rng(0).standard_normal((20, 3, 3, 3)).astype(np.float32)
    y = b.conv(b.input("x", "f32[1, 3, 8, 8]"), b.weight("w", w), name="conv")
    b.output("y", b.max_pool(y, 2))
    graph = b.build()
    for algorithm in ("winograd2", "direct"):
        model = compiled(graph, algorithm)
        assert sweeps(model) == 0
        check(graph, model, 1e-4)


def test_pooled_results_lie_in_concatenations_and_in_the_halo_of_the_next() -> None:
    rng = np.random.default_rng(0)
    b = ir.Builder("joined")
    x = b.input("x", "f32[1, 16, 8, 8]")
    weights = [b.weight(f"w{i}", rng.standard_normal((16, 16, 3, 3)).astype(np.float32))
               for i in range(2)]  # fmt: skip
    parts = [b.max_pool(b.conv(x, w, pad=1, name=f"conv{i}"), 2) for i, w in enumerate(weights)]
    last = b.weight("last", rng.standard_normal((8, 32, 3, 3)).astype(np.float32))
    b.output("y", b.conv(b.concat(parts, 1), last, pad=1))
    forced = {"conv0": "winograd2", "conv1": "winograd4"}
    model = convc.compile(b.build(), 1, algorithms=forced)
    assert sweeps(model) == 0
    inputs = arrays(model.graph)
    want = ir.interpret(model.graph, inputs, "float64")["y"]
    np.testing.assert_allclose(model.run(inputs)["y"], want, atol=1e-3)


def test_the_largest_is_missing_where_a_number_is() -> None:
    graph = network((8, 8), 3, lambda b, y: b.max_pool(y, 2))
    inputs = arrays(graph)
    inputs["shortcut"][0, :, 4, 4] = np.nan
    inputs["shortcut"][1, :, 0, 1] = np.inf
    want = ir.interpret(graph, inputs, "float64")["y"]
    for algorithm in ("winograd2", "direct"):
        got = compiled(graph, algorithm).run(inputs)["y"]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("algorithm", ["winograd4", "direct"])
def test_the_same_bits_as_apart(algorithm: str) -> None:
    """A maximum is exact: pooling as it is stored changes nothing."""
    graph = network((12, 12), 3, lambda b, y: b.max_pool(y, 2))
    apart = network((12, 12), 3, lambda b, y: (b.output("whole", y), b.max_pool(y, 2))[1])
    models = [compiled(each, algorithm) for each in (graph, apart)]
    assert [sweeps(model) for model in models] == [0, 1]
    first, second = (model.run(arrays(graph))["y"] for model in models)
    np.testing.assert_array_equal(first, second)


def test_a_pool_whose_algorithm_is_asked_for_has_a_step_of_its_own() -> None:
    graph = network((8, 8), 3, lambda b, y: b.max_pool(y, 2, name="pool"))
    forced = {"conv": "winograd2", "pool": "sweep"}
    model = convc.compile(graph, 1, algorithms=forced)
    assert sweeps(model) == 1
    check(graph, model)
