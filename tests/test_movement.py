"""Native data movement: images in blocks of channels, large arrays, random shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops import Pad
from ir.types import Array

Method = Callable[[ir.Builder, ir.Value], ir.Value]
LANES = 16  # channels of a block are 2 to 16, and divide this


def whole_numbers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-4, 5, shape).astype(np.float32)


def between_convolutions(move: Method, channels: int, dtype: str = "f32") -> ir.Graph:
    """conv → op → conv, so that the op is given an image in blocks and a halo, and gives one."""
    rng = np.random.default_rng(0)
    b = ir.Builder("between")
    x = b.input("x", f"f32[2, 3, 6, {7}]")
    image = b.relu(b.conv(x, b.weight("w0", whole_numbers(rng, channels, 3, 3, 3)), pad=1))
    y = move(b, image)
    w = b.weight("w1", whole_numbers(rng, 5, int(y.shape[1]), 3, 3))  # type: ignore[call-overload]
    b.output("y", b.conv(y, w, pad=1))
    b.output("moved", y)
    return b.build().with_dtype(dtype)


MOVES: dict[str, Method] = {
    "channels": lambda b, x: b.slice(x, {1: (LANES, None)}),
    "odd channels": lambda b, x: b.slice(x, {1: (3, -2)}),
    "crop": lambda b, x: b.slice(x, {2: (1, -1), 3: (2, None, 2)}),
    "pad": lambda b, x: b.pad(x, {2: (1, 2), 3: (0, 1)}, 2.0),
    "pad between": lambda b, x: b.pad(x, {2: (1, -1), 3: (0, 2)}, interior={2: 2, 3: 1}),
    "pad channels": lambda b, x: b.pad(x, {1: (LANES, 5)}, -1.0),
    "crop channels": lambda b, x: b.pad(x, {1: (-LANES, 2 * LANES)}),
    "odd pad": lambda b, x: b.pad(x, {1: (3, 1)}),
    "crop all": lambda b, x: b.pad(x, {2: (-9, 9)}, 3.0),
    "concat": lambda b, x: b.concat([x, b.relu(x), x]),
    "concat rows": lambda b, x: b.concat([x, x], 2),
    "concat batch": lambda b, x: b.concat([x, x], 0),
    "concat with a given": lambda b, x: b.concat([x, b.value("x")]),
    "reverse": lambda b, x: b.reverse(x, (2, 3)),
    "reverse channels": lambda b, x: b.reverse(x, (0, 1)),
    "downsample": lambda b, x: b.downsample(x, (2, 3)),
    "expand": lambda b, x: b.expand_blocks(x, (2, 1)),
}


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [16, 20, 32])
@pytest.mark.parametrize("name", MOVES)
def test_images_in_blocks_are_moved_and_differentiated(
    name: str, channels: int, target: str
) -> None:
    if name == "channels" and channels == LANES:
        pytest.skip("leaves nothing to convolve")
    graph = ir.vjp(between_convolutions(MOVES[name], channels))
    rng = np.random.default_rng(1)
    inputs = {n: whole_numbers(rng, *t.static_shape) for n, t in graph.inputs.items()}
    want = ir.interpret(graph, inputs, "float64")
    for threads in (1, 2):
        got = convc.compile(graph, threads, target=target, accuracy="exact").run(inputs)
        for output, array in want.items():
            np.testing.assert_array_equal(got[output], array, output)


@pytest.mark.parametrize("name", ["concat", "crop", "pad", "channels"])
def test_hot_moves_leave_images_in_their_blocks(name: str) -> None:
    def conversions(method: Method) -> int:
        whole = between_convolutions(method, 32)
        graph = whole.replace(outputs={"y": whole.outputs["y"]})
        steps = convc.compile(graph, 1, algorithms={"conv_1": "direct"}).executable().plan.steps
        return sum(step.algorithm == "convert" for step in steps)

    assert conversions(MOVES[name]) == conversions(ir.Builder.relu)


def compiled(method: Callable[..., ir.Value], *arrays: Array, threads: int = 2) -> Array:
    b = ir.Builder("one")
    values = [b.input(f"x{i}", ir.TensorType.of(array)) for i, array in enumerate(arrays)]
    b.output("y", method(b, *values))
    result: Array = convc.compile(b.build(), threads)(*arrays)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("seed", range(12))
def test_random_moves_are_those_of_the_reference(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = (1, 2, 3, 5, 7, 16, 17, 31, 40)
    shape = tuple(int(n) for n in rng.choice(sizes, int(rng.integers(1, 5))))
    x = rng.integers(-100, 100, shape).astype(dtype)
    perm = tuple(int(axis) for axis in rng.permutation(len(shape)))
    np.testing.assert_array_equal(compiled(lambda b, v: b.transpose(v, perm), x), x.transpose(perm))
    axes = [axis for axis in range(len(shape)) if rng.random() < 0.5]
    np.testing.assert_array_equal(compiled(lambda b, v: b.reverse(v, axes), x), np.flip(x, axes))
    cuts = {axis: (int(rng.integers(0, n)), n, int(rng.integers(1, 4)))
            for axis, n in enumerate(shape)}  # fmt: skip
    taken = x[tuple(slice(*cut) for cut in cuts.values())]
    np.testing.assert_array_equal(compiled(lambda b, v: b.slice(v, cuts), x), taken)
    pads = tuple((int(a), int(b)) for a, b in rng.integers(-1, 3, (len(shape), 2)))
    pad = Pad(pads, tuple(int(n) for n in rng.integers(0, 3, len(shape))), 3.0)
    if min(pad.infer(ir.TensorType.of(np.ones((2,) * len(shape))))[0].static_shape) > 0:
        padded = compiled(lambda b, v: b.apply(pad, v), x)
        np.testing.assert_array_equal(padded, pad.evaluate(x)[0])
    axis = int(rng.integers(len(shape)))
    joined = compiled(lambda b, v, w: b.concat([v, w, v], axis), x, x)
    np.testing.assert_array_equal(joined, np.concatenate([x, x, x], axis))


def test_large_arrays_are_moved_by_many_tasks() -> None:
    x = np.arange(3 * 70_001, dtype=np.float32).reshape(3, 70_001)
    for method, want in (
        (lambda b, v: b.transpose(v, (1, 0)), x.T),
        (lambda b, v: b.slice(v, {1: (1, None)}), x[:, 1:]),
        (lambda b, v: b.reverse(b.reshape(v, (-1,)), 0), x.ravel()[::-1]),
        (lambda b, v: b.pad(v, {1: (0, 3)}), np.pad(x, ((0, 0), (0, 3)))),
    ):
        np.testing.assert_array_equal(compiled(method, x, threads=3), want)


def test_more_arrays_are_joined_than_one_kernel_takes() -> None:
    rng = np.random.default_rng(4)
    parts = [rng.standard_normal((2, 16, 3, n + 1)).astype(np.float32) for n in range(41)]
    joined = compiled(lambda b, *parts: b.concat(parts, 3), *parts)
    np.testing.assert_array_equal(joined, np.concatenate(parts, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_of_products_are_those_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    for a, b in (((5, 33, 70), (5, 70, 150)), ((3, 1, 7, 9), (4, 9, 1)), ((2, 8, 40), (40, 17))):
        x, w = rng.standard_normal(a).astype(dtype), rng.standard_normal(b).astype(dtype)
        want = torch.tensor(x, dtype=torch.float64) @ torch.tensor(w, dtype=torch.float64)
        got = compiled(ir.Builder.matmul, x, w)
        rtol = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(got, want.numpy(), rtol=rtol, atol=rtol * 10)
