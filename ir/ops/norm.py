"""Normalisation: what is subtracted and divided by comes from the data, or from running averages.

Variances are those of the data, divided by their number, and take two passes: the mean first.
Scales and shifts that are learned are ops of their own; `Builder` adds them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Op, Values, require_floats, require_integer, require_number
from ir.ops.arithmetic import Power
from ir.ops.composite import Composite
from ir.ops.functions import Reciprocal, Sqrt, Square
from ir.ops.pointwise import Bias, Mul, Shift, constant
from ir.ops.pool import AveragePool
from ir.ops.reduce import Mean, require_elements
from ir.ops.shape import Expand, Reshape, Sum, Transpose, require_axes, require_axes_of
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class Normalization(Composite):
    """What divides by √(something + epsilon)."""

    epsilon: float

    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_number(self, "epsilon")
        if not self.epsilon >= 0:
            raise AttributeValueError(f"{self.name}: epsilon = {self.epsilon} must not be negative")


@dataclass(frozen=True)
class Standardization(Normalization):
    """What subtracts a mean and divides by the standard deviation, both over the same elements."""

    @abstractmethod
    def statistics(self, x: TensorType) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        """The shape under which x is normalised, and over which axes; ShapeError without any."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        self.statistics(x)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        shape, axes = self.statistics(TensorType.of(x))
        groups = x.reshape(TensorType.of(x).with_shape(*shape).static_shape)
        centred = groups - groups.mean(axes, keepdims=True)
        variance = np.square(centred).mean(axes, keepdims=True)
        return ((centred / np.sqrt(variance + x.dtype.type(self.epsilon))).reshape(x.shape),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        shape, axes = self.statistics(x.type)
        groups = _reshaped(b, x, shape)
        centred = groups - _along(b, b.apply(Mean(axes), groups), groups, axes)
        variance = _along(b, b.apply(Mean(axes), b.apply(Square(), centred)), groups, axes)
        y = centred * b.apply(Reciprocal(), b.apply(Sqrt(), variance + self.epsilon))
        return (_reshaped(b, y, x.shape),)


@dataclass(frozen=True)
class LayerNorm(Standardization):
    """x minus its mean over some axes, divided by its standard deviation there.

    Ba, Kiros and Hinton 2016. Over the spatial axes of [N, C, *S] it is instance normalisation
    (Ulyanov, Vedaldi and Lempitsky 2016).
    """

    axes: tuple[int, ...]

    name: ClassVar[str] = "layer_norm"
    formula: ClassVar[str] = "y = (x - mean) / √(variance + epsilon), both over the axes"

    def validate(self) -> None:
        super().validate()
        require_axes(self, self.axes)

    def statistics(self, x: TensorType) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        require_axes_of(self, self.axes, x)
        require_elements(self, self.axes, x)
        return x.shape, self.axes

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("vectors", cls(1e-5, (1,)), "f32[3, 17]"),
            Example.of("images", cls(1e-3, (1, 2, 3)), "f32[2, 3, 5, 4]"),
            Example.of("instances", cls(1e-5, (2, 3)), "f32[1, 20, 3, 5]"),
            Example.of("channels", cls(0.5, (1,)), "f32[2, 5, 3, 3]"),
            Example.of("all", cls(1e-5, (0, 1)), "f32[3, 5]"),
            Example.of("no axis", cls(1.0, ()), "f32[2, 3]"),
            Example.of("batch 0", cls(1e-5, (1, 2)), "f32[0, 3, 4]"),
        )


@dataclass(frozen=True)
class GroupNorm(Standardization):
    """`LayerNorm` of each of `groups` groups of neighbouring channels of x [N, C, *S].

    Wu and He 2018.
    """

    groups: int

    name: ClassVar[str] = "group_norm"
    formula: ClassVar[str] = "y = (x - mean) / √(variance + epsilon), both over a group's channels"

    def validate(self) -> None:
        super().validate()
        require_integer(self, "groups", self.groups, 1)

    def statistics(self, x: TensorType) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        if x.rank < 2:
            raise ShapeError(f"{self.name}: x is {x}, but must be [N, C, *S]")
        channels = x.shape[1]
        if isinstance(channels, int) and channels % self.groups:
            reason = f"its {channels} channels do not make {self.groups} groups"
            raise ShapeError(f"{self.name}: x is {x}; {reason}")
        require_elements(self, tuple(range(1, x.rank)), x)
        members = channels // self.groups * product(x.shape[2:])
        return (x.shape[0], self.groups, members), (2,)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("images", cls(1e-5, 2), "f32[2, 6, 3, 5]"),
            Example.of("one group", cls(1e-5, 1), "f32[1, 17, 4]"),
            Example.of("a group each", cls(1e-3, 5), "f32[3, 5, 2, 2]"),
            Example.of("3-D", cls(1e-5, 4), "f32[1, 20, 2, 1, 3]"),
            Example.of("vectors", cls(0.1, 3), "f32[2, 9]"),
            Example.of("batch 0", cls(1e-5, 2), "f32[0, 4, 3]"),
        )


