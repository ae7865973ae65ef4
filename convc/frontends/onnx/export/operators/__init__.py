"""How each op is written. Ops that are missing here are written through their parts, if they are
formulas of others; those of NO_FORM cannot be written."""

from __future__ import annotations

import ir
from convc.frontends.onnx.export.call import Emit
from convc.frontends.onnx.export.operators.conv import CONVOLUTIONS
from convc.frontends.onnx.export.operators.index import INDEXING
from convc.frontends.onnx.export.operators.linear import PRODUCTS
from convc.frontends.onnx.export.operators.movement import MOVEMENTS
from convc.frontends.onnx.export.operators.norm import NORMS
from convc.frontends.onnx.export.operators.pointwise import POINTWISE
from convc.frontends.onnx.export.operators.pool import POOLS
from convc.frontends.onnx.export.operators.reduce import REDUCTIONS
from convc.frontends.onnx.export.operators.resize import RESIZES
from convc.frontends.onnx.export.operators.softmax import SOFTMAX
from ir import ops

OPERATORS: dict[type[ir.Op], Emit] = {
    **CONVOLUTIONS,
    **POOLS,
    **PRODUCTS,
    **NORMS,
    **POINTWISE,
    **SOFTMAX,
    **REDUCTIONS,
    **MOVEMENTS,
    **INDEXING,
    **RESIZES,
}

NO_FORM: dict[type[ir.Op], str] = {
    ops.Fused: "passes make it of several ops",
    ops.Elementwise: "passes make it of several ops",
}
