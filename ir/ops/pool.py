"""Pooling over windows of real cells: padding cells are absent, they never take part.

Goodfellow et al. 2016, section 9.3. Shapes: x [N, C, *S], pooled values [N, C, *out]. A window
starts at j·stride - lo; `edge` says whether windows that overhang the end count ("partial") or
not ("drop"); cells of a window are `dilation` apart. Equal maxima: the first in row-major window
order is the maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_extents, require_floats
from ir.ops.window import Pads, crop_spatial, pad_spatial, pooled_size, require_geometry, taps
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


Geometry: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...], Pads, tuple[int, ...], str]"


@dataclass(frozen=True)
class PoolAttributes(Op):
    """What the pooling ops share, one entry per spatial axis; 0 ≤ pads < extent of the window."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    edge: str

    def validate(self) -> None:
        others = {"window": self.window, "dilation": self.dilation}
        require_geometry(self, self.stride, self.pads, **others)
        if self.edge not in ("drop", "partial"):
            raise AttributeValueError(f"{self.name}: edge = {self.edge!r} is not drop or partial")
        for extent, pair in zip(self.extents, self.pads, strict=True):
            if not all(0 <= pad < extent for pad in pair):
                hint = f"use 0 to {extent - 1}, so that no window is empty"
                given = f"pads {pair} for a window of {extent}"
                raise AttributeValueError(f"{self.name}: {given}; {hint}")

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if all(images) else None

    @property
    def extents(self) -> tuple[int, ...]:
        """How far the windows reach: their cells and the gaps between those."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def geometry(self) -> Geometry:
        """The shared attributes, in the order of the constructors."""
        return self.window, self.stride, self.pads, self.dilation, self.edge

    def pooled(self, x: TensorType) -> TensorType:
        """The type of the pooled values of x; ShapeError when x cannot be pooled."""
        require_floats(self, *[x] * len(self.operands))
        if x.rank != len(self.window) + 2:
            wanted = f"[N, C, *S], with as many spatial axes as window {self.window}"
            raise ShapeError(f"{self.name}: x is {x}, but must be {wanted}")
        axes = zip(x.shape[2:], self.extents, self.stride, self.pads, strict=True)
        out = [pooled_size(n, k, s, lo, hi, self.edge) for n, k, s, (lo, hi) in axes]
        for axis, (n, count) in enumerate(zip(x.shape[2:], out, strict=True)):
            if isinstance(n, int) and isinstance(count, int) and n < self.dilation[axis]:
                self._require_cells(axis, n, count)
        return x.with_shape(*x.shape[:2], *out)

    def _require_cells(self, axis: int, n: int, count: int) -> None:
        """ShapeError where a window steps over an axis that is shorter than its gaps."""
        starts = np.arange(count)[:, None] * self.stride[axis] - self.pads[axis][0]
        cells = starts + np.arange(self.window[axis]) * self.dilation[axis]
        if not np.all(np.any((cells >= 0) & (cells < n), axis=1)):
            reason = f"dilation {self.dilation[axis]} leaves a window without cells on an axis of"
            raise ShapeError(f"{self.name}: {reason} {n}; pad less or dilate less")

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        """One per cell of every window."""
        return self.pooled_operand(inputs, outputs).size * product(self.window)

    def pooled_operand(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> TensorType:
        """The operand or result that has one element per window."""
        return outputs[0]

    def reach(self, size: Sequence[int], out: Sequence[int]) -> Pads:
        """The pads that make an axis end exactly where its last window does."""
        axes = zip(size, out, self.extents, self.stride, self.pads, strict=True)
        return tuple((lo, (o - 1) * s + k - lo - n) for n, o, k, s, (lo, _) in axes)

    def taps(self, out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Window offsets and the cells they meet; see `window.taps`."""
        return taps(self.window, out, self.stride, self.dilation)

    def first_maximum(self, x: Array) -> tuple[Array, Array]:
        """The maximum of every window and the number of the tap where it is first; NaN is maximal.

        Both [N, C, *out]; taps are numbered row-major.
        """
        out = self.pooled(TensorType.of(x)).static_shape
        reach = self.reach(x.shape[2:], out[2:])
        padded = pad_spatial(x, reach)
        real = pad_spatial(np.ones((1, 1, *x.shape[2:]), bool), reach)
        best, where = np.zeros(out, x.dtype), np.full(out, -1)
        for number, (_, cells) in enumerate(self.taps(out[2:])):
            value = padded[cells]
            above = (value > best) | (np.isnan(value) & ~np.isnan(best))
            take = real[cells] & ((where < 0) | above)
            best, where = np.where(take, value, best), np.where(take, number, where)
        return best, where


