"""Shapes, axes, cutting and joining, of values and of what is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Known, Live, Result, axis_of, fixed, listed
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.sizes import number, numbered
from convc.frontends.onnx.slices import Cut, cuts
from convc.frontends.onnx.symbolic import undecided
from ir.dims import Dim, divide, product
from ir.types import Array, DType


def truthful(emit: Callable[[Call], Result | Sequence[Result]]) -> Emit:
    """What is made of a truth by moving its elements is one too."""

    @wraps(emit)
    def keeping(n: Call) -> list[Result]:
        results = listed(emit(n))
        if not n.count or not n.truth(0):
            return results
        return [Live(r, truth=True) if isinstance(r, ir.Value) else r for r in results]

    return keeping


def reshaped(n: Call, shape: Sequence[Dim]) -> Result:
    """Operand 0 under another shape."""
    operand = n.operand(0)
    if isinstance(operand, Known):
        if product(shape) != operand.array.size:
            raise NodeError(f"{operand.array.size} elements do not fit the shape {tuple(shape)}")
        return operand.array.reshape(fixed(shape))
    return operand if operand.shape == tuple(shape) else n.b.reshape(operand.value, shape)


def _reshape(n: Call) -> Result:
    """0 keeps an extent, unless allowzero; -1 is worked out."""
    old, wanted = n.shape(), list(n.extents(1, "the shape"))
    if not n.attributes.flag("allowzero"):
        for axis, extent in enumerate(wanted):
            if extent == 0:
                if axis >= len(old):
                    raise NodeError(f"extent 0 on axis {axis} keeps one of {len(old)} axes")
                wanted[axis] = old[axis]
    if any(isinstance(extent, int) and extent < -1 for extent in wanted) or wanted.count(-1) > 1:
        raise NodeError(f"a shape cannot be {tuple(wanted)}")
    return reshaped(n, explicit(product(old), wanted))


def explicit(size: Dim, wanted: Sequence[Dim]) -> tuple[Dim, ...]:
    """A shape with its -1, if any, replaced by what keeps the size."""
    if -1 not in wanted:
        return tuple(wanted)
    rest = product(extent for extent in wanted if extent != -1)
    extent = None if rest == 0 else divide(size, rest)
    if extent is None:
        if rest == 0 or isinstance(size, int):
            raise NodeError(f"{size} elements do not fit the shape {tuple(wanted)}")
        raise undecided(f"({size}) / ({rest})")
    return tuple(extent if n == -1 else n for n in wanted)


def _flatten(n: Call) -> Result:
    shape = n.shape()
    axis = n.attributes.integer("axis", 1)
    at = axis if axis == len(shape) else axis_of(axis, len(shape))
    return reshaped(n, (product(shape[:at]), product(shape[at:])))


def _squeeze(n: Call) -> Result:
    shape, axes = n.shape(), n.axes()
    if axes is None:
        return reshaped(n, [extent for extent in shape if extent != 1])
    gone = {axis_of(axis, len(shape)) for axis in axes}
    if any(shape[axis] != 1 for axis in gone):
        raise NodeError(f"axes {axes} of ({', '.join(map(str, shape))}) are not all of extent 1")
    return reshaped(n, [extent for axis, extent in enumerate(shape) if axis not in gone])


def _unsqueeze(n: Call) -> Result:
    axes = n.axes()
    if axes is None:
        raise NodeError("axes are missing")
    rank = len(n.shape()) + len(axes)
    new = {axis_of(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise NodeError(f"axes {axes} name one twice")
    rest = iter(n.shape())
    return reshaped(n, [1 if axis in new else next(rest) for axis in range(rank)])


def _transpose(n: Call) -> Result:
    rank = len(n.shape())
    perm = n.attributes.integers("perm")
    perm = tuple(reversed(range(rank))) if perm is None else perm
    operand = n.operand(0)
    if isinstance(operand, Known):
        return np.transpose(operand.array, perm)
    return operand if perm == tuple(range(rank)) else n.b.transpose(operand.value, perm)


def _expand(n: Call) -> Result:
    """Broadcast with a shape; extents of 1 there keep those of the operand."""
    old, wanted = n.shape(), n.extents(1, "the shape")
    rank = max(len(old), len(wanted))
    left, right = ((1,) * (rank - len(part)) + tuple(part) for part in (old, wanted))
    shape = tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))
    for a, b in zip(left, right, strict=True):
        if a != b and a != 1 and b != 1:
            raise NodeError(f"({', '.join(map(str, old))}) does not broadcast to {tuple(wanted)}")
    operand = n.operand(0)
    if isinstance(operand, Known) and all(isinstance(extent, int) for extent in shape):
        sizes = fixed(shape)
        n.budget(math.prod(sizes) * operand.array.dtype.itemsize)
        return np.broadcast_to(operand.array, sizes).copy()
    x = n.x()
    return n.operand(0) if x.shape == shape else n.b.expand(x, shape)


def _tile(n: Call) -> Result:
    repeats, operand = n.extents(1, "the repeats"), n.operand(0)
    shape = n.shape()
    if len(repeats) != len(shape):
        raise NodeError(f"{len(repeats)} repeats for {len(shape)} axes")
    if isinstance(operand, Known):
        times = fixed(repeats)
        n.budget(operand.array.nbytes * math.prod(times))
        return np.tile(operand.array, times)
    pairs = list(zip(repeats, shape, strict=True))
    apart = n.b.reshape(operand.value, [m for _, extent in pairs for m in (1, extent)])
    many = n.b.expand(apart, [m for pair in pairs for m in pair])
    return n.b.reshape(many, [times * extent for times, extent in pairs])


def _concat(n: Call) -> ir.Value:
    if not n.count:
        raise NodeError("it needs one operand at least")
    axis = axis_of(n.attributes.integer("axis", 1), len(n.shape()))
    return n.b.concat([n.x(number) for number in range(n.count)], axis)


def _split(n: Call) -> list[Result]:
    axis = axis_of(n.attributes.integer("axis", 0), len(n.shape()))
    extent, count = n.shape()[axis], len(n.node.output)
    sizes: Sequence[Dim] | None = n.attributes.integers("split")
    if n.has(1):
        sizes = n.extents(1, "the sizes of the parts")
    if sizes is None:
        count = n.attributes.integer("num_outputs", count)
        if count != len(n.node.output):
            raise NodeError(f"num_outputs = {count} for {len(n.node.output)} outputs")
        sizes = _even(extent, count, n.opset >= 18)
    if len(sizes) != len(n.node.output) or sum(sizes) != extent:
        raise NodeError(f"parts of {tuple(sizes)} do not make up the {extent} of axis {axis}")
    operand = n.operand(0)
    if isinstance(operand, Known):
        stops = np.cumsum(fixed(sizes))[:-1]
        return list(np.split(operand.array, stops, axis))
    return list(n.b.split(operand.value, sizes, axis))


def _even(extent: Dim, count: int, rest: bool) -> list[Dim]:
    """Equal parts; the last one may be smaller if `rest` says so."""
    if isinstance(extent, int) and rest:
        size = -(-extent // count)
        return [min(size, max(extent - i * size, 0)) for i in range(count)]
    part = divide(extent, count)
    if part is None:
        raise NodeError(f"an axis of {extent} does not split into {count} equal parts")
    return [part] * count


def _slice(n: Call) -> Result:
    x = n.x()
    forward: dict[int, tuple[Dim, Dim, int]] = {}
    for axis, cut in cuts(n).items():
        if cut.step < 0:
            x = _backwards(n, x, axis, cut)
        elif cut != Cut(0, x.shape[axis], 1):
            forward[axis] = cut
    return n.b.slice(x, forward) if forward else x


def _backwards(n: Call, x: ir.Value, axis: int, cut: Cut) -> ir.Value:
    """The elements from a start down to a stop."""
    start, stop, step = cut
    if isinstance(start, int) and isinstance(stop, int):
        count = len(range(start, stop, step))
        if count == 0:
            return n.b.slice(x, {axis: (0, 0, 1)})
        x = n.b.slice(x, {axis: (start + (count - 1) * step, start + 1, 1)})
    x = n.b.reverse(x, axis)
    return x if step == -1 else n.b.slice(x, {axis: (None, None, -step)})


def _triangle(n: Call) -> Result:
    """One triangle of each matrix, from a diagonal on; whatever lies beyond it is 0."""
    shape, operand = n.shape(), n.operand(0)
    if len(shape) < 2:
        raise NodeError(f"({', '.join(map(str, shape))}) is no matrix")
    shift, upper = n.number(1, "k") if n.has(1) else 0, n.attributes.flag("upper", True)
    if isinstance(operand, Known):
        array = operand.array
        return np.where(_inside(array.shape[-2:], shift, upper), array, np.zeros(1, array.dtype))
    x = operand.value
    kind = x.dtype if x.dtype.is_float else DType.FLOAT32
    if all(isinstance(extent, int) for extent in shape[-2:]):
        sizes = fixed(shape[-2:])
        n.budget(math.prod(sizes) * kind.itemsize)
        inside = n.b.weight(n.b.fresh("triangle"), _inside(sizes, shift, upper).astype(kind.numpy))
    else:
        inside = n.b.cast(_inside_any(n.b, shape[-2:], shift, upper), kind)
    zero = n.b.weight(n.b.fresh("zero"), np.zeros((), x.dtype.numpy))
    return n.b.where(inside, x, zero)


def _inside(sizes: Sequence[int], shift: float, upper: bool) -> Array:
    """Whether an element of a matrix lies on the diagonal or on the side that is kept."""
    away = np.arange(sizes[1]) - np.arange(sizes[0])[:, None]
    return away >= shift if upper else away <= shift


def _inside_any(b: ir.Builder, sizes: Sequence[Dim], shift: float, upper: bool) -> ir.Value:
    """The same, 1 or 0, for symbolic sizes."""
    rows, columns = (numbered(b, number(b, 0), number(b, 1), size) for size in sizes)
    away = b.sub(columns, b.reshape(rows, (sizes[0], 1)))
    limit = number(b, int(shift))
    return b.greater_equal(away, limit) if upper else b.greater_equal(limit, away)


MOVEMENTS: dict[str, Emit] = {
    name: truthful(emit)
    for name, emit in {
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Transpose": _transpose,
        "Expand": _expand,
        "Tile": _tile,
        "Concat": _concat,
        "Split": _split,
        "Slice": _slice,
        "Trilu": _triangle,
    }.items()
}
