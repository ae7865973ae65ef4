"""Two convolutions as one, where that is cheaper."""

import numpy as np
import pytest

from convc.passes.compose_convolutions import compose_convolutions
from tests.passes.common import Draft, after, body, kinds


def pair(b, first, second, one=None, two=None, bias=False, size=8):
    """Convolutions by kernels of shapes [K, C, *k]."""
    y = b.conv(b.image(2, first[1], size, size), b.whole(*first), **(one or {}), name="first")
    y = b.bias(y, b.whole(first[0]), name="biased") if bias else y
    b.output("y", b.conv(y, b.whole(*second), **(two or {}), name="second"))
    return b.build()


CHEAPER = {
    "1x1 to many, then 3x3": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3)),
    "1x1, then 3x3 with pads": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), two={"pad": 1}),
    "1x1 with a bias, then 3x3": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), bias=True),
    "3x3, then 1x1": pair(Draft(), (8, 3, 3, 3), (8, 8, 1, 1), one={"pad": 1}),
    "3x3 with a bias, then 1x1": pair(Draft(), (8, 3, 3, 3), (8, 8, 1, 1), bias=True),
    "strides multiply": pair(Draft(), (8, 3, 3, 3), (9, 8, 1, 1), {"stride": 2}, {"stride": 2}),
    "1x1 twice": pair(Draft(), (8, 3, 1, 1), (3, 8, 1, 1), {"dilation": 3}),
    "1x1, then dilated": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), two={"dilation": 2}),
}
KEPT = {
    "a bottleneck": pair(Draft(), (2, 16, 1, 1), (16, 2, 3, 3)),
    "a bias before pads": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), two={"pad": 1}, bias=True),
    "3x3 twice": pair(Draft(), (8, 3, 3, 3), (8, 8, 3, 3)),
    "groups": pair(Draft(), (8, 3, 3, 3), (8, 4, 1, 1), two={"groups": 2}),
    "stride before 3x3": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), {"stride": 2}),
    "pads before 3x3": pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3), {"pad": 1}),
    "pads of the 1x1 after": pair(Draft(), (8, 3, 3, 3), (8, 8, 1, 1), two={"pad": 1}),
}


@pytest.mark.parametrize("graph", CHEAPER.values(), ids=CHEAPER)
def test_pairs_that_become_one(graph):
    better = after(graph, compose_convolutions)
    assert kinds(better).count("conv") == 1
    assert better.cost().flops < graph.cost().flops


@pytest.mark.parametrize("graph", KEPT.values(), ids=KEPT)
def test_pairs_that_stay_two(graph):
    assert compose_convolutions(graph) is graph


def test_a_bias_between_moves_behind():
    graph = compose_convolutions(CHEAPER["3x3 with a bias, then 1x1"])
    assert body(graph) == [
        "first = conv(x, second.composed)",
        "second = bias(first, second.shift)",
    ]


def test_three_become_one():
    b = Draft()
    y = b.conv(b.image(1, 3, 6, 6), b.whole(9, 3, 1, 1))
    y = b.conv(b.conv(y, b.whole(9, 9, 1, 1)), b.whole(3, 9, 3, 3))
    b.output("y", y)
    assert kinds(after(b.build(), compose_convolutions)) == ["conv"]


def test_what_others_read_stays():
    graph = pair(Draft(), (16, 3, 1, 1), (5, 16, 3, 3))
    read = graph.replace(outputs={**graph.outputs, "first": "first"})
    assert compose_convolutions(read) is read


def test_weights_that_overflow_stay():
    b = Draft()
    x = b.input("y", "f32[1, 3, 4, 4]")
    large = b.weight("large", np.full((8, 3, 1, 1), 1e30, np.float32))
    again = b.weight("again", np.full((2, 8, 1, 1), 1e30, np.float32))
    b.output("y", b.conv(b.conv(x, large), again))
    graph = b.build()
    assert compose_convolutions(graph) is graph


@pytest.mark.parametrize("seed", range(15))
def test_random_chains_keep_their_meaning(seed):
    b = Draft(seed)
    y = b.image(2, 4, 20, 20)
    for _ in range(4):
        outer, inner, kernel = b.pick(2, 6, 12), y.shape[1], b.pick(1, 1, 1, 3)
        y = b.conv(y, b.whole(outer, inner, kernel, kernel), b.pick(1, 1, 2), b.pick(0, 0, 1))
        y = b.bias(y, b.whole(outer)) if b.pick(0, 1) else y
        y = b.relu(y) if b.pick(0, 0, 1) else y
    b.output("y", y)
    after(b.build(), compose_convolutions)
