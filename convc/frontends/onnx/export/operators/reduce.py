"""Reductions, running sums, and where extrema are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir
from convc.frontends.onnx.export.call import Call, Emit
from convc.frontends.onnx.export.steps import is_global
from convc.frontends.onnx.export.writer import NoFormError
from ir import ops


def over(n: Call[Any], kind: str, x: str, axes: Sequence[int], keep: bool = False) -> str:
    """A reduction of x over axes; over none it is x."""
    return n(kind, x, n.integers(axes, "axes"), keepdims=int(keep)) if axes else x


def _reduced(kind: str) -> Emit:
    return lambda n: over(n, kind, n.x, n.op.axes)


def _mean(n: Call[ops.Mean]) -> str:
    if is_global(n.op, len(n.shape)):
        return n("Flatten", n("GlobalAveragePool", n.x))
    return over(n, "ReduceMean", n.x, n.op.axes)


def _gradient(n: Call[ops.CompositeGrad]) -> str:
    """Of a mean: parts cannot count elements that are known at run time."""
    op = n.op.of
    if not isinstance(op, ops.Mean):
        raise NoFormError("it is written through its parts, which depend on sizes")
    each = n("Div", n.operands[1], n.count(n.shape[axis] for axis in op.axes))
    kept = [1 if axis in op.axes else extent for axis, extent in enumerate(n.shape)]
    return n("Expand", n.reshaped(each, n.types[1].shape, kept), n.extents(n.shape))


def _found(kind: str) -> Emit:
    return lambda n: n(kind, n.x, axis=n.op.axis, keepdims=0)


def _cumsum(n: Call[ops.CumSum]) -> str:
    flags = {"exclusive": int(n.op.exclusive), "reverse": int(n.op.reverse)}
    return n("CumSum", n.x, n.integers([n.op.axis], "axis"), **flags)


REDUCTIONS: dict[type[ir.Op], Emit] = {
    ops.Sum: _reduced("ReduceSum"),
    ops.Mean: _mean,
    ops.CompositeGrad: _gradient,
    ops.ReduceMax: _reduced("ReduceMax"),
    ops.ReduceMin: _reduced("ReduceMin"),
    ops.ReduceProd: _reduced("ReduceProd"),
    ops.CumSum: _cumsum,
    ops.ArgMax: _found("ArgMax"),
    ops.ArgMin: _found("ArgMin"),
}
