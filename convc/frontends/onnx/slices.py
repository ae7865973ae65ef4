"""What a Slice cuts, for all opsets."""

from __future__ import annotations

from typing import NamedTuple

from convc.frontends.onnx.call import Call, axis_of
from convc.frontends.onnx.errors import GIVE_SHAPES, NodeError
from ir.dims import Dim, Sym

END = 2**31 - 1  # exporters write this, or more, for the end of an axis


class Cut(NamedTuple):
    """Every step-th element from start up to stop, or down to it: -1 is before the first."""

    start: Dim
    stop: Dim
    step: int


def cuts(n: Call) -> dict[int, Cut]:
    """By axis, what is kept of operand 0; axes that stay whole may be missing."""
    shape = n.shape(0)
    if n.opset < 10:
        starts: tuple[Dim, ...] = n.attributes.integers("starts") or ()
        stops: tuple[Dim, ...] = n.attributes.integers("ends") or ()
        axes, steps = n.attributes.integers("axes"), None
    else:
        starts, stops = n.extents(1, "starts"), n.extents(2, "ends")
        axes = n.integers(3, "axes") if n.has(3) else None
        steps = n.integers(4, "steps") if n.has(4) else None
    chosen = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(stops) == len(chosen) == len(steps):
        raise NodeError("starts, ends, axes and steps differ in their numbers")
    found: dict[int, Cut] = {}
    for axis, start, stop, step in zip(chosen, starts, stops, steps, strict=True):
        at = axis_of(axis, len(shape))
        if at in found or step == 0:
            raise NodeError(f"axis {axis} is cut twice, or in steps of 0")
        found[at] = _cut(start, stop, step, shape[at])
    return found


def _cut(start: Dim, stop: Dim, step: int, extent: Dim) -> Cut:
    if isinstance(start, int) and isinstance(stop, int) and isinstance(extent, int):
        return Cut(*slice(start, stop, step).indices(extent))
    if step < 0:
        from_end = start in (-1, extent - 1) or (isinstance(start, int) and start >= END)
        if from_end and isinstance(stop, int) and stop < -END:
            return Cut(extent - 1, -1, step)
        raise NodeError(f"a slice backwards of an axis of symbolic size; {GIVE_SHAPES}")
    return Cut(_place(start, extent), _place(stop, extent), step)


def _place(place: Dim, extent: Dim) -> Dim:
    """A position on an axis; one that is negative counts from its end."""
    if isinstance(place, Sym):
        return place
    if place >= END:
        return extent
    if place < 0:
        return 0 if place < -END else extent + place
    return place if isinstance(extent, Sym) else min(place, extent)
