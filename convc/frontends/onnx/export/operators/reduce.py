"""Reductions, running sums, and where extrema are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir
from convc.frontends.onnx.export.call import Call, Emit
from convc.frontends.onnx.export.steps import is_global
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


def _found(kind: str) -> Emit:
    return lambda n: n(kind, n.x, axis=n.op.axis, keepdims=0)


def _cumsum(n: Call[ops.CumSum]) -> str:
    flags = {"exclusive": int(n.op.exclusive), "reverse": int(n.op.reverse)}
    return n("CumSum", n.x, n.integers([n.op.axis], "axis"), **flags)


REDUCTIONS: dict[type[ir.Op], Emit] = {
    ops.Sum: _reduced("ReduceSum"),
    ops.Mean: _mean,
    ops.ReduceMax: _reduced("ReduceMax"),
    ops.ReduceMin: _reduced("ReduceMin"),
    ops.ReduceProd: _reduced("ReduceProd"),
    ops.CumSum: _cumsum,
    ops.ArgMax: _found("ArgMax"),
    ops.ArgMin: _found("ArgMin"),
}
