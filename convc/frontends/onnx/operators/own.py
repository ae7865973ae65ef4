"""Functions that the exporter writes, read as the ops that they stand for."""

from __future__ import annotations

import ir
from convc.frontends.onnx.call import Call, Emit
from convc.frontends.onnx.names import OWN
from convc.frontends.onnx.tensors import FLOAT, value_type


def _uniform(n: Call) -> ir.Value:
    dtype = value_type(n.attributes.integer("dtype", FLOAT))
    return n.b.uniform(n.extents(1, "the shape"), n.x(0), dtype)


OWN_FUNCTIONS: dict[str, Emit] = {f"{OWN}.Uniform": _uniform}