@dataclass(frozen=True)
class MaxPool(PoolAttributes):
    """The maximum of every window: x → pooled. NaN propagates."""

    name: ClassVar[str] = "max_pool"
    formula: ClassVar[str] = "y[n,c,j] = max_m x[n,c, j·s + m·d - lo]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        return (self.pooled(x),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (self.first_maximum(x)[0],)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(MaxPoolGrad(*self.geometry), inputs[0], upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.geometry), c.type("x")) for c in CASES)


@dataclass(frozen=True)
class MaxPoolGrad(PoolAttributes):
    """Gradient of `MaxPool`: x, g (pooled) → the shape of x, each g at its window's maximum."""

    name: ClassVar[str] = "max_pool_grad"
    formula: ClassVar[str] = "dx[a] = Σ_{j: a is the first maximum of window j} g[j]"
    operands: ClassVar[tuple[str, ...]] = ("x", "g")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, g = types
        _require_pooled(self, self.pooled(x), "g", g)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, g = arrays
        reach = self.reach(x.shape[2:], g.shape[2:])
        _, where = self.first_maximum(x)
        padded = np.zeros_like(pad_spatial(x, reach))
        for number, (_, cells) in enumerate(self.taps(g.shape[2:])):
            padded[cells] += np.where(where == number, g, 0)
        return (crop_spatial(padded, reach, x.shape[2:]),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (None, b.apply(MaxPoolPick(*self.geometry), inputs[0], upstream[0]))

    def pooled_operand(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> TensorType:
        return inputs[-1]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.geometry), c.type("x"), c.type("g")) for c in CASES)


@dataclass(frozen=True)
class MaxPoolPick(PoolAttributes):
    """The adjoint of `MaxPoolGrad` in g: x, d (both the shape of x) → pooled."""

    name: ClassVar[str] = "max_pool_pick"
    formula: ClassVar[str] = "y[j] = d[first maximum of window j of x]"
    operands: ClassVar[tuple[str, ...]] = ("x", "d")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, d = types
        _require_pooled(self, x, "d", d)
        return (self.pooled(x),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, d = arrays
        _, where = self.first_maximum(x)
        padded = pad_spatial(d, self.reach(x.shape[2:], where.shape[2:]))
        picked = np.zeros(where.shape, d.dtype)
        for number, (_, cells) in enumerate(self.taps(where.shape[2:])):
            picked = np.where(where == number, padded[cells], picked)
        return (picked,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (None, b.apply(MaxPoolGrad(*self.geometry), inputs[0], upstream[0]))

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.geometry), c.type("x"), c.type("x")) for c in CASES)


