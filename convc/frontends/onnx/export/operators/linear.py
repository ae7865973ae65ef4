"""Products of matrices."""

from __future__ import annotations

import ir
from convc.frontends.onnx.export.call import Call, Emit
from ir import ops


def _dense(n: Call[ops.Dense]) -> str:
    flags = {"transA": int(n.op.transpose_x), "transB": int(n.op.transpose_w)}
    return n("Gemm", *n.operands, **flags)


def _matmul(n: Call[ops.MatMul]) -> str:
    turned = []
    flags = n.op.transpose_x, n.op.transpose_w
    for value, type, swap in zip(n.operands, n.types, flags, strict=True):
        last = type.rank - 1
        perm = (*range(last - 1), last, last - 1)
        turned.append(n("Transpose", value, perm=perm) if swap else value)
    return n("MatMul", *turned)


PRODUCTS: dict[type[ir.Op], Emit] = {ops.Dense: _dense, ops.MatMul: _matmul}
