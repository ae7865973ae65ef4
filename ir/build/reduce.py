"""Builder methods for reductions over axes, and running sums."""

from __future__ import annotations

from ir.build.core import Core, PerAxis, Value, from_start, items
from ir.ops import index, reduce, scan, shape


class ReduceMethods(Core):
    """Reductions. Negative axes count from the end; with `keepdims` they stay, of extent 1."""

    def sum(
        self, x: Value, axes: PerAxis | None = None, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """The sum over axes (default: all)."""
        return self._reduced(shape.Sum(self._chosen("sum", x, axes)), x, keepdims, name)

    def mean(
        self, x: Value, axes: PerAxis | None = None, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """The mean over axes (default: all)."""
        return self._reduced(reduce.Mean(self._chosen("mean", x, axes)), x, keepdims, name)

    def max(
        self, x: Value, axes: PerAxis | None = None, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """The largest over axes (default: all); its gradient goes to the first that is largest."""
        return self._reduced(reduce.ReduceMax(self._chosen("max", x, axes)), x, keepdims, name)

    def min(
        self, x: Value, axes: PerAxis | None = None, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """The smallest over axes (default: all); its gradient goes to the first that is."""
        return self._reduced(reduce.ReduceMin(self._chosen("min", x, axes)), x, keepdims, name)

    def prod(
        self, x: Value, axes: PerAxis | None = None, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """The product over axes (default: all)."""
        return self._reduced(reduce.ReduceProd(self._chosen("prod", x, axes)), x, keepdims, name)

    def argmax(
        self, x: Value, axis: int = 1, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """Where x is largest along an axis, as i64: the first such position."""
        (chosen,) = self._chosen("argmax", x, axis)
        return self._reduced(index.ArgMax(chosen), x, keepdims, name)

    def argmin(
        self, x: Value, axis: int = 1, keepdims: bool = False, name: str | None = None
    ) -> Value:
        """Where x is smallest along an axis, as i64: the first such position."""
        (chosen,) = self._chosen("argmin", x, axis)
        return self._reduced(index.ArgMin(chosen), x, keepdims, name)

    def cumsum(
        self,
        x: Value,
        axis: int = 1,
        exclusive: bool = False,
        reverse: bool = False,
        name: str | None = None,
    ) -> Value:
        """The sums of x up to each element along an axis.

        `exclusive` leaves the element itself out; `reverse` sums from the end.
        """
        (chosen,) = self._chosen("cumsum", x, axis)
        return self.apply(scan.CumSum(chosen, exclusive, reverse), x, name=name)

    def _chosen(self, what: str, x: Value, axes: PerAxis | None) -> tuple[int, ...]:
        """Axes to reduce, counted from the start."""
        return axes_of(what, axes, self._own(x).type.rank)

    def _reduced(
        self, op: shape.Reduction | index.Finding, x: Value, keepdims: bool, name: str | None
    ) -> Value:
        y = self.apply(op, x, name=None if keepdims else name)
        if not keepdims:
            return y
        gone = op.axes if isinstance(op, shape.Reduction) else (op.axis,)
        kept = tuple(1 if axis in gone else n for axis, n in enumerate(x.shape))
        return self.apply(shape.Reshape(kept), y, name=name)


def axes_of(what: str, axes: PerAxis | None, rank: int) -> tuple[int, ...]:
    """One axis, some, or all (None) of so many, counted from the start."""
    chosen = range(rank) if axes is None else (axes,) if isinstance(axes, int) else axes
    return tuple(from_start(axis, rank) for axis in items(f"{what}: axes", chosen))
