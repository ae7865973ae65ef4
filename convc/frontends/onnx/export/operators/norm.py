"""Normalisation, with the scale and the shift behind it as operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.export.call import ELEMENT, Call, Emit
from convc.frontends.onnx.export.operators.pointwise import channels
from convc.frontends.onnx.export.operators.reduce import over
from convc.frontends.onnx.export.steps import is_by_channel, is_trailing
from convc.frontends.onnx.export.writer import NoFormError
from ir import ops
from ir.dims import Dim, product


def _filled(n: Call[Any], value: float, shape: Sequence[Dim], name: str) -> str:
    """A parameter that the operator asks for and the graph does not have."""
    if all(isinstance(extent, int) for extent in shape):
        return n.constant(np.full(n.static(name, *shape), value, n.dtype.numpy), name)
    return n.filled(value, shape)


def _parameters(n: Call[Any], shape: Sequence[Dim]) -> tuple[str, str]:
    """The scale and the shift behind the operands of the op."""
    given = n.operands[len(n.op.operand_names()) :]
    scale = given[0] if given else _filled(n, 1.0, shape, "scale")
    return scale, given[1] if given[1:] else _filled(n, 0.0, shape, "shift")


def _batch_norm(n: Call[ops.BatchNorm]) -> str:
    """ONNX wants the scale and the shift before the statistics."""
    mean, variance = n.operands[1:3]
    epsilon = n.op.epsilon
    if not n.exact(epsilon):
        variance, epsilon = n("Add", variance, n.number(epsilon, "epsilon")), 0.0
    operands = (n.x, *_parameters(n, n.shape[1:2]), mean, variance)
    return n("BatchNormalization", *operands, epsilon=epsilon)


def _batch_norm_training(n: Call[ops.BatchNormTraining]) -> tuple[str, ...]:
    """By its formula: ONNX Runtime writes the running statistics over the operands of its own."""
    op, axes = n.op, (0, *range(2, len(n.shape)))
    centre = over(n, "ReduceMean", n.x, axes, keep=True)
    centred = n("Sub", n.x, centre)
    spread = over(n, "ReduceMean", n("Mul", centred, centred), axes, keep=True)
    y = _divided(n, centred, spread)
    if op.unbiased:
        count = n.count((n.shape[0], *n.shape[2:]))
        fewer = n("Sub", count, n.number(1.0, "one"))
        spread = n("Div", n("Mul", spread, count), fewer)
    rate, gone = n.number(op.momentum, "rate"), n.integers(axes, "axes")
    pairs = zip(n.operands[1:], (centre, spread), strict=True)
    return y, *(
        n("Add", old, n("Mul", n("Sub", n("Squeeze", new, gone), old), rate)) for old, new in pairs
    )


def _layer_norm(n: Call[ops.LayerNorm]) -> str:
    op, rank = n.op, len(n.shape)
    by_channel = is_by_channel(op, rank)
    if not n.exact(op.epsilon) or not (by_channel or is_trailing(op, rank)):
        y = _over_deviation(n, n("Sub", n.x, over(n, "ReduceMean", n.x, op.axes, keep=True)))
        return _affine(n, y, by_channel)
    if by_channel:
        operands = (n.x, *_parameters(n, n.shape[1:2]))
        return n("InstanceNormalization", *operands, epsilon=op.epsilon)
    operands = (n.x, *_parameters(n, n.shape[op.axes[0] :]))
    return n("LayerNormalization", *operands, axis=op.axes[0], epsilon=op.epsilon,
             stash_type=ELEMENT[n.dtype])  # fmt: skip


def _rms_norm(n: Call[ops.RmsNorm]) -> str:
    op = n.op
    trailing = bool(op.axes) and op.axes == tuple(range(op.axes[0], len(n.shape)))
    if not n.exact(op.epsilon) or not trailing:
        return _affine(n, _over_deviation(n, n.x), False)
    scale = _parameters(n, n.shape[op.axes[0] :])[0]
    return n("RMSNormalization", n.x, scale, axis=op.axes[0], epsilon=op.epsilon,
             stash_type=ELEMENT[n.dtype])  # fmt: skip


def _over_deviation(n: Call[Any], x: str) -> str:
    """x over the root of its mean square along the axes of the op."""
    return _divided(n, x, over(n, "ReduceMean", n("Mul", x, x), n.op.axes, keep=True))


def _divided(n: Call[Any], x: str, variance: str) -> str:
    """x over the root of a variance and the epsilon of the op."""
    return n("Div", x, n("Sqrt", n("Add", variance, n.number(n.op.epsilon, "epsilon"))))


def _affine(n: Call[Any], y: str, by_channel: bool) -> str:
    """Scaled and shifted by the operands behind those of the op."""
    for kind, operand in zip(("Mul", "Add"), n.operands[1:], strict=False):
        y = n(kind, y, channels(n, operand, n.shape) if by_channel else operand)
    return y


def _group_norm(n: Call[ops.GroupNorm]) -> str:
    """Where epsilon is too precise for an attribute, each group is a row."""
    op = n.op
    if n.exact(op.epsilon):
        operands = (n.x, *_parameters(n, n.shape[1:2]))
        return n("GroupNormalization", *operands, num_groups=op.groups, epsilon=op.epsilon,
                 stash_type=ELEMENT[n.dtype])  # fmt: skip
    rows, _ = op.statistics(n.types[0])
    x, axis = n.reshaped(n.x, n.shape, rows), (2,)
    centred = n("Sub", x, over(n, "ReduceMean", x, axis, keep=True))
    square = over(n, "ReduceMean", n("Mul", centred, centred), axis, keep=True)
    return _affine(n, n.reshaped(_divided(n, centred, square), rows, n.shape), True)


def _local_response_norm(n: Call[ops.LocalResponseNorm]) -> str:
    """Engines take images only, and odd sizes."""
    op, shape = n.op, n.shape
    if op.size % 2 == 0 or not n.exact(op.alpha, op.beta, op.k) or 0 in shape:
        raise NoFormError("engines take windows of an odd size only")
    image = shape if len(shape) == 4 else (*shape[:2], product(shape[2:]), 1)
    y = n("LRN", n.reshaped(n.x, shape, image), size=op.size, alpha=op.alpha, beta=op.beta,
          bias=op.k)  # fmt: skip
    return n.reshaped(y, image, shape)


NORMS: dict[type[ir.Op], Emit] = {
    ops.BatchNorm: _batch_norm,
    ops.BatchNormTraining: _batch_norm_training,
    ops.LayerNorm: _layer_norm,
    ops.RmsNorm: _rms_norm,
    ops.GroupNorm: _group_norm,
    ops.LocalResponseNorm: _local_response_norm,
}
