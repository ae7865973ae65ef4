"""Builder methods for moving and summing data."""

from __future__ import annotations

from collections.abc import Sequence

from ir.build.core import Core, PerAxis, Value, from_start, items
from ir.dims import Dim, divide, product
from ir.errors import ShapeError
from ir.ops import shape
from ir.types import TensorType


class MovementMethods(Core):
    """Shapes, axes and sums."""

    def flatten(self, x: Value, name: str | None = None) -> Value:
        """[N, *rest] → [N, product of rest], row-major."""
        batch, rest = self._own(x).shape[:1], x.shape[1:]
        return self.apply(shape.Reshape((*batch, product(rest))), x, name=name)

    def reshape(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """x under another shape; one extent may be -1, it is worked out."""
        extents = _explicit(self._own(x).type, items("reshape: to", to))
        return self.apply(shape.Reshape(extents), x, name=name)

    def transpose(self, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
        """Axis i of the result is axis perm[i] of x."""
        return self.apply(shape.Transpose(items("transpose: perm", perm)), x, name=name)

    def sum(self, x: Value, axes: PerAxis | None = None, name: str | None = None) -> Value:
        """The sum over axes (default: all), which disappear; negative axes count from the end."""
        rank = self._own(x).type.rank
        chosen = range(rank) if axes is None else (axes,) if isinstance(axes, int) else axes
        positive = tuple(from_start(axis, rank) for axis in items("sum: axes", chosen))
        return self.apply(shape.Sum(positive), x, name=name)


def _explicit(x: TensorType, to: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`to` with its -1, if any, replaced by the extent that keeps the size of x."""
    if -1 not in to:
        return to
    rest = product(extent for extent in to if extent != -1)
    extent = None if rest == 0 or to.count(-1) > 1 else divide(x.size, rest)
    if extent is None:
        raise ShapeError(f"reshape: {x} as {to} leaves the -1 undetermined; write the extent")
    return tuple(extent if n == -1 else n for n in to)
