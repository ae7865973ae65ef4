"""Native reductions and indices: random shapes, two passes, wrong indices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.indices import bounds
from ir.ops import TakeAlongGrad, TakeGrad
from ir.types import Array

NUMPY = {"sum": np.sum, "max": np.max, "min": np.min, "mean": np.mean, "prod": np.prod}


def graph_of(method: Callable[..., ir.Value], *arrays: Array) -> ir.Graph:
    b = ir.Builder("one")
    values = [b.input(f"x{i}", ir.TensorType.of(array)) for i, array in enumerate(arrays)]
    b.output("y", method(b, *values))
    return b.build()


def compiled(method: Callable[..., ir.Value], *arrays: Array, threads: int = 2) -> Array:
    result: Array = convc.compile(graph_of(method, *arrays), threads)(*arrays)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(16))
def test_random_reductions_are_those_of_numpy(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 7, 16, 17, 31, 64, 100], 4))
    while np.prod(shape) > 300_000:
        shape = shape[1:]
    axes = tuple(axis for axis in range(len(shape)) if rng.random() < 0.5)
    x = rng.uniform(0.9, 1.1, shape).astype(dtype)
    rtol = {"float32": 1e-4, "float64": 1e-12}[dtype]
    for name, reference in NUMPY.items():
        got = compiled(lambda b, v, n=name: getattr(b, n)(v, axes), x)
        want = reference(x.astype(np.float64), axis=axes)
        np.testing.assert_allclose(got, want, rtol=0 if name in ("max", "min") else rtol)
    tied = np.round(x * 20)
    for axis in range(len(shape)):
        running = compiled(lambda b, v, a=axis: b.cumsum(v, a), tied)
        np.testing.assert_array_equal(running, np.cumsum(tied, axis))
        for name in ("argmax", "argmin"):
            got = compiled(lambda b, v, n=name, a=axis: getattr(b, n)(v, a), tied)
            np.testing.assert_array_equal(got, getattr(tied, name)(axis))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1_000_003,), (0,)),
        ((3, 300_001), (1,)),
        ((200_001, 5), (0,)),
        ((7, 3, 20_011), (0, 2)),
        ((9, 40_009, 3), (0, 1)),
        ((4, 20, 111, 113), (0, 2, 3)),
        ((64, 5000), (1,)),
        ((5000, 64), (0,)),
    ],
)
def test_few_results_of_many_elements_are_shared_by_threads(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """In float32 no worse than sums of pairs, and the same for any number of threads."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = graph_of(lambda b, v: b.sum(v, axes), x)
    model = convc.compile(graph, 1)
    assert max(step.kernel.tasks for step in model.executable().plan.steps) >= 4
    got = model(x)
    scale = np.abs(x.astype(np.float64)).sum(axis=axes)
    assert np.all(np.abs(got - x.astype(np.float64).sum(axis=axes)) <= 1e-6 * scale)
    for threads in (2, 3):
        assert convc.compile(graph, threads)(x).tobytes() == got.tobytes()
    np.testing.assert_array_equal(compiled(lambda b, v: b.max(v, axes), x), x.max(axis=axes))


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [3, 16, 20, 40])
def test_images_in_blocks_are_reduced_over_pixels(channels: int, target: str) -> None:
    rng = np.random.default_rng(1)
    b = ir.Builder("pooled")
    w = rng.integers(-3, 4, (channels, 2, 3, 3)).astype(np.float32)
    y = b.conv(b.input("x", "f32[3, 2, 9, 7]"), b.weight("w", w), pad=1)
    for name in ("sum", "max", "min"):
        b.output(f"{name} of maps".replace(" ", "_"), getattr(b, name)(y, (2, 3)))
        b.output(f"{name} of channels".replace(" ", "_"), getattr(b, name)(y, (0, 2, 3)))
    graph = b.build()
    x = {"x": rng.integers(-3, 4, (3, 2, 9, 7)).astype(np.float32)}
    model = convc.compile(graph, 2, target=target, algorithms={"conv": "direct"})
    got = model.run(x)
    for output, want in ir.interpret(graph, x).items():
        np.testing.assert_array_equal(got[output], want)
    steps = model.executable().plan.steps
    assert not any(s.algorithm == "convert" and s.node != "conv" for s in steps)


