"""Pads become pads of what reads the image; slices become crops of what makes it."""

import math

import pytest

import ir
from convc.passes.absorb_pads import absorb_pads
from ir.ops import AveragePool
from tests.passes.common import Draft, after, body, kinds

AROUND = {2: (1, 2), 3: (0, 1)}


def padded(b, value=0.0, pads=None):
    return b.pad(b.image(2, 3, 6, 7), AROUND if pads is None else pads, value, name="padded")


def test_zeros_around_a_convolution():
    b = Draft()
    b.output("y", b.conv(padded(b), b.drawn(4, 3, 3, 3), 2, 1, name="y"))
    graph = after(b.build(), absorb_pads)
    assert body(graph) == ["y = conv(x, w)"]
    assert graph.nodes[0].op.pads == ((2, 3), (1, 2))


TAKEN = {
    "convolution that crops": lambda b: b.conv(
        padded(b), b.drawn(4, 3, 3, 3), pad=[(-1, 1), (0, -2)]
    ),
    "gradient in the kernel": lambda b: b.conv_weight_grad(b.image(2, 4, 7, 6), padded(b), (3, 3)),
    "maximum": lambda b: b.max_pool(padded(b, -math.inf), 3, 2),
    "maximum with pads": lambda b: b.max_pool(padded(b, -math.inf), 4, 2, pad=1),
    "average": lambda b: b.average_pool(padded(b), 3, 2),
    "average of all": lambda b: b.average_pool(padded(b), 4, 2, pad=1, divisor="padded"),
    "sum": lambda b: b.sum_pool(padded(b), 4, stride=2, pad=1),
}
LEFT = {
    "ones around a convolution": lambda b: b.conv(padded(b, 1.0), b.drawn(4, 3, 3, 3)),
    "channels": lambda b: b.conv(padded(b, 0.0, {1: (1, 0)}), b.drawn(4, 4, 3, 3)),
    "crops": lambda b: b.conv(padded(b, 0.0, {2: (-1, 0)}), b.drawn(4, 3, 3, 3), pad=1),
    "zeros around a maximum": lambda b: b.max_pool(padded(b), 3, 2),
    "maximum of nothing": lambda b: b.max_pool(padded(b, -math.inf), 2),
    "windows that overhang": lambda b: b.max_pool(padded(b, -math.inf), 4, 3, edge="partial"),
    "average with pads": lambda b: b.average_pool(padded(b), 4, 2, pad=1),
}


@pytest.mark.parametrize("emit", TAKEN.values(), ids=TAKEN)
def test_pads_that_are_absorbed(emit):
    b = Draft()
    b.output("y", emit(b))
    assert "pad" not in kinds(after(b.build(), absorb_pads))


@pytest.mark.parametrize("emit", LEFT.values(), ids=LEFT)
def test_pads_that_are_not(emit):
    b = Draft()
    b.output("y", emit(b))
    assert "pad" in kinds(after(b.build(), absorb_pads))


def test_divisors_count_what_was_padded():
    b = Draft()
    b.output("y", b.average_pool(padded(b), 3, 2))
    (node,) = after(b.build(), absorb_pads).nodes
    assert node.op == AveragePool((3, 3), (2, 2), ((1, 2), (0, 1)), (1, 1), "drop", "padded")


def test_a_pad_stays_for_those_that_need_it():
    b = Draft()
    x = padded(b)
    b.output("y", b.conv(x, b.drawn(4, 3, 3, 3), name="y"))
    b.output("z", b.relu(x, name="z"))
    assert body(after(b.build(), absorb_pads)) == [
        "padded = pad(x)", "y = conv(x, w)", "z = relu(padded)",
    ]  # fmt: skip


def test_gradients_of_padded_convolutions_need_no_pads():
    b = Draft()
    b.output("y", b.conv(padded(b), b.drawn(4, 3, 3, 3), 2))
    graph = ir.vjp(b.build(), ["x", "w"])
    assert set(kinds(after(graph, absorb_pads))) == {"conv", "conv_weight_grad", "conv_input_grad"}


@pytest.mark.parametrize("cuts", [{2: (1, 5)}, {2: (1, 6), 3: (0, -1)}, {3: (2, 3)}])
def test_a_part_of_a_transposed_convolution(cuts):
    b = Draft()
    whole = b.conv_transpose(b.image(2, 4, 3, 3), b.drawn(4, 3, 3, 3), (7, 7), 2)
    b.output("y", b.slice(whole, cuts))
    assert kinds(after(b.build(), absorb_pads)) == ["conv_input_grad"]


@pytest.mark.parametrize("cuts", [{1: (0, 2)}, {2: (0, None, 2)}])
def test_other_parts_are_cut_out(cuts):
    b = Draft()
    whole = b.conv_transpose(b.image(2, 4, 3, 3), b.drawn(4, 3, 3, 3), (7, 7), 2)
    b.output("y", b.slice(whole, cuts))
    assert kinds(after(b.build(), absorb_pads)) == ["conv_input_grad", "slice"]


@pytest.mark.parametrize("seed", range(30))
def test_random_pads_keep_their_meaning(seed):
    b = Draft(seed)
    amounts = {axis: (b.pick(0, 1, 2, -1), b.pick(0, 1, 3)) for axis in (2, 3)}
    x = b.pad(b.image(2, 3, 6, 7), amounts, b.pick(0.0, 0.0, -math.inf))
    window, stride, pad = b.pick(2, 3, 4), b.pick(1, 2), b.pick(0, 1)
    edge, divisor = b.pick("drop", "partial"), b.pick("real", "padded", "one")
    infinite = b.build().nodes[0].op.value != 0
    if infinite or b.pick(0, 1):
        y = b.max_pool(x, window, stride, pad, edge)
    elif b.pick(0, 1):
        y = b.average_pool(x, window, stride, pad, edge, 1, divisor)
    else:
        y = b.conv(x, b.drawn(4, 3, window, 2), stride, b.pick(0, 1, "same"))
    b.output("y", y)
    after(b.build(), absorb_pads)
