"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Result, axis_of
from convc.frontends.onnx.operators.elementwise import floats

Axes: TypeAlias = tuple[int, ...]
Reduce: TypeAlias = Callable[[ir.Builder, ir.Value, Axes, bool], ir.Value]


def _reduction(reduce: Reduce, nothing: float | None = None) -> Emit:
    """A reduction; `nothing` is what it makes of no elements, where the op takes none."""

    def emit(n: Call) -> Result:
        rank = len(n.shape())
        otherwise = () if n.attributes.flag("noop_with_empty_axes") else tuple(range(rank))
        gone = tuple(axis_of(axis, rank) for axis in n.axes() or otherwise)
        keep = n.attributes.flag("keepdims", True)
        (x,), whole = floats(n, [n.x()])
        if nothing is not None and any(x.shape[axis] == 0 for axis in gone):
            left = [1 if i in gone else m for i, m in enumerate(x.shape) if keep or i not in gone]
            value = n.b.weight(n.b.fresh("nothing"), np.asarray(nothing, x.dtype.numpy))
            return n.b.expand(value, left)
        y = reduce(n.b, x, gone, keep)
        return n.b.cast(y, "i64") if whole else y

    return emit


def _log_sum_exp(b: ir.Builder, x: ir.Value, axes: Axes, keep: bool) -> ir.Value:
    """Exponents are taken of differences from the largest, so that they do not overflow."""
    largest = np.finfo(x.dtype.numpy).max
    top = b.clip(b.max(x, axes, keepdims=True), -float(largest), float(largest))
    total = b.log(b.sum(b.exp(x - top), axes, keepdims=True)) + top
    gone = [n for axis, n in enumerate(total.shape) if axis not in axes]
    return total if keep else b.reshape(total, gone)


def _found(find: Callable[[ir.Builder, ir.Value, int, bool], ir.Value]) -> Emit:
    """The position of an element along an axis: the first such one, or the last."""

    def emit(n: Call) -> ir.Value:
        (x,), _ = floats(n, [n.x()])
        axis = axis_of(n.attributes.integer("axis", 0), x.type.rank)
        keep = n.attributes.flag("keepdims", True)
        if not n.attributes.flag("select_last_index"):
            return find(n.b, x, axis, keep)
        place = n.b.cast(find(n.b, n.b.reverse(x, axis), axis, keep), "f64")
        return n.b.cast(place * -1.0 + (n.sizes()[axis] - 1), "i64")

    return emit


def _running_sum(n: Call) -> Result:
    """The sums up to each element along an axis."""
    (x,), whole = floats(n, [n.x()])
    (axis,) = n.integers(1, "the axis")
    flags = n.attributes.flag("exclusive"), n.attributes.flag("reverse")
    y = n.b.cumsum(x, axis_of(axis, x.type.rank), *flags)
    return n.b.cast(y, "i64") if whole else y


REDUCTIONS: dict[str, Emit] = {
    "CumSum": _running_sum,
    "ReduceSum": _reduction(lambda b, x, axes, keep: b.sum(x, axes, keep)),
    "ReduceMean": _reduction(lambda b, x, axes, keep: b.mean(x, axes, keep), math.nan),
    "ReduceMax": _reduction(lambda b, x, axes, keep: b.max(x, axes, keep), -math.inf),
    "ReduceMin": _reduction(lambda b, x, axes, keep: b.min(x, axes, keep), math.inf),
    "ReduceProd": _reduction(lambda b, x, axes, keep: b.prod(x, axes, keep)),
    "ReduceL1": _reduction(lambda b, x, axes, keep: b.sum(b.abs(x), axes, keep)),
    "ReduceL2": _reduction(lambda b, x, axes, keep: b.sqrt(b.sum(b.square(x), axes, keep))),
    "ReduceSumSquare": _reduction(lambda b, x, axes, keep: b.sum(b.square(x), axes, keep)),
    "ReduceLogSum": _reduction(lambda b, x, axes, keep: b.log(b.sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(_log_sum_exp, -math.inf),
    "ArgMax": _found(lambda b, x, axis, keep: b.argmax(x, axis, keep)),
    "ArgMin": _found(lambda b, x, axis, keep: b.argmin(x, axis, keep)),
}
