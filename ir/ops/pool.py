"""Pooling over windows of real cells: padding cells are absent, they never take part.

Goodfellow et al. 2016, section 9.3. Shapes: x [N, C, *S], pooled values [N, C, *out]. A window
starts at j·stride - lo; `edge` says whether windows that overhang the end count ("partial") or
not ("drop"). Equal maxima: the first one in row-major window order is the maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_extents, require_floats
from ir.ops.window import Pads, crop_spatial, pad_spatial, pooled_size, require_geometry, taps
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class PoolAttributes(Op):
    """What the pooling ops share, one entry per spatial axis; 0 ≤ pads < window."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    edge: str

    def validate(self) -> None:
        require_geometry(self, self.stride, self.pads, window=self.window)
        if self.edge not in ("drop", "partial"):
            raise AttributeValueError(f"{self.name}: edge = {self.edge!r} is not drop or partial")
        for k, pair in zip(self.window, self.pads, strict=True):
            if not all(0 <= pad < k for pad in pair):
                hint = f"use 0 to {k - 1}, so that no window is empty"
                raise AttributeValueError(f"{self.name}: pads {pair} for a window of {k}; {hint}")

    @property
    def attributes(self) -> tuple[tuple[int, ...], tuple[int, ...], Pads, str]:
        """The shared attributes, in the order of the constructors."""
        return self.window, self.stride, self.pads, self.edge

    def pooled(self, x: TensorType) -> TensorType:
        """The type of the pooled values of x; ShapeError when x cannot be pooled."""
        require_floats(self, *[x] * len(self.operands))
        if x.rank != len(self.window) + 2:
            wanted = f"[N, C, *S], with as many spatial axes as window {self.window}"
            raise ShapeError(f"{self.name}: x is {x}, but must be {wanted}")
        axes = zip(x.shape[2:], self.window, self.stride, self.pads, strict=True)
        out = [pooled_size(n, k, s, lo, hi, self.edge) for n, k, s, (lo, hi) in axes]
        return x.with_shape(*x.shape[:2], *out)

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
        axes = zip(size, out, self.window, self.stride, self.pads, strict=True)
        return tuple((lo, (o - 1) * s + k - lo - n) for n, o, k, s, (lo, _) in axes)

    def taps(self, out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Window offsets and the cells they meet; see `window.taps`."""
        return taps(self.window, out, self.stride, (1,) * len(self.window))

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
    formula: ClassVar[str] = "y[n,c,j] = max_m x[n,c, j·s + m - lo]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        return (self.pooled(x),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (self.first_maximum(x)[0],)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(MaxPoolGrad(*self.attributes), inputs[0], upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.attributes), c.type("x")) for c in CASES)


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
        return (None, b.apply(MaxPoolPick(*self.attributes), inputs[0], upstream[0]))

    def pooled_operand(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> TensorType:
        return inputs[-1]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.attributes), c.type("x"), c.type("g")) for c in CASES
        )


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
        return (None, b.apply(MaxPoolGrad(*self.attributes), inputs[0], upstream[0]))

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.attributes), c.type("x"), c.type("x")) for c in CASES
        )


@dataclass(frozen=True)
class AveragePool(PoolAttributes):
    """The mean of the real cells of every window: x → pooled."""

    name: ClassVar[str] = "average_pool"
    formula: ClassVar[str] = "y[n,c,j] = Σ_m x[n,c, j·s + m - lo] / (number of real cells)"
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
        return (total / _real_cells(self, x.shape[2:], out[2:], x.dtype),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(AveragePoolGrad(*self.attributes, inputs[0].shape[2:]), upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.attributes), c.type("x")) for c in CASES)


@dataclass(frozen=True)
class AveragePoolGrad(PoolAttributes):
    """Gradient of `AveragePool`, its adjoint: g (pooled) → [N, C, *size]."""

    size: tuple[Dim, ...]

    name: ClassVar[str] = "average_pool_grad"
    formula: ClassVar[str] = "dx[a] = Σ_{j: a in window j} g[j] / (number of real cells)"
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
        share = g / _real_cells(self, size, g.shape[2:], g.dtype)
        for _, cells in self.taps(g.shape[2:]):
            padded[cells] += share
        return (crop_spatial(padded, reach, size),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(AveragePool(*self.attributes), upstream[0]),)

    def pooled_operand(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> TensorType:
        return inputs[-1]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.attributes, c.size), c.type("g")) for c in CASES)


def _require_pooled(op: Op, wanted: TensorType, name: str, given: TensorType) -> None:
    if given != wanted:
        raise ShapeError(f"{op.name}: operand {name} is {given}, the windows ask for {wanted}")


def _real_cells(
    op: PoolAttributes, size: Sequence[int], out: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """How many real cells each window holds, [1, 1, *out]."""
    real = pad_spatial(np.ones((1, 1, *size), dtype), op.reach(size, out))
    return sum((real[cells] for _, cells in op.taps(out)), np.zeros((1, 1, *out), dtype))


class Case(NamedTuple):
    """One geometry, from which each op makes its example."""

    name: str
    lead: tuple[int, int]
    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    edge: str

    @property
    def attributes(self) -> tuple[tuple[int, ...], tuple[int, ...], Pads, str]:
        return self.window, self.stride, self.pads, self.edge

    def type(self, operand: str) -> str:
        """The type of x or of the pooled g as text."""
        x = TensorType.parse(f"f32[{', '.join(map(str, (*self.lead, *self.size)))}]")
        return str(x if operand == "x" else MaxPool(*self.attributes).pooled(x))


_NO = (0, 0)
CASES = (
    Case("halving", (1, 20), (6, 8), (2, 2), (2, 2), (_NO, _NO), "drop"),
    Case("overlapping, remainder", (3, 3), (8, 7), (3, 3), (2, 2), (_NO, _NO), "drop"),
    Case("overlapping, partial", (1, 5), (6, 7), (3, 2), (2, 2), (_NO, _NO), "partial"),
    Case("padded", (1, 17), (7, 7), (3, 3), (2, 2), ((1, 1), (0, 1)), "drop"),
    Case("padded, partial", (1, 3), (5, 6), (3, 4), (3, 3), ((2, 0), (1, 3)), "partial"),
    Case("unit stride, same", (1, 1), (4, 5), (3, 2), (1, 1), ((1, 1), (0, 1)), "drop"),
    Case("gaps", (1, 2), (7, 9), (2, 1), (3, 4), (_NO, _NO), "drop"),
    Case("window beyond input", (1, 2), (2, 1), (4, 3), (2, 2), (_NO, _NO), "partial"),
    Case("global", (3, 16), (5, 4), (5, 4), (1, 1), (_NO, _NO), "drop"),
    Case("batch 0", (0, 2), (4, 4), (2, 2), (2, 2), (_NO, _NO), "drop"),
    Case("1-D", (2, 3), (9,), (3,), (2,), ((1, 0),), "partial"),
    Case("3-D", (1, 2), (4, 3, 5), (2, 2, 3), (2, 1, 2), (_NO, _NO, (1, 1)), "drop"),
)