@dataclass(frozen=True)
class RmsNorm(LayerNorm):
    """x divided by the root of its mean square over some axes. Zhang and Sennrich 2019."""

    name: ClassVar[str] = "rms_norm"
    formula: ClassVar[str] = "y = x / √(mean of x² over the axes + epsilon)"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        square = np.square(x).mean(self.axes, keepdims=True)
        return (x / np.sqrt(square + x.dtype.type(self.epsilon)),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        square = _along(b, b.apply(Mean(self.axes), b.apply(Square(), x)), x, self.axes)
        return (x * b.apply(Reciprocal(), b.apply(Sqrt(), square + self.epsilon)),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("vectors", cls(1e-5, (1,)), "f32[3, 17]"),
            Example.of("channels", cls(1e-3, (1,)), "f32[2, 20, 3, 1]"),
            Example.of("images", cls(1e-5, (1, 2, 3)), "f32[2, 3, 5, 4]"),
            Example.of("one", cls(0.5, (1,)), "f32[2, 1, 3]"),
            Example.of("batch 0", cls(1e-5, (2,)), "f32[0, 3, 4]"),
        )


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """Each channel of x [N, C, *S] normalised by a mean [C] and a variance [C] that are given.

    Ioffe and Szegedy 2015, for inference.
    """

    name: ClassVar[str] = "batch_norm"
    formula: ClassVar[str] = "y[n,c,a] = (x[n,c,a] - mean[c]) / √(variance[c] + epsilon)"
    operands: ClassVar[tuple[str, ...]] = ("x", "mean", "variance")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _require_channels(self, types)
        return (types[0],)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, mean, variance = arrays
        column = (-1, *(1,) * (x.ndim - 2))
        deviation = np.sqrt(variance + x.dtype.type(self.epsilon))
        return ((x - mean.reshape(column)) / deviation.reshape(column),)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, mean, variance = operands
        return (_scaled(b, b.apply(Bias(), x, -mean), variance, self.epsilon),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(1e-5), x, *[f"f32[{channels}]"] * 2, positive=True)
            for name, channels, x in _BATCHES
        )


@dataclass(frozen=True)
class BatchNormTraining(Normalization):
    """Each channel of x [N, C, *S] normalised by its own mean and variance over all examples.

    Also the running mean [C] and variance [C], moved towards those of the batch by `momentum`:
    running + momentum·(batch - running). With `unbiased`, the variance that is moved towards is
    that of the batch times n/(n - 1), for n numbers per channel. Ioffe and Szegedy 2015.
    """

    momentum: float
    unbiased: bool

    name: ClassVar[str] = "batch_norm_training"
    formula: ClassVar[str] = "y = (x - mean) / √(variance + epsilon), both per channel of the batch"
    operands: ClassVar[tuple[str, ...]] = ("x", "mean", "variance")
    results: ClassVar[tuple[str, ...]] = ("y", "new_mean", "new_variance")

    def validate(self) -> None:
        super().validate()
        require_number(self, "momentum")
        if not isinstance(self.unbiased, bool):
            raise AttributeValueError(f"{self.name}: unbiased = {self.unbiased!r} must be a bool")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = _require_channels(self, types)
        count = product((x.shape[0], *x.shape[2:]))
        least = 2 if self.unbiased else 1
        if isinstance(count, int) and count < least:
            hint = f"give at least {least}"
            raise ShapeError(f"{self.name}: x is {x}, with {count} numbers per channel; {hint}")
        return types

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, mean, variance = arrays
        axes = (0, *range(2, x.ndim))
        centre = x.mean(axes, keepdims=True)
        spread = np.square(x - centre).mean(axes, keepdims=True)
        y = (x - centre) / np.sqrt(spread + x.dtype.type(self.epsilon))
        rate, found = x.dtype.type(self.momentum), spread.reshape(-1)
        found = found * x.dtype.type(self.correction(x.shape))
        new_mean = mean + rate * (centre.reshape(-1) - mean)
        return y, new_mean, variance + rate * (found - variance)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, mean, variance = operands
        average = Mean((0, *range(2, x.type.rank)))
        centre = b.apply(average, x)
        centred = b.apply(Bias(), x, -centre)
        spread = b.apply(average, b.apply(Square(), centred))
        y = _scaled(b, centred, spread, self.epsilon)
        found = self._unbiased(b, x, spread) if self.unbiased else spread
        new_mean = mean + (centre - mean) * self.momentum
        return y, new_mean, variance + (found - variance) * self.momentum

    def _unbiased(self, b: Builder, x: Value, variance: Value) -> Value:
        if x.type.is_static:
            return variance * self.correction(x.type.static_shape)
        extents = x.shape[0], *x.shape[2:]
        ones = b.apply(Expand(extents), constant(b, 1, x))
        count = b.apply(Sum(tuple(range(len(extents)))), ones)
        return variance * count / (count - 1)

    def correction(self, shape: Sequence[int]) -> float:
        """What the variance of n numbers is multiplied by for the running one."""
        count = prod((shape[0], *shape[2:]))
        return count / (count - 1) if self.unbiased else 1.0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(1e-3, 0.1, True), x, *[f"f32[{channels}]"] * 2)
            for name, channels, x in _BATCHES
            if "0" not in name
        )


