"""Images of another size, by their nearest cells or by linear interpolation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Values, require_extents, require_floats, require_integer, require_tuple
from ir.ops.composite import Composite
from ir.ops.index import Take
from ir.ops.pointwise import Mul
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value

HALF = Fraction(1, 2)
ROUNDINGS = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_floor": lambda place: ceil(place - HALF),
    "round_prefer_ceil": lambda place: floor(place + HALF),
}
COORDINATES = ("half_pixel", "align_corners", "asymmetric")


class Tap(NamedTuple):
    """One cell that each result is made of: where it is and what it counts."""

    cell: np.ndarray[tuple[int], np.dtype[np.int64]]
    weight: np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Resize(Composite):
    """x [N, C, *S] with the spatial extents `size`, or ⌊S·p/q⌋ for the pairs (p, q) of `factors`.

    One of the two is (). Cell i of an axis of m, made from n, lies in x at, with p/q = m/n where
    `size` is given: `coordinates` "half_pixel": (i + ½)·q/p - ½; "asymmetric": i·q/p;
    "align_corners": i·(n - 1)/(m - 1). `mode` "nearest" takes the cell there, after `rounding`
    ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"); "linear" weights the two around it
    on each axis. What lies outside is the cell at the edge. The terms are those of ONNX.
    """

    size: tuple[Dim, ...]
    factors: tuple[tuple[int, int], ...]
    mode: str
    coordinates: str
    rounding: str

    name: ClassVar[str] = "resize"
    formula: ClassVar[str] = "y[n,c,i] = x[n,c,place(i)], rounded or interpolated"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        for attribute, legal in (("mode", ("nearest", "linear")), ("coordinates", COORDINATES),
                                 ("rounding", tuple(ROUNDINGS))):  # fmt: skip
            value = getattr(self, attribute)
            if value not in legal:
                hint = f"is not one of {', '.join(legal)}"
                raise AttributeValueError(f"{self.name}: {attribute} = {value!r} {hint}")
        require_extents(self, "size", self.size)
        for factor in require_tuple(self, "factors", self.factors):
            if not isinstance(factor, tuple) or len(factor) != 2:
                reason = "must hold pairs of whole numbers"
                raise AttributeValueError(f"{self.name}: factors = {self.factors} {reason}")
            for number in factor:
                require_integer(self, "factors", number, 1)
        if bool(self.size) == bool(self.factors):
            given = f"size = {self.size}, factors = {self.factors}"
            raise AttributeValueError(f"{self.name}: {given}; give one of them")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        if x.rank != len(self.size or self.factors) + 2:
            given = self.size or self.factors
            wanted = f"[N, C, *S] with a spatial axis for each entry of {given}"
            raise ShapeError(f"{self.name}: x is {x}, but must be {wanted}")
        pairs = zip(x.shape[2:], self.factors, strict=False)
        size = self.size or tuple(n * p // q for n, (p, q) in pairs)
        for n, m in zip(x.shape[2:], size, strict=True):
            if 0 in (n, m):
                raise ShapeError(
                    f"{self.name}: {n} cells of {x} to {m}; there must be one at least"
                )
        return (x.with_shape(*x.shape[:2], *size),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (y,) = arrays
        for axis, taps in self.taps(TensorType.of(y)):
            column = (-1, *(1,) * (y.ndim - 1 - axis))
            parts = [np.take(y, index, axis) * weight.astype(y.dtype).reshape(column)
                     for index, weight in taps]  # fmt: skip
            y = sum(parts[1:], parts[0])
        return (y,)

    def taps(self, x: TensorType) -> Iterator[tuple[int, tuple[Tap, ...]]]:
        """For each axis that changes, the cells that the result is made of."""
        out = self.infer(x)[0].static_from(2)
        for axis, (n, m) in enumerate(zip(x.static_from(2), out, strict=True)):
            taps = self._linear(axis, n, m) if self.mode == "linear" else self._nearest(axis, n, m)
            kept = n == m and np.array_equal(taps[0].cell, np.arange(n))
            if not (kept and np.all(taps[0].weight == 1)):
                yield axis + 2, taps

    def _nearest(self, axis: int, n: int, m: int) -> tuple[Tap, ...]:
        near = [ROUNDINGS[self.rounding](place) for place in self._places(axis, n, m)]
        return (Tap(np.clip(np.array(near, np.int64), 0, n - 1), np.ones(m)),)

    def _linear(self, axis: int, n: int, m: int) -> tuple[Tap, ...]:
        places = [
            min(max(place, Fraction(0)), Fraction(n - 1)) for place in self._places(axis, n, m)
        ]
        low = np.array([floor(place) for place in places], np.int64)
        high = np.minimum(low + 1, n - 1)
        share = np.array([float(place - floor(place)) for place in places])
        if not share.any():
            return (Tap(low, np.ones(m)),)
        return Tap(low, 1 - share), Tap(high, share)

    def _places(self, axis: int, n: int, m: int) -> list[Fraction]:
        """Where in x the cells of the result lie, exactly."""
        if self.coordinates == "align_corners":
            return [Fraction(i * (n - 1), max(1, m - 1)) for i in range(m)]
        ratio = Fraction(n, m) if self.size else 1 / Fraction(*self.factors[axis])
        if self.coordinates == "asymmetric":
            return [i * ratio for i in range(m)]
        return [(i + HALF) * ratio - HALF for i in range(m)]

    def expand(self, b: Builder, operands: Values) -> Values:
        (y,) = operands
        factors = [1] * (y.type.rank - 2)
        for axis, (near, *far) in self.taps(y.type):
            times, rest = divmod(len(near.cell), y.type.static_from(2)[axis - 2])
            repeats = np.arange(len(near.cell)) // max(1, times)
            if not far and not rest and np.array_equal(near.cell, repeats):
                factors[axis - 2] = times
            else:
                y = _interpolated(b, y, axis, (near, *far))
        return (y if max(factors) == 1 else b.expand_blocks(y, factors),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        def case(name: str, x: str, size: Sequence[int], factors: Sequence[tuple[int, int]],
                 *rest: str) -> Example:  # fmt: skip
            return Example.of(name, cls(tuple(size), tuple(factors), *rest), x)

        up, near = "round_prefer_floor", ("asymmetric", "floor")
        return (
            case("doubled", "f32[1, 20, 3, 5]", (), ((2, 1), (2, 1)), "nearest", *near),
            case("linear", "f32[2, 3, 4, 5]", (), ((2, 1), (3, 2)), "linear", "half_pixel", up),
            case("corners", "f32[1, 17, 3, 4]", (5, 7), (), "linear", "align_corners", up),
            case("smaller", "f32[1, 5, 7, 9]", (3, 4), (), "linear", "asymmetric", up),
            case("nearest", "f32[3, 2, 5, 7]", (7, 3), (), "nearest", "half_pixel", up),
            case("up", "f32[1, 2, 5]", (8,), (), "nearest", "align_corners", "round_prefer_ceil"),
            case("one cell", "f32[1, 3, 1, 4]", (3, 1), (), "linear", "align_corners", up),
            case("same", "f32[2, 3, 4]", (4,), (), "linear", "half_pixel", up),
            case("3-D", "f32[1, 2, 2, 3, 2]", (), ((3, 1), (1, 1), (1, 2)), "nearest",
                 "half_pixel", "ceil"),
            case("batch 0", "f32[0, 3, 4]", (6,), (), "linear", "half_pixel", up),
        )  # fmt: skip


def _interpolated(b: Builder, x: Value, axis: int, taps: Sequence[Tap]) -> Value:
    """The weighted sum of the cells that the taps name along an axis."""
    cells = [b.apply(Take(axis), x, b.weight(b.fresh("cells"), tap.cell)) for tap in taps]
    if len(taps) == 1:
        return cells[0]
    column = (-1, *(1,) * (x.type.rank - 1 - axis))
    shares = [b.weight(b.fresh("share"), tap.weight.astype(x.dtype.numpy).reshape(column))
              for tap in taps]  # fmt: skip
    low, high = (b.apply(Mul(), *pair) for pair in zip(cells, shares, strict=True))
    return low + high
