"""Softmax and losses. Class axis 1: p and logits [N, C, *S], labels i64 [N, *S], losses [].

Cross entropies are means over the positions of labels; over no positions at all they are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim
from ir.errors import DTypeError, InputError, ShapeError
from ir.op import Example, Grads, Op, Values, require_floats, require_integer
from ir.ops.arithmetic import Maximum, Where
from ir.ops.functions import Exp
from ir.ops.pointwise import constant
from ir.ops.shape import Expand, Reshape, Sum
from ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class SoftmaxAttributes(Op):
    """The axis over which probabilities sum to 1."""

    axis: int

    def validate(self) -> None:
        require_integer(self, "axis", self.axis, 0)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        x = types[0]
        if any(type != x for type in types):
            raise ShapeError(f"{self.name}: operands {', '.join(map(str, types))} must agree")
        if self.axis >= x.rank or x.shape[self.axis] == 0:
            raise ShapeError(f"{self.name}: {x} has nothing on axis {self.axis}")
        return (x,)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if all(images) and self.axis != 0 else None

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return outputs[0].size * 4

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("classes", 1, "f32[3, 17]"),
            ("per pixel", 1, "f32[1, 5, 3, 2]"),
            ("last axis", 2, "f32[2, 3, 20]"),
            ("one class", 1, "f32[3, 1]"),
            ("batch 0", 1, "f32[0, 16]"),
        )
        return tuple(
            Example.of(name, cls(axis), *[type] * len(cls.operands)) for name, axis, type in cases
        )


@dataclass(frozen=True)
class Softmax(SoftmaxAttributes):
    """Exponentials that sum to 1 along an axis, without overflow."""

    name: ClassVar[str] = "softmax"
    formula: ClassVar[str] = "y_i = exp(x_i - max x) / Σ_k exp(x_k - max x)"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (_softmax(arrays[0], self.axis),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(SoftmaxGrad(self.axis), outputs[0], upstream[0]),)


@dataclass(frozen=True)
class SoftmaxGrad(SoftmaxAttributes):
    """Gradient of `Softmax` from its result: y, g of one shape → the same shape."""

    name: ClassVar[str] = "softmax_grad"
    formula: ClassVar[str] = "dx_i = y_i·(g_i - Σ_k g_k·y_k)"
    operands: ClassVar[tuple[str, ...]] = ("y", "g")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        y, g = arrays
        return (y * (g - (g * y).sum(axis=self.axis, keepdims=True)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (y, g), (e,) = inputs, upstream
        dy = e * (g - _total(b, g * y, self.axis)) - g * _total(b, e * y, self.axis)
        return dy, b.apply(SoftmaxGrad(self.axis), y, e)


@dataclass(frozen=True)
class LogSoftmax(SoftmaxAttributes):
    """The logarithm of `Softmax`, without overflow."""

    name: ClassVar[str] = "log_softmax"
    formula: ClassVar[str] = "y_i = x_i - max x - log Σ_k exp(x_k - max x)"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        shifted = arrays[0] - arrays[0].max(axis=self.axis, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(axis=self.axis, keepdims=True)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (y,), (g,) = outputs, upstream
        return (g - b.apply(Exp(), y) * _total(b, g, self.axis),)


@dataclass(frozen=True)
class LabelLoss(Op):
    """Operands scores [N, C, *S], labels i64 [N, *S], for a gradient also g []."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        scores, labels, *rest = types
        if not scores.dtype.is_float or any(g.dtype is not scores.dtype for g in rest):
            raise DTypeError(f"{self.name}: operands {scores}, {rest} must be of one float type")
        if labels.dtype is not DType.INT64:
            raise DTypeError(f"{self.name}: labels are {labels}; convert them to i64")
        if scores.rank < 2 or scores.shape[:1] + scores.shape[2:] != labels.shape:
            hint = "labels drop the class axis 1"
            raise ShapeError(f"{self.name}: scores {scores} and labels {labels}; {hint}")
        if any(g.shape for g in rest):
            raise ShapeError(f"{self.name}: the upstream gradient is {rest[0]}, not a scalar")
        return (scores if rest else scores.with_shape(),)

    def index_bound(self, *types: TensorType) -> Dim | None:
        return types[0].shape[1]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return inputs[0].size * 4

    def picked(self, scores: Array, labels: Array) -> Array:
        """The scores of the labels, [N, *S]; InputError for a label outside [0, C)."""
        index = self.index(scores, labels)
        return np.take_along_axis(scores, index, axis=1)[:, 0]

    def index(self, scores: Array, labels: Array) -> Array:
        """Labels with a class axis of 1, checked to be in [0, C)."""
        wrong = np.argwhere((labels < 0) | (labels >= scores.shape[1]))
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            hint = f"labels must be in [0, {scores.shape[1]})"
            raise InputError(f"{self.name}: label {labels[at]} at position {at}; {hint}")
        return np.expand_dims(labels, 1)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("classes", "f32[3, 17]", "i64[3]", 17),
            ("per pixel", "f32[1, 5, 3, 2]", "i64[1, 3, 2]", 5),
            ("1-D", "f32[2, 3, 4]", "i64[2, 4]", 3),
            ("one class", "f32[3, 1]", "i64[3]", 1),
            ("batch 0", "f32[0, 16]", "i64[0]", 16),
        )
        upstream = ["f32[]"] * (len(cls.operands) - 2)
        positive = cls.operands[0] == "p"
        return tuple(
            Example.of(name, cls(), scores, labels, *upstream, high=high, positive=positive)
            for name, scores, labels, high in cases
        )