def test_nan_is_the_largest_and_the_smallest_everywhere() -> None:
    for size in (1, 5, 16, 33, 100, 5000):
        for place in {0, size // 2, size - 1}:
            x = np.arange(size, dtype=np.float32).reshape(1, size)
            x[0, place] = np.nan
            for axis, array in ((1, x), (0, np.ascontiguousarray(x.T))):
                assert np.isnan(compiled(lambda b, v, a=axis: b.max(v, a), array)[0])
                assert compiled(lambda b, v, a=axis: b.argmax(v, a), array)[0] == place
                assert compiled(lambda b, v, a=axis: b.argmin(v, a), array)[0] == place


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("seed", range(10))
def test_random_picks_are_those_of_numpy(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 7, 17, 33], int(rng.integers(1, 4))))
    axis = int(rng.integers(len(shape)))
    x = rng.integers(-9, 10, shape).astype(dtype)
    several = rng.integers(0, shape[axis], int(rng.choice([1, 3, 20, 40])))
    got = compiled(lambda b, v, i: b.take(v, i, axis), x, several)
    np.testing.assert_array_equal(got, np.take(x, several, axis))
    places = rng.integers(0, shape[axis], [5 if a == axis else n for a, n in enumerate(shape)])
    got = compiled(lambda b, v, i: b.take_along(v, i, axis), x, places)
    np.testing.assert_array_equal(got, np.take_along_axis(x, places, axis))
    if dtype != "int64":
        for op, g, index in (
            (TakeGrad(axis, shape[axis]), np.take(x, several, axis), several),
            (TakeAlongGrad(axis, shape[axis]), np.take_along_axis(x, places, axis), places),
        ):
            got = compiled(lambda b, v, i, op=op: b.apply(op, v, i), g, index)
            np.testing.assert_array_equal(got, op.evaluate(g, index)[0])


def test_indices_are_checked_at_the_door_through_what_moves_them() -> None:
    b = ir.Builder("door")
    x, index = b.input("x", "f32[5, 3]"), b.input("index", "i64[2, 3]")
    other = b.input("other", "i64[1]")
    joined = b.concat([b.slice(b.reshape(b.transpose(index, (1, 0)), (6,)), {0: (0, 4)}), other], 0)
    b.output("y", b.take(x, joined))
    graph = b.build()
    assert {name: bound.limit for name, bound in bounds(graph).items() if name in graph.inputs} == {
        "index": 5,
        "other": 5,
    }
    model = convc.compile(graph, 1)
    good = {"x": np.ones((5, 3), np.float32), "index": np.zeros((2, 3), np.int64),
            "other": np.array([4])}  # fmt: skip
    model.run(good)
    for name, wrong in (("index", -1), ("index", 5), ("other", 2**40)):
        bad = {**good, name: np.full_like(good[name], wrong)}
        with pytest.raises(ir.InputError, match=rf"'{name}': index {wrong} is not in \[0, 5\)"):
            model.run(bad)


def test_weights_that_index_beyond_an_axis_do_not_compile() -> None:
    b = ir.Builder("table")
    index = b.weight("index", np.array([0, 7]))
    b.output("y", b.take(b.input("x", "f32[N, 3]"), index, 1))
    with pytest.raises(ir.InputError, match=r"weight 'index': index 7 is not in \[0, 3\)"):
        convc.compile(b.build(), 1)(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("target", available())
def test_a_wrong_index_that_is_computed_stays_in_its_buffer(target: str) -> None:
    """Positions in a longer axis, used for a shorter one: its last element stands for them."""
    b = ir.Builder("computed")
    scores, x = b.input("scores", "f32[4, 50]"), b.input("x", "f32[4, 20]")
    places = b.argmax(scores, 1)
    b.output("picked", b.take_along(x, b.reshape(places, (4, 1)), 1))
    b.output("taken", b.take(x, places, 1))
    b.output("added", b.apply(TakeGrad(1, 20), b.slice(x, {1: (0, 4)}), places))
    rng = np.random.default_rng(0)
    scores, x = rng.standard_normal((4, 50)), rng.standard_normal((4, 20))
    scores[:, [0, 19, 20, 49]] += 100 * np.eye(4)
    inputs = {"scores": scores.astype(np.float32), "x": x.astype(np.float32)}
    with pytest.raises(ir.InputError, match="index 20"):
        ir.interpret(b.build(), inputs)
    got = convc.compile(b.build(), 1, target=target).run(inputs)
    near = np.array([0, 19, 19, 19])
    x = inputs["x"]
    np.testing.assert_array_equal(got["picked"][:, 0], x[np.arange(4), near])
    np.testing.assert_array_equal(got["taken"], x[:, near])
    added = np.zeros_like(x)
    for k in range(4):
        added[:, near[k]] += x[:, k]
    np.testing.assert_array_equal(got["added"], added)
