"""Pooling by norms, by weights, and across channels, from the ops of `ir.ops.pool`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Op, Values, require_floats, require_integer, require_number
from ir.ops.arithmetic import Div, Power, Where
from ir.ops.composite import Composite
from ir.ops.conv import Conv
from ir.ops.functions import Abs, Sqrt, Square
from ir.ops.pointwise import constant
from ir.ops.pool import CASES, AveragePool, Case, PoolAttributes
from ir.ops.reduce import Mean, ReduceMax
from ir.ops.shape import Expand, Reshape, Sum
from ir.ops.window import pad_spatial
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class LpPool(Composite, PoolAttributes):
    """The p-norm of every window, p ≥ 1: x → pooled. Where it is 0 the gradient is 0.

    Goodfellow et al. 2016, section 9.3, for p = 2.
    """

    p: float

    name: ClassVar[str] = "lp_pool"
    formula: ClassVar[str] = "y[n,c,j] = (Σ_m |x[n,c, j·s + m·d - lo]|^p)^(1/p)"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        super().validate()
        require_number(self, "p")
        if not 1 <= self.p < np.inf:
            raise AttributeValueError(f"{self.name}: p = {self.p} must be finite and at least 1")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (self.pooled(types[0]),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        out = self.pooled(TensorType.of(x)).static_shape
        padded = pad_spatial(np.abs(x), self.reach(x.shape[2:], out[2:]))
        total = np.zeros(out, x.dtype)
        for _, cells in self.taps(out[2:]):
            total += padded[cells] ** self.p
        return (np.asarray(total ** (1 / self.p), x.dtype),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        total = AveragePool(*self.geometry, "one")
        if self.p == 1:
            return (b.apply(total, b.apply(Abs(), x)),)
        if self.p == 2:
            return (b.apply(Sqrt(), b.apply(total, b.apply(Square(), x))),)
        powers = b.apply(Power(), b.apply(Abs(), x), constant(b, self.p, x))
        sums = b.apply(total, powers)
        root = b.apply(Where(), sums, sums, constant(b, 1, x))  # the root has no slope at 0
        root = b.apply(Power(), root, constant(b, 1 / self.p, x))
        return (b.apply(Where(), sums, root, constant(b, 0, x)),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        norms = (2, 2, 3, 1, 1.5, 2, 4, 2, 2, 2, 2, 3, 2)
        return tuple(
            Example.of(c.name, cls(*c.geometry, p), c.type("x"))
            for c, p in zip(CASES, norms, strict=True)
        )


@dataclass(frozen=True)
class WeightedPool(Composite, PoolAttributes):
    """The weighted mean of the real cells of every window: x, weights [*window] → pooled.

    Goodfellow et al. 2016, section 9.3: weights that fall with the distance from the centre. The
    weights that meet real cells must not add up to 0.
    """

    name: ClassVar[str] = "weighted_pool"
    formula: ClassVar[str] = "y[n,c,j] = Σ_m u[m]·x[n,c, j·s + m·d - lo] / Σ_m u[m]"
    operands: ClassVar[tuple[str, ...]] = ("x", "weights")

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if tuple(images) == (True, False) else None

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, weights = types
        require_floats(self, x, weights)
        if weights.shape != self.window:
            reason = f"needs one entry for each cell of window {self.window}"
            raise ShapeError(f"{self.name}: weights is {weights}, but {reason}")
        return (self.pooled(x),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, weights = arrays
        out = self.pooled(TensorType.of(x)).static_shape
        reach = self.reach(x.shape[2:], out[2:])
        padded = pad_spatial(x, reach)
        real = pad_spatial(np.ones((1, 1, *x.shape[2:]), x.dtype), reach)
        total, share = np.zeros(out, x.dtype), np.zeros((1, 1, *out[2:]), x.dtype)
        for m, cells in self.taps(out[2:]):
            total += weights[m] * padded[cells]
            share += weights[m] * real[cells]
        return (total / share,)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, weights = operands
        if x.type.size == 0:
            return (b.apply(AveragePool(*self.geometry, "real"), x),)
        channels, *size = x.type.static_from(1)
        out = self.pooled(x.type).static_from(2)
        reach = self.reach(size, out)
        kernel = b.apply(Reshape((1, 1, *self.window)), weights)
        ones = b.apply(Expand((1, 1, *size)), constant(b, 1, x))
        share = b.apply(Conv(self.stride, reach, self.dilation, 1), ones, kernel)
        if channels > 1:
            kernel = b.apply(Expand((channels, 1, *self.window)), kernel)
        total = b.apply(Conv(self.stride, reach, self.dilation, channels), x, kernel)
        return (b.apply(Div(), total, share),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(_weighted(cls, case) for case in CASES if case.name != "gaps")


def _weighted(op: type[WeightedPool], case: Case) -> Example:
    weights = f"f32[{', '.join(map(str, case.window))}]"
    return Example.of(case.name, op(*case.geometry), case.type("x"), weights, positive=True)


def distance_weights(window: Sequence[int], kind: str, width: float = 1.0) -> Array:
    """Weights [*window] that fall with the distance d from the middle of the window.

    "gaussian": exp(-d²/(2·width²)); "inverse": 1/(1 + d/width); "linear": 1 - d/width. Raises
    AttributeValueError where one would not be positive: a window that overhangs the border may
    have no other.
    """
    if not width > 0:
        raise AttributeValueError(f"distance weights: width = {width} must be positive")
    axes = np.meshgrid(*(np.arange(k) - (k - 1) / 2 for k in window), indexing="ij")
    d = np.sqrt(sum(np.square(axis) for axis in axes)) / width
    kinds = {"gaussian": np.exp(-np.square(d) / 2), "inverse": 1 / (1 + d),
             "linear": 1 - d}  # fmt: skip
    if kind not in kinds:
        raise AttributeValueError(f"distance weights: kind = {kind!r} is not one of {[*kinds]}")
    if not np.all(kinds[kind] > 0):
        furthest = f"the corners are {np.max(d) * width:.3g} from the middle"
        hint = f"leaves some cells a weight of 0; {furthest}"
        raise AttributeValueError(f"distance weights: {kind} of width = {width} {hint}")
    return np.asarray(kinds[kind])


@dataclass(frozen=True)
class ChannelPool(Composite):
    """Groups of `size` neighbouring channels reduced to one: [N, C, *S] → [N, C/size, *S].

    `kind`: "max" (maxout, Goodfellow et al. 2016, section 9.3; the first of equal maxima counts),
    "average", or "l2", the norm (complex cells, section 9.10).
    """

    kind: str
    size: int

    name: ClassVar[str] = "channel_pool"
    formula: ClassVar[str] = "y[n,q,a] = reduce_r x[n, q·size + r, a]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_integer(self, "size", self.size, 1)
        if self.kind not in ("max", "average", "l2"):
            hint = "is not max, average or l2"
            raise AttributeValueError(f"{self.name}: kind = {self.kind!r} {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        if x.rank < 2:
            raise ShapeError(f"{self.name}: x is {x}, but must be [N, C, *S]")
        channels = x.shape[1]
        if isinstance(channels, int) and channels % self.size:
            reason = f"{channels} channels are no whole groups of {self.size}"
            raise ShapeError(f"{self.name}: x is {x}; {reason}")
        return (x.with_shape(x.shape[0], channels // self.size, *x.shape[2:]),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        groups = x.reshape(x.shape[0], x.shape[1] // self.size, self.size, *x.shape[2:])
        if self.kind == "max":
            return (groups.max(axis=2),)
        if self.kind == "average":
            return (groups.mean(axis=2),)
        return (np.sqrt(np.square(groups).sum(axis=2)),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        y = self.infer(x.type)[0]
        groups, *spatial = y.static_from(1)
        rows = b.apply(Reshape((x.shape[0], groups, self.size, prod(spatial))), x)
        if self.kind == "l2":
            reduced = b.apply(Sqrt(), b.apply(Sum((2,)), b.apply(Square(), rows)))
        else:
            reduced = b.apply(ReduceMax((2,)) if self.kind == "max" else Mean((2,)), rows)
        return (b.apply(Reshape(y.shape), reduced),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("maxout", cls("max", 2), "f32[2, 6, 3, 4]"),
            Example.of("of three", cls("max", 3), "f32[1, 51, 5]"),
            Example.of("complex cells", cls("l2", 2), "f32[1, 40, 3, 3]"),
            Example.of("average", cls("average", 5), "f32[3, 5, 2, 1, 3]"),
            Example.of("vectors", cls("max", 4), "f32[3, 20]"),
            Example.of("no positions", cls("max", 2), "f32[2, 4, 0]"),
            Example.of("alone", cls("l2", 1), "f32[1, 3, 2]"),
            Example.of("batch 0", cls("average", 2), "f32[0, 4, 3]"),
        )
