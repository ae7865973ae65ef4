"""NaN and infinity spread as in the interpreter, and no further."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops import BatchNormTraining, Conv, ConvInputGrad
from ir.ops.composite import Composite, CompositeGrad
from ir.types import Array
from tests.examples import data, examples, graph_of

ROUNDED = {"exp", "log", "tanh", "logistic", "erf", "softplus", "silu", "gelu", "elu", "power",
           "elementwise",
           "average_pool_grad", "softmax", "softmax_grad", "log_softmax", "cross_entropy",
           "cross_entropy_grad", "softmax_cross_entropy", "softmax_cross_entropy_grad"}  # fmt: skip
CASES = [
    pytest.param(example, available()[number % len(available())], id=name)
    for number, (name, example) in enumerate(examples())
    if example.op.result_types(example.inputs)[0].size
]
COMPOSITES = [
    pytest.param(example, id=f"{op.name}: {example.name}")
    for op in ir.OPS
    if issubclass(op, Composite) and op not in (CompositeGrad, BatchNormTraining)
    for example in op.examples()
]


@pytest.mark.parametrize(("example", "target"), CASES)
def test_one_special_number_spreads_as_in_the_interpreter(example: ir.Example, target: str) -> None:
    """At the ends and in the middle of each operand. The targets take turns."""
    graph = graph_of(example)
    model = convc.compile(graph, accuracy="exact", target=target)
    for name, inputs in poisoned(data(example, integers=True)):
        got, want = model.run(inputs)["y"], ir.interpret(graph, inputs)["y"]
        if isinstance(example.op, ConvInputGrad) and name == "in0":
            want = with_borders(got, want)
        if example.op.name in ROUNDED:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("example", COMPOSITES)
def test_so_it_does_through_all_parts_of_an_op(example: ir.Example) -> None:
    graph = graph_of(example, "float64")
    model = convc.compile(graph, accuracy="exact")
    for _, inputs in poisoned(data(example, "float64")):
        want = ir.interpret(graph, inputs)["y"]
        np.testing.assert_allclose(model.run(inputs)["y"], want, rtol=1e-9, atol=1e-9)


def poisoned(clean: dict[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """The operands with one special number in the one that is named."""
    for name, array in clean.items():
        places = {0, array.size // 2, array.size - 1} if array.dtype.kind == "f" else set()
        for value in (np.nan, np.inf, -np.inf):
            for place in places if array.size else ():
                changed = array.copy()
                changed.reshape(-1)[place] = value
                yield name, {**clean, name: changed}


def with_borders(got: Array, want: Array) -> Array:
    """``want``, but NaN where the zeros around the upstream gradient met a special weight.

    The interpreter adds what each upstream element contributes; machine code also multiplies the
    zeros that surround them. Only weights that are no numbers tell the two apart.
    """
    return np.where(np.isnan(got), np.nan, want)


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [1, 3, 4, 17, 20, 31])
def test_a_channel_does_not_leak_into_the_lanes_beside_it(channels: int, target: str) -> None:
    """A whole NaN channel of a depthwise chain, and what the lanes beyond the last one hold."""
    b = ir.Builder("chain")
    x = b.input("x", f"f32[2, {channels}, 7, 9]")
    w = b.weight("w", np.ones((channels, 1, 3, 3), np.float32))
    y = b.relu(b.conv(x, w, pad=1, groups=channels))
    b.output("y", b.average_pool(b.max_pool(y, 3, 1, 1), 2))
    b.output("sums", b.sum(y, (0, 2, 3)))
    model = convc.compile(b.build(), target=target)
    for channel in {0, channels // 2, channels - 1}:
        array = np.ones((2, channels, 7, 9), np.float32)
        array[:, channel] = np.nan
        for name, result in model.run({"x": array}).items():
            others = (0, 2, 3) if name == "y" else ()
            assert np.flatnonzero(np.isnan(result).any(others)).tolist() == [channel], name


@pytest.mark.parametrize("target", available())
def test_zeros_around_an_image_meet_infinite_weights_as_they_should(target: str) -> None:
    """0 times infinity is NaN at the padded border and nowhere else."""
    b = ir.Builder("border")
    x = b.input("x", "f32[1, 1, 5, 5]")
    w = np.ones((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf
    pads = ((1, 1), (1, 1))
    b.output("y", b.apply(Conv((1, 1), pads, (1, 1), 1), x, b.weight("w", w)))
    inputs = {"x": np.ones((1, 1, 5, 5), np.float32)}
    got = convc.compile(b.build(), target=target, accuracy="exact").run(inputs)["y"]
    np.testing.assert_array_equal(got, ir.interpret(b.build(), inputs)["y"])
    assert np.isnan(got[0, 0, 0]).all() and np.isinf(got[0, 0, 1:, 1:]).all()