@dataclass(frozen=True)
class LocalResponseNorm(Composite):
    """x [N, C, *S] divided by a power of the squares of `size` neighbouring channels.

    Krizhevsky, Sutskever and Hinton 2012. The window of channel c is c - (size-1)//2 to
    c + size//2, both included: an even one has the odd channel above. Channels that do not exist
    count as zeros.
    """

    size: int
    alpha: float
    beta: float
    k: float

    name: ClassVar[str] = "local_response_norm"
    formula: ClassVar[str] = "y[n,c,a] = x[n,c,a] / (k + alpha/size · Σ_i x[n,i,a]²)^beta"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_integer(self, "size", self.size, 1)
        for attribute in ("alpha", "beta", "k"):
            require_number(self, attribute)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        if x.rank < 2:
            raise ShapeError(f"{self.name}: x is {x}, but must be [N, C, *S]")
        require_elements(self, (1,), x)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        squares = np.zeros_like(x)
        for c in range(x.shape[1]):
            window = slice(max(0, c - (self.size - 1) // 2), c + self.size // 2 + 1)
            squares[:, c] = np.square(x[:, window]).sum(1)
        divisor = np.float_power(self.k + self.alpha / self.size * squares, self.beta)
        return (np.asarray(x / divisor, x.dtype),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        if not x.type.size:  # which no pool takes
            return (x * 1.0,)
        channels, *spatial = x.type.static_from(1)
        rows = _reshaped(b, b.apply(Square(), x), (x.shape[0], channels, prod(spatial)))
        pads = (((self.size - 1) // 2, self.size // 2),)
        total = AveragePool((self.size,), (1,), pads, (1,), "drop", "one")
        turn = Transpose((0, 2, 1))  # for the channels to be an axis to pool over
        sums = b.apply(turn, b.apply(total, b.apply(turn, rows)))
        base = _reshaped(b, sums, x.shape) * (self.alpha / self.size) + self.k
        return (x * b.apply(Power(), base, constant(b, -self.beta, x)),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("images", cls(5, 1.0, 0.75, 2.0), "f32[2, 7, 3, 4]"),
            Example.of("even", cls(4, 0.5, 0.5, 1.0), "f32[1, 20, 5]"),
            Example.of("wider than the channels", cls(9, 2.0, 1.0, 1.0), "f32[3, 3, 2, 2]"),
            Example.of("alone", cls(1, 1.0, 0.75, 1.0), "f32[1, 17, 2, 1, 3]"),
            Example.of("vectors", cls(3, 1e-2, 2.0, 1.0), "f32[3, 5]"),
            Example.of("batch 0", cls(3, 1.0, 0.75, 1.0), "f32[0, 3, 4]"),
        )


class _Batch(NamedTuple):
    name: str
    channels: int
    x: str


_BATCHES = (
    _Batch("images", 3, "f32[2, 3, 5, 4]"),
    _Batch("1-D", 17, "f32[3, 17, 5]"),
    _Batch("3-D", 20, "f32[1, 20, 2, 1, 3]"),
    _Batch("vectors", 5, "f32[7, 5]"),
    _Batch("one channel", 1, "f32[2, 1, 3, 3]"),
    _Batch("batch 0", 3, "f32[0, 3, 4]"),
)


def _require_channels(op: Op, types: Sequence[TensorType]) -> TensorType:
    """The type of x [N, C, *S]; ShapeError unless the other operands are [C]."""
    require_floats(op, *types)
    x = types[0]
    for name, type in zip(op.operand_names()[1:], types[1:], strict=True):
        if x.rank < 2 or type.shape != x.shape[1:2]:
            hint = f"{name} needs one entry per channel"
            raise ShapeError(f"{op.name}: x is {x}, {name} is {type}; {hint}")
    return x


def _reshaped(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    return x if x.shape == tuple(shape) else b.apply(Reshape(tuple(shape)), x)


def _along(b: Builder, reduced: Value, x: Value, axes: Sequence[int]) -> Value:
    """A reduction of x over axes with these axes back again, of extent 1."""
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    return _reshaped(b, reduced, kept)


def _scaled(b: Builder, x: Value, variance: Value, epsilon: float) -> Value:
    """Each channel of x over √(variance + epsilon)."""
    factor = b.apply(Reciprocal(), b.apply(Sqrt(), b.apply(Shift(epsilon), variance)))
    column = (*variance.shape, *(1,) * (x.type.rank - 2))
    return b.apply(Mul(), x, _reshaped(b, factor, column))
