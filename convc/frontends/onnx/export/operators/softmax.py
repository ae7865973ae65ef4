"""Softmax and losses. The mean over no positions at all is 0 here, and not a number in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.export.call import ELEMENT, Call, Emit
from convc.frontends.onnx.export.operators.reduce import over
from ir import ops
from ir.dims import product


def _softmax_grad(n: Call[ops.SoftmaxGrad]) -> str:
    y, g = n.operands
    total = over(n, "ReduceSum", n("Mul", g, y), (n.op.axis,), keep=True)
    return n("Mul", y, n("Sub", g, total))


def _positions(n: Call[Any]) -> str:
    """The number of labels, at least 1."""
    count = product(n.types[1].shape)
    if isinstance(count, int):
        return n.number(max(count, 1), "positions")
    least = n("Max", n("Squeeze", n.extents([count])), n.constant(np.array(1), "one"))
    return n("Cast", least, to=ELEMENT[n.dtype])


def _loss(n: Call[Any], kind: str, scores: str) -> str:
    labels, count = n.operands[1], product(n.types[1].shape)
    if isinstance(count, int):
        return n(kind, scores, labels) if count else n.number(0.0, "nothing")
    return n("Div", n(kind, scores, labels, reduction="sum"), _positions(n))


def _places(n: Call[Any]) -> str:
    """The labels with a class axis of extent 1."""
    return n("Unsqueeze", n.operands[1], n.integers([1], "axes"))


def _cross_entropy_grad(n: Call[ops.CrossEntropyGrad]) -> str:
    p, _, g = n.operands
    places = _places(n)
    picked = n("Mul", n("GatherElements", p, places, axis=1), _positions(n))
    share = n("Div", n("Neg", g), picked)
    return n("ScatterElements", n.filled(0.0, n.out), places, share, axis=1)


def _softmax_cross_entropy_grad(n: Call[ops.SoftmaxCrossEntropyGrad]) -> str:
    logits, _, g = n.operands
    less = n.filled(-1.0, (n.shape[0], 1, *n.shape[2:]))
    p = n("Softmax", logits, axis=1)
    p = n("ScatterElements", p, _places(n), less, axis=1, reduction="add")
    return n("Mul", p, n("Div", g, _positions(n)))


def _squared_loss(n: Call[ops.SquaredLoss]) -> str:
    return n("ReduceSumSquare", n("Sub", *n.operands), keepdims=0)


SOFTMAX: dict[type[ir.Op], Emit] = {
    ops.Softmax: lambda n: n("Softmax", n.x, axis=n.op.axis),
    ops.SoftmaxGrad: _softmax_grad,
    ops.LogSoftmax: lambda n: n("LogSoftmax", n.x, axis=n.op.axis),
    ops.CrossEntropy: lambda n: _loss(n, "NegativeLogLikelihoodLoss", n("Log", n.x)),
    ops.CrossEntropyGrad: _cross_entropy_grad,
    ops.SoftmaxCrossEntropy: lambda n: _loss(n, "SoftmaxCrossEntropyLoss", n.x),
    ops.SoftmaxCrossEntropyGrad: _softmax_cross_entropy_grad,
    ops.SquaredLoss: _squared_loss,
}
