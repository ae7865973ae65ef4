"""Builder methods for elementwise ops."""

from __future__ import annotations

from ir.build.core import Core, Value
from ir.ops import pointwise


class ElementwiseMethods(Core):
    """Functions of matching elements."""

    def bias(self, x: Value, b: Value, name: str | None = None) -> Value:
        """x [N, C, *S] plus b [C]."""
        return self.apply(pointwise.Bias(), x, b, name=name)

    def relu(self, x: Value, name: str | None = None) -> Value:
        """max(x, 0)."""
        return self.apply(pointwise.Relu(), x, name=name)

    def add(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a + b, broadcast as in numpy."""
        return self.apply(pointwise.Add(), a, b, name=name)

    def sub(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a - b, broadcast as in numpy."""
        return self.apply(pointwise.Sub(), a, b, name=name)

    def mul(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a · b, broadcast as in numpy."""
        return self.apply(pointwise.Mul(), a, b, name=name)

    def scale(self, x: Value, factor: float, name: str | None = None) -> Value:
        """x times a constant."""
        return self.apply(pointwise.Scale(factor), x, name=name)