@dataclass(frozen=True)
class CrossEntropy(LabelLoss):
    """Mean of -log of the probability of the label: p, labels → []."""

    name: ClassVar[str] = "cross_entropy"
    formula: ClassVar[str] = "f = mean over positions of -log p[label]"
    operands: ClassVar[tuple[str, ...]] = ("p", "labels")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        p, labels = arrays
        return (_mean(-np.log(self.picked(p, labels))),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        p, labels = inputs
        return b.apply(CrossEntropyGrad(), p, labels, upstream[0]), None


@dataclass(frozen=True)
class CrossEntropyGrad(LabelLoss):
    """Gradient of `CrossEntropy` in p: p, labels, g [] → the shape of p."""

    name: ClassVar[str] = "cross_entropy_grad"
    formula: ClassVar[str] = "dp[c] = -g / (positions·p[c]) where c is the label, else 0"
    operands: ClassVar[tuple[str, ...]] = ("p", "labels", "g")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        p, labels, g = arrays
        share = -g / (self.picked(p, labels) * p.dtype.type(max(labels.size, 1)))
        dp = np.zeros_like(p)
        np.put_along_axis(dp, np.expand_dims(labels, 1), np.expand_dims(share, 1), axis=1)
        return (dp,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (p, labels, _), (dp,), (e,) = inputs, outputs, upstream
        slope = b.apply(CrossEntropyGrad(), p, labels, constant(b, 1, p))
        divisor = b.apply(Where(), slope, p, constant(b, 1, p))  # elsewhere p may be 0
        return -(e * dp / divisor), None, _inner(b, e, slope)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(LabelLoss):
    """`CrossEntropy` of `Softmax` along axis 1, without overflow: logits, labels → []."""

    name: ClassVar[str] = "softmax_cross_entropy"
    formula: ClassVar[str] = "f = mean over positions of log Σ_k exp x[k] - x[label]"
    operands: ClassVar[tuple[str, ...]] = ("logits", "labels")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        logits, labels = arrays
        shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
        normaliser = np.log(np.exp(shifted).sum(axis=1))
        return (_mean(normaliser - self.picked(shifted, labels)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        logits, labels = inputs
        return b.apply(SoftmaxCrossEntropyGrad(), logits, labels, upstream[0]), None


@dataclass(frozen=True)
class SoftmaxCrossEntropyGrad(LabelLoss):
    """Gradient of `SoftmaxCrossEntropy` in the logits: logits, labels, g [] → their shape."""

    name: ClassVar[str] = "softmax_cross_entropy_grad"
    formula: ClassVar[str] = "dx = (softmax(x) - onehot(label))·g / positions"
    operands: ClassVar[tuple[str, ...]] = ("logits", "labels", "g")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        logits, labels, g = arrays
        onehot = np.zeros_like(logits)
        np.put_along_axis(onehot, self.index(logits, labels), 1, axis=1)
        return ((_softmax(logits, 1) - onehot) * (g / logits.dtype.type(max(labels.size, 1))),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (logits, labels, g), (e,) = inputs, upstream
        one = constant(b, 1, logits)
        slope = b.apply(SoftmaxCrossEntropyGrad(), logits, labels, one)
        ones = b.apply(Expand(labels.shape), one)
        positions = b.apply(Maximum(), _inner(b, ones, ones), one)
        curved = b.apply(SoftmaxGrad(1), b.apply(Softmax(1), logits), e)
        return curved * (g / positions), None, _inner(b, e, slope)


@dataclass(frozen=True)
class SquaredLoss(Op):
    """The sum of squared differences, without ½: a, y of one shape → []."""

    name: ClassVar[str] = "squared_loss"
    formula: ClassVar[str] = "f = Σ (a - y)²"
    operands: ClassVar[tuple[str, ...]] = ("a", "y")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        a, y = types
        require_floats(self, a, y)
        if a != y:
            raise ShapeError(f"{self.name}: a is {a} and y is {y}; they must agree")
        return (a.with_shape(),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        a, y = arrays
        return (np.asarray(np.square(a - y).sum()),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        a, y = inputs
        da = 2.0 * (a - y) * upstream[0]
        return da, -da

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return inputs[0].size * 3

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        shapes = ("f32[3, 5]", "f32[1, 17, 2, 3]", "f32[]", "f32[20]", "f32[0, 3]")
        return tuple(Example.of(shape, cls(), shape, shape) for shape in shapes)


def _total(b: Builder, value: Value, axis: int) -> Value:
    """The sum along an axis, which stays with extent 1."""
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    return b.apply(Reshape(shape), b.apply(Sum((axis,)), value))


def _inner(b: Builder, a: Value, c: Value) -> Value:
    """The sum of the products of all elements."""
    return b.apply(Sum(tuple(range(a.type.rank))), a * c)


def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _mean(values: Array) -> Array:
    return np.asarray(values.sum() / values.dtype.type(max(values.size, 1)))
