"""Axes without elements: every algorithm gives the empty result, or the sum of nothing."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops import (
    AveragePool,
    Bias,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Dense,
    Expand,
    Fused,
    MaxPool,
    MaxPoolGrad,
    Relu,
    Softmax,
    SoftmaxCrossEntropy,
    SquaredLoss,
    Sum,
    Transpose,
)
from tests.examples import applicable, data, graph_of


def same(groups: int = 1, stride: int = 1) -> tuple[object, ...]:
    """The attributes of a 3x3 convolution with a border of 1."""
    return (stride, stride), ((1, 1), (1, 1)), (1, 1), groups


HALVES = (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), "drop"
FINISHED = Fused(Conv(*same()), (Bias(), Relu()))
CASES: list[tuple[ir.Op, tuple[str, ...]]] = [
    (Conv(*same()), ("f32[2, 0, 4, 4]", "f32[3, 0, 3, 3]")),
    (Conv(*same()), ("f32[2, 3, 4, 4]", "f32[0, 3, 3, 3]")),
    (Conv(*same()), ("f32[2, 0, 20, 20]", "f32[20, 0, 3, 3]")),
    (Conv(*same(2)), ("f32[2, 0, 4, 4]", "f32[4, 0, 3, 3]")),
    (Conv(*same(2)), ("f32[2, 4, 4, 17]", "f32[0, 2, 3, 3]")),
    (Conv((1,), ((3, 3),), (1,), 1), ("f32[2, 3, 0]", "f32[5, 3, 3]")),
    (FINISHED, ("f32[2, 0, 4, 4]", "f32[3, 0, 3, 3]", "f32[3]")),
    (ConvInputGrad(*same(), (4, 4)), ("f32[3, 0, 3, 3]", "f32[2, 3, 4, 4]")),
    (ConvInputGrad(*same(), (4, 4)), ("f32[0, 3, 3, 3]", "f32[2, 0, 4, 4]")),
    (ConvInputGrad((1,), ((3, 3),), (1,), 1, (0,)), ("f32[5, 3, 3]", "f32[2, 5, 4]")),
    (ConvInputGrad((3,), ((1, 0),), (1,), 1, (1,)), ("f32[8, 3, 1]", "f32[1, 8, 1]")),
    (ConvInputGrad(*same(1, 2), (1, 1)), ("f32[3, 20, 3, 3]", "f32[2, 3, 1, 1]")),
    (ConvWeightGrad(*same(), (3, 3)), ("f32[2, 3, 4, 4]", "f32[2, 0, 4, 4]")),
    (ConvWeightGrad(*same(), (3, 3)), ("f32[2, 0, 4, 4]", "f32[2, 3, 4, 4]")),
    (ConvWeightGrad(*same(), (3, 3)), ("f32[0, 5, 4, 4]", "f32[0, 3, 4, 4]")),
    (ConvWeightGrad((1,), ((3, 3),), (1,), 1, (3,)), ("f32[2, 5, 4]", "f32[2, 3, 0]")),
    (Dense(), ("f32[3, 5]", "f32[5, 0]")),
    (Dense(), ("f32[0, 5]", "f32[5, 4]")),
    (Dense(), ("f32[3, 0]", "f32[0, 40]")),
    (Dense(False, True), ("f32[3, 5]", "f32[0, 5]")),
    (Dense(True, True), ("f32[0, 5]", "f32[4, 0]")),
    (MaxPool(*HALVES), ("f32[2, 0, 4, 4]",)),
    (AveragePool(*HALVES, "real"), ("f32[2, 0, 4, 4]",)),
    (MaxPoolGrad(*HALVES), ("f32[2, 0, 4, 4]", "f32[2, 0, 2, 2]")),
    (Relu(), ("f32[2, 3, 0, 4]",)),
    (Bias(), ("f32[2, 0, 4, 4]", "f32[0]")),
    (Sum((0, 2)), ("f32[2, 3, 0]",)),
    (Sum((0, 2, 3)), ("f32[2, 0, 3, 3]",)),
    (Sum((2,)), ("f32[0, 2, 2, 3]",)),
    (Transpose((1, 0)), ("f32[0, 3]",)),
    (Expand((0, 3)), ("f32[1, 3]",)),
    (Softmax(1), ("f32[2, 3, 0]",)),
    (SquaredLoss(), ("f32[0]", "f32[0]")),
    (SoftmaxCrossEntropy(), ("f32[2, 3, 0]", "i64[2, 0]")),
]


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize(("op", "types"), CASES, ids=lambda each: str(getattr(each, "name", each)))
def test_nothing_gives_nothing(op: ir.Op, types: tuple[str, ...], target: str) -> None:
    example = ir.Example.of("empty", op, *types)
    graph, inputs = graph_of(example), data(example, integers=True)
    want = ir.interpret(graph, inputs)["y"]
    chosen = applicable(graph, target)
    assert chosen
    for algorithm in chosen:
        model = convc.compile(graph, target=target, algorithms={"y": algorithm})
        np.testing.assert_array_equal(model.run(inputs)["y"], want, err_msg=algorithm)
