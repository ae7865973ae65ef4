"""Builder methods for products of matrices."""

from __future__ import annotations

from ir.build.core import Core, Value
from ir.ops import dense, pointwise


class DenseMethods(Core):
    """Dense layers."""

    def dense(self, x: Value, w: Value, b: Value | None = None, name: str | None = None) -> Value:
        """x [N, P] @ w [P, Q], plus b [Q] if given → [N, Q]."""
        if b is None:
            return self.apply(dense.Dense(), x, w, name=name)
        return self.apply(pointwise.Bias(), self.apply(dense.Dense(), x, w), b, name=name)