@dataclass(frozen=True)
class Averaging(PoolAttributes):
    """The sum of a window's real cells over its divisor: how many cells are counted.

    "real": those that exist; "padded": those and the padding that `pads` adds, but nothing beyond;
    "one": none, the pooled values are sums.
    """

    divisor: str

    def validate(self) -> None:
        super().validate()
        if self.divisor not in ("real", "padded", "one"):
            hint = "is not real, padded or one"
            raise AttributeValueError(f"{self.name}: divisor = {self.divisor!r} {hint}")

    def divisors(self, size: Sequence[int], out: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """What the sum over each window is divided by, [1, 1, *out]."""
        if self.divisor == "one":
            return np.ones((1, 1, *out), dtype)
        counted = tuple((0, 0) for _ in size) if self.divisor == "real" else self.pads
        sizes = [n + lo + hi for n, (lo, hi) in zip(size, counted, strict=True)]
        inside = zip(self.reach(size, out), counted, strict=True)
        beyond = tuple((lo - low, hi - high) for (lo, hi), (low, high) in inside)
        cells = pad_spatial(np.ones((1, 1, *sizes), dtype), beyond)
        return sum((cells[taken] for _, taken in self.taps(out)), np.zeros((1, 1, *out), dtype))


@dataclass(frozen=True)
class AveragePool(Averaging):
    """The mean of the cells of every window, or their sum: x → pooled."""

    name: ClassVar[str] = "average_pool"
    formula: ClassVar[str] = "y[n,c,j] = Σ_m x[n,c, j·s + m·d - lo] / divisor[j]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        return (self.pooled(x),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        out = self.pooled(TensorType.of(x)).static_shape
        padded = pad_spatial(x, self.reach(x.shape[2:], out[2:]))
        total = np.zeros(out, x.dtype)
        for _, cells in self.taps(out[2:]):
            total += padded[cells]
        return (total / self.divisors(x.shape[2:], out[2:], x.dtype),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        op = AveragePoolGrad(*self.geometry, self.divisor, inputs[0].shape[2:])
        return (b.apply(op, upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.geometry, c.divisor), c.type("x")) for c in CASES)


@dataclass(frozen=True)
class AveragePoolGrad(Averaging):
    """Gradient of `AveragePool`, its adjoint: g (pooled) → [N, C, *size]."""

    size: tuple[Dim, ...]

    name: ClassVar[str] = "average_pool_grad"
    formula: ClassVar[str] = "dx[a] = Σ_{j: a in window j} g[j] / divisor[j]"
    operands: ClassVar[tuple[str, ...]] = ("g",)

    def validate(self) -> None:
        super().validate()
        require_extents(self, "size", self.size)
        if len(self.size) != len(self.window):
            hint = f"{len(self.window)} axes"
            raise AttributeValueError(f"{self.name}: size {self.size} needs {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (g,) = types
        x = g.with_shape(*g.shape[:2], *self.size)
        _require_pooled(self, self.pooled(x), "g", g)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (g,) = arrays
        size = self.infer(TensorType.of(g))[0].static_shape[2:]
        reach = self.reach(size, g.shape[2:])
        padded = pad_spatial(np.zeros((*g.shape[:2], *size), g.dtype), reach)
        share = g / self.divisors(size, g.shape[2:], g.dtype)
        for _, cells in self.taps(g.shape[2:]):
            padded[cells] += share
        return (crop_spatial(padded, reach, size),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(AveragePool(*self.geometry, self.divisor), upstream[0]),)

    def pooled_operand(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> TensorType:
        return inputs[-1]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.geometry, c.divisor, c.size), c.type("g")) for c in CASES
        )


def _require_pooled(op: Op, wanted: TensorType, name: str, given: TensorType) -> None:
    if given != wanted:
        raise ShapeError(f"{op.name}: operand {name} is {given}, the windows ask for {wanted}")


class Case(NamedTuple):
    """One geometry, from which each op makes its example."""

    name: str
    lead: tuple[int, int]
    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    edge: str
    dilation: tuple[int, ...] = ()
    divisor: str = "real"

    @property
    def geometry(self) -> Geometry:
        dilation = self.dilation or (1,) * len(self.window)
        return self.window, self.stride, self.pads, dilation, self.edge

    def type(self, operand: str) -> str:
        """The type of x or of the pooled g as text."""
        x = TensorType.parse(f"f32[{', '.join(map(str, (*self.lead, *self.size)))}]")
        return str(x if operand == "x" else MaxPool(*self.geometry).pooled(x))


_NO = (0, 0)
CASES = (
    Case("halving", (1, 20), (6, 8), (2, 2), (2, 2), (_NO, _NO), "drop"),
    Case("overlapping, remainder", (3, 3), (8, 7), (3, 3), (2, 2), (_NO, _NO), "drop",
         divisor="one"),
    Case("overlapping, partial", (1, 5), (6, 7), (3, 2), (2, 2), (_NO, _NO), "partial"),
    Case("padded", (1, 17), (7, 7), (3, 3), (2, 2), ((1, 1), (0, 1)), "drop", divisor="padded"),
    Case("padded, partial", (1, 3), (5, 6), (3, 4), (3, 3), ((2, 0), (1, 3)), "partial",
         divisor="padded"),
    Case("unit stride, same", (1, 1), (4, 5), (3, 2), (1, 1), ((1, 1), (0, 1)), "drop"),
    Case("gaps", (1, 2), (7, 9), (2, 1), (3, 4), (_NO, _NO), "drop"),
    Case("window beyond input", (1, 2), (2, 1), (4, 3), (2, 2), (_NO, _NO), "partial"),
    Case("global", (3, 16), (5, 4), (5, 4), (1, 1), (_NO, _NO), "drop"),
    Case("batch 0", (0, 2), (4, 4), (2, 2), (2, 2), (_NO, _NO), "drop"),
    Case("1-D, dilated", (2, 3), (9,), (3,), (2,), ((3, 0),), "partial", (2,)),
    Case("dilated", (1, 20), (9, 11), (3, 2), (2, 1), ((2, 2), (1, 2)), "drop", (2, 3), "padded"),
    Case("3-D", (1, 2), (4, 3, 5), (2, 2, 3), (2, 1, 2), (_NO, _NO, (1, 1)), "drop"),
)  # fmt: skip
