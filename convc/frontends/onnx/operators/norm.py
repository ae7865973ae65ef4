"""Normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import ir
from convc.frontends.onnx.call import Call, Emit, axis_of
from convc.frontends.onnx.errors import NodeError
from ir.dims import Dim


def _batch_norm(n: Call) -> Sequence[ir.Value]:
    """In training also the new running mean and variance, that of the batch being biased."""
    if n.opset < 9 and not n.attributes.flag("spatial", True):
        raise NodeError("spatial = 0, statistics for each cell, is not supported")
    x, scale, shift, mean, variance = (n.x(number) for number in range(5))
    epsilon = n.attributes.number("epsilon", 1e-5)
    if not n.attributes.flag("training_mode"):
        if any(n.wants(number) for number in range(1, 5)):
            raise NodeError("statistics are only given out in training mode, from opset 14 on")
        return (n.b.batch_norm(x, mean, variance, scale, shift, epsilon),)
    rate = 1 - n.attributes.number("momentum", 0.9)
    return n.b.batch_norm_training(x, mean, variance, scale, shift, rate, epsilon, unbiased=False)


def _instance_norm(n: Call) -> ir.Value:
    return n.b.instance_norm(n.x(0), n.x(1), n.x(2), n.attributes.number("epsilon", 1e-5))


def _group_norm(n: Call) -> ir.Value:
    """Scale and shift belong to groups up to opset 20, then to channels."""
    x, groups = n.x(0), n.attributes.integer("num_groups", 0)
    if groups < 1:
        raise NodeError(f"attribute num_groups = {groups} must be positive")
    scale, shift = n.x(1), n.x(2)
    if n.opset < 21:
        scale, shift = (_spread(n, value, x.shape[1], groups) for value in (scale, shift))
    return n.b.group_norm(x, groups, scale, shift, n.attributes.number("epsilon", 1e-5))


def _spread(n: Call, value: ir.Value, channels: Dim, groups: int) -> ir.Value:
    """Numbers of groups as numbers of their channels."""
    column = n.b.reshape(value, (groups, 1))
    return n.b.reshape(n.b.expand(column, (groups, channels // groups)), (channels,))


def _layer_norm(n: Call) -> Sequence[ir.Value]:
    """Over the axes from `axis` on; if asked for, also the mean and the reciprocal deviation."""
    x = n.x(0)
    axes = _last_axes(n, x)
    epsilon = n.attributes.number("epsilon", 1e-5)
    shift = n.x(2) if n.has(2) else None
    y = n.b.layer_norm(x, axes, n.x(1), shift, epsilon)
    if not n.wants(1) and not n.wants(2):
        return (y,)
    mean = n.b.mean(x, axes, keepdims=True)
    variance = n.b.mean(n.b.square(x - mean), axes, keepdims=True)
    return y, mean, n.b.reciprocal(n.b.sqrt(variance + epsilon))


def _rms_norm(n: Call) -> ir.Value:
    x = n.x(0)
    return n.b.rms_norm(x, _last_axes(n, x), n.x(1), n.attributes.number("epsilon", 1e-5))


def _last_axes(n: Call, x: ir.Value) -> tuple[int, ...]:
    return tuple(range(axis_of(n.attributes.integer("axis", -1), x.type.rank), x.type.rank))


def _lp_norm(n: Call) -> ir.Value:
    """x over its norm along an axis; where that is 0, so is the result."""
    x, p = n.x(), n.attributes.integer("p", 2)
    axis = axis_of(n.attributes.integer("axis", -1), x.type.rank)
    if p not in (1, 2):
        raise NodeError(f"attribute p = {p} must be 1 or 2")
    if p == 1:
        norm = n.b.sum(n.b.abs(x), axis, keepdims=True)
    else:
        norm = n.b.sqrt(n.b.sum(n.b.square(x), axis, keepdims=True))
    return n.b.where(norm, x / norm, 0.0)


def _local_response_norm(n: Call) -> ir.Value:
    alpha, beta = n.attributes.number("alpha", 1e-4), n.attributes.number("beta", 0.75)
    size, k = n.attributes.integer("size", 0), n.attributes.number("bias", 1.0)
    return n.b.local_response_norm(n.x(), size, alpha, beta, k)


def _mean_variance_norm(n: Call) -> ir.Value:
    x = n.x()
    axes = n.attributes.integers("axes") or (0, 2, 3)
    centred = x - n.b.mean(x, axes, keepdims=True)
    deviation = n.b.sqrt(n.b.mean(n.b.square(centred), axes, keepdims=True))
    return centred / (deviation + 1e-9)


NORMS: dict[str, Emit] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
    "LRN": _local_response_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
}
