"""Products of matrices."""

from __future__ import annotations

import ir
from convc.frontends.onnx.call import Call, Emit


def _gemm(n: Call) -> ir.Value:
    """alpha·op(A)·op(B) + beta·C, where C is broadcast."""
    flags = n.attributes.flag("transA"), n.attributes.flag("transB")
    alpha, beta = n.attributes.number("alpha", 1.0), n.attributes.number("beta", 1.0)
    y = n.b.matmul(n.x(0), n.x(1), *flags)
    y = y if alpha == 1 else y * alpha
    if not n.has(2) or beta == 0:
        return y
    c = n.x(2)
    c = c if beta == 1 else c * beta
    return n.b.bias(y, c) if c.shape == y.shape[1:] else n.b.add(y, c)


def _matmul(n: Call) -> ir.Value:
    """A product as in numpy: a vector is a row on the left, a column on the right."""
    a, b = n.x(0), n.x(1)
    row, column = a.type.rank == 1, b.type.rank == 1
    left = n.b.reshape(a, (1, *a.shape)) if row else a
    right = n.b.reshape(b, (*b.shape, 1)) if column else b
    y = n.b.matmul(left, right)
    shape = list(y.shape)
    if column:
        shape.pop()
    if row:
        shape.pop(-1 if column else -2)
    return n.b.reshape(y, shape) if row or column else y


PRODUCTS: dict[str, Emit] = {"Gemm": _gemm, "MatMul": _matmul}
