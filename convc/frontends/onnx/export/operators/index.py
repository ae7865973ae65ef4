"""Elements that are picked by indices, and put where indices say."""

from __future__ import annotations

import ir
from convc.frontends.onnx.export.call import Call, Emit
from ir import ops


def _take_grad(n: Call[ops.TakeGrad]) -> str:
    g, index = n.operands
    column = [extent if axis == n.op.axis else 1 for axis, extent in enumerate(n.shape)]
    places = n("Expand", n.reshaped(index, n.types[1].shape, column), n.extents(n.shape))
    return n("ScatterElements", n.filled(0.0, n.out), places, g, axis=n.op.axis, reduction="add")


def _take_along_grad(n: Call[ops.TakeAlongGrad]) -> str:
    g, index = n.operands
    return n("ScatterElements", n.filled(0.0, n.out), index, g, axis=n.op.axis, reduction="add")


INDEXING: dict[type[ir.Op], Emit] = {
    ops.Take: lambda n: n("Gather", *n.operands, axis=n.op.axis),
    ops.TakeGrad: _take_grad,
    ops.TakeAlong: lambda n: n("GatherElements", *n.operands, axis=n.op.axis),
    ops.TakeAlongGrad: _take_along_grad,
}
