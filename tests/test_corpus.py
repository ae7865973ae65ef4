"""A corpus of convolution shapes, every direction and algorithm: the axes that break kernels.

All of it is a slow run (``-m slow``); every 60th shape runs each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

import convc
import ir
from convc.algorithms import ALGORITHMS
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.window import output_size
from ir.types import Array
from tests.examples import applicable

EXACT = {algorithm.name for algorithm in ALGORITHMS if algorithm.reorders_only}


@dataclass(frozen=True)
class Shape:
    """A convolution: channels per group, then one entry for each spatial axis."""

    direction: str
    batch: int
    groups: int
    inner: int
    outer: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def graph(self) -> ir.Graph:
        """The op with both operands as inputs, the result called ``y``."""
        attributes = self.stride, self.pads, self.dilation, self.groups
        axes = zip(self.size, self.kernel, self.stride, self.pads, self.dilation, strict=True)
        out = tuple(output_size(n, k, s, *pad, d) for n, k, s, pad, d in axes)
        x = (self.batch, self.groups * self.inner, *self.size)
        w = (self.groups * self.outer, self.inner, *self.kernel)
        y = (self.batch, self.groups * self.outer, *out)
        op, first, second = {
            "c": (Conv(*attributes), x, w),
            "g": (ConvWeightGrad(*attributes, self.kernel), y, x),
            "h": (ConvInputGrad(*attributes, self.size), w, y),
        }[self.direction]
        b = ir.Builder("corpus")
        operands = [b.input(n, ir.TensorType(ir.DType.FLOAT32, s)) for n, s in
                    (("a", first), ("b", second))]  # fmt: skip
        b.output("y", b.apply(op, *operands, name="y"))
        return b.build()


# groups, channels per group in and out: first layer, plain, remainders, one of each, depthwise
CHANNELS = ((1, 3, 16), (1, 16, 16), (1, 5, 19), (1, 17, 3), (1, 1, 1), (2, 16, 16), (3, 5, 7),
            (20, 1, 1))  # fmt: skip
# kernel, stride, dilation, low and high pad on each axis
WINDOWS = ((1, 1, 1, 0, 0), (3, 1, 1, 1, 1), (3, 1, 1, 0, 2), (2, 1, 1, 3, 4), (5, 1, 1, 2, 2),
           (3, 2, 1, 1, 0), (4, 3, 1, 2, 1), (1, 2, 1, 0, 0), (3, 1, 2, 2, 2), (3, 2, 3, 4, 1),
           (7, 1, 1, 3, 3), (3, 1, 1, -1, -1))  # fmt: skip
SIZES: tuple[tuple[int, ...], ...] = ((23,), (9,), (8, 17), (11, 7), (13, 33), (7, 8, 9), (5, 7, 6))


def corpus() -> list[Shape]:
    """Every combination that is legal."""
    found = []
    for window, (groups, inner, outer), size, direction in product(WINDOWS, CHANNELS, SIZES, "cgh"):
        k, s, d, low, high = window
        if all(n + low + high >= (k - 1) * d + 1 and n + min(low, 0) + min(high, 0) > 0
               for n in size):  # fmt: skip
            rank = len(size)
            batch = 1 + (len(found) % 3 == 0)
            found.append(Shape(direction, batch, groups, inner, outer, size, (k,) * rank,
                               (s,) * rank, (d,) * rank, ((low, high),) * rank))  # fmt: skip
    return found


CORPUS = corpus()


def compare(shape: Shape) -> None:
    """Each algorithm with the interpreter: the same bits where sums are only reordered."""
    graph = shape.graph()
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        name: rng.integers(-4, 5, type.static_shape).astype(np.float32)
        for name, type in graph.inputs.items()
    }
    want = ir.interpret(graph, inputs)["y"]
    bound = ir.interpret(graph, {n: np.full_like(a, 4) for n, a in inputs.items()})["y"].max()
    for name in applicable(graph):
        got = convc.compile(graph, threads=2, algorithms={"y": name}).run(inputs)["y"]
        if name in EXACT:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            assert np.abs(got - want).max() <= 2e-4 * bound, name


def label(shape: Shape) -> str:
    parts = (shape.groups, shape.inner, shape.outer)
    return f"{shape.direction}-{parts}-{shape.size}-k{shape.kernel[0]}s{shape.stride[0]}"


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 2000


@pytest.mark.parametrize("shape", CORPUS[::60], ids=label)
def test_a_sample(shape: Shape) -> None:
    compare(shape)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_all(part: int) -> None:
    for shape in CORPUS[part::20]:
        compare(shape)
