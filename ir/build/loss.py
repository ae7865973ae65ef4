"""Builder methods for softmax and losses."""

from __future__ import annotations

from ir.build.core import Core, Value, from_start
from ir.errors import ShapeError
from ir.ops import loss
from ir.ops.activations import Softplus
from ir.ops.pointwise import Relu
from ir.ops.shape import Sum


class LossMethods(Core):
    """Softmax and losses."""

    def softmax(self, x: Value, axis: int = 1, name: str | None = None) -> Value:
        """Exponentials that sum to 1 along an axis."""
        positive = from_start(axis, self._own(x).type.rank)
        return self.apply(loss.Softmax(positive), x, name=name)

    def log_softmax(self, x: Value, axis: int = 1, name: str | None = None) -> Value:
        """The logarithm of `softmax`, without overflow."""
        positive = from_start(axis, self._own(x).type.rank)
        return self.apply(loss.LogSoftmax(positive), x, name=name)

    def cross_entropy(self, p: Value, labels: Value, name: str | None = None) -> Value:
        """Mean of -log p[label]: p [N, C, *S], labels i64 [N, *S] → []."""
        return self.apply(loss.CrossEntropy(), p, labels, name=name)

    def softmax_cross_entropy(self, logits: Value, labels: Value, name: str | None = None) -> Value:
        """`cross_entropy` of `softmax` along axis 1, without overflow → []."""
        return self.apply(loss.SoftmaxCrossEntropy(), logits, labels, name=name)

    def squared_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of (a - y)² → []."""
        return self.apply(loss.SquaredLoss(), a, y, name=name)

    def hinge_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of max(0, 1 - y·a) → [], for classes y of -1 and 1 and their scores a.

        What a linear support vector machine minimises; y is float, of the shape of a.
        """
        return self._summed(self.apply(Relu(), 1.0 - self._margins("hinge_loss", a, y)), name)

    def logistic_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of log(1 + exp(-y·a)) → [], for classes y of -1 and 1 and their scores a.

        What logistic regression minimises; y is float, of the shape of a.
        """
        margins = self._margins("logistic_loss", a, y)
        return self._summed(self.apply(Softplus(), -margins), name)

    def _margins(self, what: str, a: Value, y: Value) -> Value:
        """How far scores are on the side of their classes."""
        if self._own(a).type != self._own(y).type:
            hint = "they must agree; write the classes as floats -1 and 1"
            raise ShapeError(f"{what}: %{a.name} is {a.type}, %{y.name} is {y.type}; {hint}")
        return y * a

    def _summed(self, value: Value, name: str | None) -> Value:
        return self.apply(Sum(tuple(range(value.type.rank))), value, name=name)
