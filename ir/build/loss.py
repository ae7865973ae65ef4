"""Builder methods for softmax and losses."""

from __future__ import annotations

from ir.build.core import Core, Value, from_start
from ir.ops import loss


class LossMethods(Core):
    """Softmax and losses."""

    def softmax(self, x: Value, axis: int = 1, name: str | None = None) -> Value:
        """Exponentials that sum to 1 along an axis."""
        positive = from_start(axis, self._own(x).type.rank)
        return self.apply(loss.Softmax(positive), x, name=name)

    def cross_entropy(self, p: Value, labels: Value, name: str | None = None) -> Value:
        """Mean of -log p[label]: p [N, C, *S], labels i64 [N, *S] → []."""
        return self.apply(loss.CrossEntropy(), p, labels, name=name)

    def softmax_cross_entropy(self, logits: Value, labels: Value, name: str | None = None) -> Value:
        """`cross_entropy` of `softmax` along axis 1, without overflow → []."""
        return self.apply(loss.SoftmaxCrossEntropy(), logits, labels, name=name)

    def squared_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of (a - y)² → []."""
        return self.apply(loss.SquaredLoss(), a, y, name=name)
