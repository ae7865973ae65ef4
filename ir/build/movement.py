"""Builder methods for moving data: shapes, axes, cutting and joining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from ir.build.core import Core, PerAxis, Value, from_start, items, naming
from ir.build.reduce import axes_of
from ir.dims import Dim, divide, product
from ir.errors import AttributeValueError, ShapeError
from ir.ops import index as indices
from ir.ops import movement, shape
from ir.ops.window import per_axis
from ir.types import TensorType, described

Setting = TypeVar("Setting")
Cut = tuple[Dim | None, Dim | None] | tuple[Dim | None, Dim | None, int]


class MovementMethods(Core):
    """Shapes, axes, cutting and joining. Negative axes count from the end."""

    def flatten(self, x: Value, name: str | None = None) -> Value:
        """[N, *rest] → [N, product of rest], row-major."""
        batch, rest = self._own(x).shape[:1], x.shape[1:]
        return self.apply(shape.Reshape((*batch, product(rest))), x, name=name)

    def vec(self, x: Value, name: str | None = None) -> Value:
        """[N, C, *S] → [N, product of the rest], each map column by column, map after map."""
        maps = self._spatial("vec", "x", x, "[N, C, *S]")
        turned = self.apply(shape.Transpose(_columns_first(len(maps))), x)
        return self.flatten(turned, name=name)

    def unvec(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """The inverse of `vec`: [N, C·product of S] → [N, *to], where `to` is (C, *S)."""
        channels, *maps = items("unvec: to", to)
        columns = (*self._own(x).shape[:1], channels, *reversed(maps))
        if x.shape[1:] != (product(columns[1:]),):
            wanted = f"[N, {product(columns[1:])}] for maps of {[*to]}"
            raise ShapeError(f"unvec: %{x.name} is {x.type}, but must be {wanted}")
        turned = self.apply(shape.Reshape(columns), x)
        return self.apply(shape.Transpose(_columns_first(len(maps))), turned, name=name)

    def reshape(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """x under another shape; one extent may be -1, it is worked out."""
        extents = _explicit(self._own(x).type, items("reshape: to", to))
        return self.apply(shape.Reshape(extents), x, name=name)

    def transpose(self, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
        """Axis i of the result is axis perm[i] of x."""
        rank = self._own(x).type.rank
        axes = tuple(from_start(axis, rank) for axis in items("transpose: perm", perm))
        return self.apply(shape.Transpose(axes), x, name=name)

    def expand(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """x broadcast to a shape as in numpy."""
        return self.apply(shape.Expand(items("expand: to", to)), x, name=name)

    def expand_blocks(self, x: Value, factors: PerAxis, name: str | None = None) -> Value:
        """[N, C, *S] → [N, C, *(S·factors)]: every element becomes a block of itself."""
        size = self._spatial("expand_blocks", "x", x, "[N, C, *S]")
        with naming("expand_blocks", x):
            times = per_axis(factors, len(size), "factors")
        pairs = tuple(zip(size, times, strict=True))
        alone = tuple(n for extent in size for n in (extent, 1))
        many = tuple(n for pair in pairs for n in pair)
        split = self.apply(shape.Reshape((*x.shape[:2], *alone)), x)
        repeated = self.apply(shape.Expand((*x.shape[:2], *many)), split)
        whole = (*x.shape[:2], *(n * factor for n, factor in pairs))
        return self.apply(shape.Reshape(whole), repeated, name=name)

    def slice(self, x: Value, cuts: Mapping[int, Cut], name: str | None = None) -> Value:
        """A part of x: for each axis named, (start, stop) or (start, stop, step).

        None stands for the end of the axis; a negative number counts from there. Nothing beyond
        the axis can be asked for.
        """
        extents = self._own(x).shape
        starts: list[Dim] = [0] * len(extents)
        sizes, steps = list(extents), [1] * len(extents)
        chosen = _by_axis("slice: cuts", cuts, len(extents))
        for axis, cut in chosen.items():
            if not isinstance(cut, tuple) or len(cut) not in (2, 3):
                given = f"{cut!r} for axis {axis}"
                raise AttributeValueError(f"slice: {given} must be (start, stop[, step])")
            first, stop, step = cut if len(cut) == 3 else (*cut, 1)
            if not isinstance(step, int) or step < 1:
                hint = "must be at least 1; b.reverse runs an axis backwards"
                raise AttributeValueError(f"slice: step {step!r} of axis {axis} {hint}")
            starts[axis] = 0 if first is None else _bound(first, extents[axis])
            end = extents[axis] if stop is None else _bound(stop, extents[axis])
            sizes[axis] = _at_least_none((end - starts[axis] + (step - 1)) // step)
            steps[axis] = step
        op = movement.Slice(tuple(starts), tuple(sizes), tuple(steps))
        return self.apply(op, x, name=name)

    def downsample(self, x: Value, factors: PerAxis, name: str | None = None) -> Value:
        """Every factor-th element along the spatial axes of x [N, C, *S], from the first on."""
        axes = len(self._spatial("downsample", "x", x, "[N, C, *S]"))
        with naming("downsample", x):
            steps = per_axis(factors, axes, "factors")
        cuts = {2 + axis: (None, None, step) for axis, step in enumerate(steps)}
        return self.slice(x, cuts, name=name)

    def pad(
        self,
        x: Value,
        pads: Mapping[int, int | tuple[Dim, Dim]],
        value: float = 0.0,
        interior: Mapping[int, int] | None = None,
        name: str | None = None,
    ) -> Value:
        """x with `value` around it: for each axis named (lo, hi), or one number for both.

        Negative ones crop. `interior`: for each axis named, how many to put between neighbours.
        """
        rank = self._own(x).type.rank
        pairs: list[tuple[Dim, Dim]] = [(0, 0)] * rank
        for axis, amount in _by_axis("pad: pads", pads, rank).items():
            pairs[axis] = (amount, amount) if isinstance(amount, int) else amount
        gaps = [0] * rank
        for axis, count in _by_axis("pad: interior", interior or {}, rank).items():
            gaps[axis] = count
        return self.apply(movement.Pad(tuple(pairs), tuple(gaps), value), x, name=name)

    def concat(self, values: Sequence[Value], axis: int = 1, name: str | None = None) -> Value:
        """The values one behind the other along an axis."""
        parts = [self._own(value) for value in items("concat: values", values)]
        if not parts:
            raise AttributeValueError("concat: values is empty; give one value at least")
        op = movement.Concat(from_start(axis, parts[0].type.rank), len(parts))
        return self.apply(op, *parts, name=name)

    def split(self, x: Value, sizes: Sequence[Dim], axis: int = 1) -> tuple[Value, ...]:
        """x cut into parts of these sizes along an axis: the inverse of `concat`."""
        stops: list[Dim] = [0]
        for size in items("split: sizes", sizes):
            stops.append(stops[-1] + size)
        at = from_start(axis, self._own(x).type.rank)
        if at in range(x.type.rank) and stops[-1] != x.shape[at]:
            given = f"sizes {tuple(sizes)} add up to {stops[-1]}"
            raise ShapeError(f"split: {given}, axis {axis} of {x.type} has {x.shape[at]}")
        return tuple(self.slice(x, {axis: pair}) for pair in pairwise(stops))

    def reverse(self, x: Value, axes: PerAxis, name: str | None = None) -> Value:
        """x with these axes run backwards."""
        rank = self._own(x).type.rank
        return self.apply(movement.Reverse(axes_of("reverse", axes, rank)), x, name=name)

    def take(self, x: Value, index: Value, axis: int = 0, name: str | None = None) -> Value:
        """The slices of x along an axis that an index i64[K] names, in its order."""
        chosen = from_start(axis, self._own(x).type.rank)
        return self.apply(indices.Take(chosen), x, index, name=name)

    def take_along(self, x: Value, index: Value, axis: int, name: str | None = None) -> Value:
        """For every place of an index, the element of x there along an axis.

        The index has the axes of x, and its extents on all but this one.
        """
        chosen = from_start(axis, self._own(x).type.rank)
        return self.apply(indices.TakeAlong(chosen), x, index, name=name)


def _columns_first(axes: int) -> tuple[int, ...]:
    """The order of [N, C, *S] with the spatial axes the other way round."""
    return (0, 1, *range(axes + 1, 1, -1))


def _by_axis(what: str, given: Mapping[int, Setting], rank: int) -> dict[int, Setting]:
    """Settings by axis counted from the start; ShapeError for an axis that x has not."""
    if not isinstance(given, Mapping):
        raise AttributeValueError(f"{what} must map axes to settings, not {described(given)}")
    for axis in given:
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise ShapeError(f"{what}: there is no axis {axis!r}; x has {rank} axes")
    return {from_start(axis, rank): setting for axis, setting in given.items()}


def _bound(place: Dim, extent: Dim) -> Dim:
    """A position on an axis, negative ones counted from its end."""
    return extent + place if isinstance(place, int) and place < 0 else place


def _at_least_none(size: Dim) -> Dim:
    return max(size, 0) if isinstance(size, int) else size


def _explicit(x: TensorType, to: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`to` with its -1, if any, replaced by the extent that keeps the size of x."""
    if any(isinstance(extent, str) for extent in to):
        hint = 'for a symbol write ir.symbol("N") or x.shape[0], for what is left -1'
        raise AttributeValueError(f"reshape: to = {to!r}: extents are no strings; {hint}")
    if -1 not in to:
        return to
    rest = product(extent for extent in to if extent != -1)
    extent = None if rest == 0 or to.count(-1) > 1 else divide(x.size, rest)
    if extent is None:
        raise ShapeError(f"reshape: {x} as {to} leaves the -1 undetermined; write the extent")
    return tuple(extent if n == -1 else n for n in to)
