"""Softmax and its relatives, and the losses made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, axis_of
from convc.frontends.onnx.errors import NodeError
from ir.dims import product


def _along(function: Callable[[Call, ir.Value, int], ir.Value]) -> Emit:
    """A function along one axis; up to opset 12, over all axes from it on at once."""

    def emit(n: Call) -> ir.Value:
        x = n.x()
        axis = axis_of(n.attributes.integer("axis", 1 if n.opset < 13 else -1), x.type.rank)
        if n.opset >= 13 or axis == x.type.rank - 1:
            return function(n, x, axis)
        rows = n.b.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))
        return n.b.reshape(function(n, rows, 1), x.shape)

    return emit


def _hardmax(n: Call, x: ir.Value, axis: int) -> ir.Value:
    """1 at the first of the largest, else 0."""
    place = n.b.argmax(x, axis, keepdims=True)
    one = n.b.weight(n.b.fresh("one"), np.ones((), x.dtype.numpy))
    ones = n.b.expand(one, place.shape)
    return n.b.apply(ir.ops.TakeAlongGrad(axis, x.shape[axis]), ones, place)


def _likelihood(n: Call, scores: ir.Value) -> ir.Value:
    """The loss -w[label]·score[label] of scores [N, C, *S], reduced; ignored labels count nothing.

    Labels are in [0, C) but for the ignored one, of which nothing else is read.
    """
    labels, b = n.x(1), n.b
    ignored = "ignore_index" in n.attributes
    counted = None
    if ignored:
        number = b.cast(labels, "f64")
        skipped = b.equal(number, float(n.attributes.integer("ignore_index", 0)))
        counted = b.cast(1.0 - skipped, scores.dtype)
        zero = b.weight(b.fresh("zero"), np.zeros((), np.int64))
        labels = b.where(skipped, zero, labels)
    column = b.reshape(labels, (labels.shape[0], 1, *labels.shape[1:]))
    loss = b.reshape(b.take_along(scores, column, 1), labels.shape) * -1.0
    weight = counted
    if n.has(2):
        flat = b.take(n.x(2), b.reshape(labels, (product(labels.shape),)))
        weight = b.reshape(flat, labels.shape)
        weight = weight if counted is None else weight * counted
    loss = loss if weight is None else loss * weight
    reduction = n.attributes.choice("reduction", "mean", "sum", "none")
    if reduction == "none":
        return loss
    if reduction == "sum" or weight is not None:
        total = b.sum(loss)
        return total if reduction == "sum" or weight is None else total / b.sum(weight)
    return b.mean(loss)


def _negative_log_likelihood(n: Call) -> ir.Value:
    return _likelihood(n, n.x())


def _softmax_cross_entropy(n: Call) -> Sequence[ir.Value]:
    if len(n.shape(0)) < 2:
        raise NodeError("scores must be [N, C, *S]")
    scores = n.b.log_softmax(n.x(), 1)
    return _likelihood(n, scores), scores


SOFTMAX: dict[str, Emit] = {
    "Softmax": _along(lambda n, x, axis: n.b.softmax(x, axis)),
    "LogSoftmax": _along(lambda n, x, axis: n.b.log_softmax(x, axis)),
    "Hardmax": _along(_hardmax),
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _softmax_cross_entropy,
}
