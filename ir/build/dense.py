"""Builder methods for products of matrices."""

from __future__ import annotations

from ir.build.core import Core, Value
from ir.dims import product
from ir.errors import ShapeError
from ir.ops import dense, functions, pointwise, shape


class DenseMethods(Core):
    """Dense layers and products."""

    def dense(
        self,
        x: Value,
        w: Value,
        b: Value | None = None,
        mask: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """x [N, P] @ w [P, Q], plus b [Q] if given → [N, Q].

        With a `mask` [P, Q] of zeros and ones, w counts only where that is one; the mask is given,
        no gradient changes it.
        """
        if mask is not None:
            if self._own(mask).shape != self._own(w).shape:
                given = f"%{w.name} is {w.type}, %{mask.name} is {mask.type}"
                raise ShapeError(f"dense: {given}; mask needs one entry for each weight")
            w = self.apply(pointwise.Mul(), w, self.apply(functions.StopGradient(), mask))
        if b is None:
            return self.apply(dense.Dense(), x, w, name=name)
        return self.apply(pointwise.Bias(), self.apply(dense.Dense(), x, w), b, name=name)

    def matmul(
        self,
        a: Value,
        b: Value,
        transpose_a: bool = False,
        transpose_b: bool = False,
        name: str | None = None,
    ) -> Value:
        """a [*B, M, P] @ b [*B, P, Q] → [*B, M, Q], the axes in front broadcast as in numpy.

        `transpose_a` and `transpose_b` swap the last two axes first.
        """
        flags = transpose_a, transpose_b
        if self._own(a).type.rank == self._own(b).type.rank == 2:
            return self.apply(dense.Dense(*flags), a, b, name=name)
        if b.type.rank != 2 or a.type.rank < 3 or transpose_a:
            return self.apply(dense.MatMul(*flags), a, b, name=name)
        rows = self.apply(shape.Reshape((product(a.shape[:-1]), a.shape[-1])), a)
        y = self.apply(dense.Dense(*flags), rows, b)  # many matrices by one: rows of a larger one
        return self.apply(shape.Reshape((*a.shape[:-1], y.shape[1])), y, name=name)
