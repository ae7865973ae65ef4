"""What picks elements by positions, and what puts elements at positions.

Positions that count from the end of an axis are legal where the size of the axis is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

import ir
from convc.frontends.onnx.call import (
    Call,
    Emit,
    Known,
    Live,
    Result,
    axis_of,
    computable,
    fixed,
)
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.operators.movement import truthful
from convc.frontends.onnx.symbolic import extents, is_symbolic, undecided
from ir.dims import Dim, product
from ir.ops import TakeAlongGrad
from ir.types import Array, DType

Spread: TypeAlias = Callable[[ir.Value], ir.Value]  # from updates to what they are put into


def _gather(n: Call) -> Result:
    """Slices along an axis."""
    shape = n.shape(0)
    axis = axis_of(n.attributes.integer("axis", 0), len(shape))
    index, x = n.operand(1), n.x(0)
    if isinstance(index, Live):
        places = _from_start(n, index.value, shape[axis])
        taken = n.b.take(x, n.b.reshape(places, (product(index.shape),)), axis)
        return n.b.reshape(taken, (*shape[:axis], *index.shape, *shape[axis + 1 :]))
    listed = _known_from_start(index.array, shape[axis])
    if listed.size == 1 and (is_symbolic(listed) or not listed.ndim):
        (place,) = listed.reshape(-1)
        one = n.b.slice(x, {axis: (place, place + 1)})
        return n.b.reshape(one, (*shape[:axis], *listed.shape, *shape[axis + 1 :]))
    if is_symbolic(listed):
        raise undecided("where to gather from")
    taken = n.b.take(x, _stored(n, listed.reshape(-1)), axis)
    return n.b.reshape(taken, (*shape[:axis], *listed.shape, *shape[axis + 1 :]))


def _stored(n: Call, index: Array) -> ir.Value:
    return n.b.weight(n.b.fresh("index"), index.astype(np.int64))


def _known_from_start(index: Array, extent: Dim) -> Array:
    """Positions on an axis, the negative ones counted from its end; NodeError where none is."""
    places: list[Dim] = []
    for place in index.reshape(-1):
        at = int(place) if isinstance(place, np.integer) else place
        at = at + extent if isinstance(at, int) and at < 0 else at
        if isinstance(at, int) and (at < 0 or (isinstance(extent, int) and at >= extent)):
            raise NodeError(f"index {place} is beyond an axis of {extent}")
        places.append(at)
    return extents(places).reshape(index.shape)


def _from_start(n: Call, index: ir.Value, extent: Dim) -> ir.Value:
    """The same for positions that are computed; on an axis of symbolic size, as they are."""
    if not isinstance(extent, int):
        return index
    number = n.b.cast(index, DType.FLOAT64)
    counted = n.b.where(n.b.greater_equal(number, 0.0), number, number + float(extent))
    return n.b.cast(counted, DType.INT64)


def _positions(n: Call, number: int, extent: Dim) -> ir.Value:
    """An operand of positions on one axis, all from its start."""
    index = n.operand(number)
    if isinstance(index, Live):
        return _from_start(n, index.value, extent)
    return n.live(replace(index, array=_known_from_start(index.array, extent)))


def _cut(n: Call, x: ir.Value, places: Sequence[Dim], axis: int) -> ir.Value:
    """What lies within the extents of the positions on the other axes."""
    if len(places) != x.type.rank:
        raise NodeError(f"positions on {len(places)} axes for {x.type}")
    cuts: Mapping[int, tuple[Dim, Dim]] = {
        i: (0, m)
        for i, (k, m) in enumerate(zip(x.shape, places, strict=True))
        if k != m and i != axis
    }
    return n.b.slice(x, cuts) if cuts else x


def _gather_elements(n: Call) -> ir.Value:
    x = n.x(0)
    axis = axis_of(n.attributes.integer("axis", 0), x.type.rank)
    places = _positions(n, 1, x.shape[axis])
    return n.b.take_along(_cut(n, x, places.shape, axis), places, axis)


def _scatter_elements(n: Call) -> ir.Value:
    """x with updates at positions along an axis; on the other axes they begin at 0."""
    x, updates = n.x(0), n.x(2)
    axis = axis_of(n.attributes.integer("axis", 0), x.type.rank)
    places = _positions(n, 1, x.shape[axis])
    if updates.shape != places.shape:
        raise NodeError(f"updates {updates.type} for positions {places.type}")
    pads = {i: (0, k - m) for i, (k, m) in enumerate(zip(x.shape, places.shape, strict=True))
            if i != axis and k != m}  # fmt: skip
    put = TakeAlongGrad(axis, x.shape[axis])

    def spread(values: ir.Value) -> ir.Value:
        there = n.b.apply(put, values, places)
        return n.b.pad(there, pads) if pads else there

    return _merged(n, x, updates, spread)


def _merged(n: Call, x: ir.Value, updates: ir.Value, spread: Spread) -> ir.Value:
    """x with the updates in place of, or added to, what is where they are put."""
    added = n.attributes.choice("reduction", "none", "add", "mul", "max", "min")
    if added not in ("none", "add"):
        raise NodeError(f"reduction {added} is not supported")
    whole = not x.dtype.is_float
    base, values = ((n.b.cast(v, DType.FLOAT64) if whole else v) for v in (x, updates))
    there = spread(values)
    if added == "add":
        y = base + there
    else:
        one = n.b.weight(n.b.fresh("one"), np.ones((), base.dtype.numpy))
        y = n.b.where(spread(n.b.expand(one, values.shape)), there, base)
    return n.b.cast(y, DType.INT64) if whole else y


def _flat(n: Call, shape: Sequence[int]) -> ir.Value:
    """Positions on several axes at once, operand 1 [*A, K], as positions i64[A] on one."""
    index = n.operand(1)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if isinstance(index, Known):
        columns = np.moveaxis(index.array, -1, 0).reshape(len(shape), -1)
        parts = [_known_from_start(*pair) for pair in zip(columns, shape, strict=True)]
        total = sum((p * s for p, s in zip(parts, strides, strict=True)), np.zeros(len(columns[0])))
        return _stored(n, np.asarray(total))
    rows = (product(index.shape[:-1]), len(shape))
    number = n.b.reshape(n.b.cast(index.value, DType.FLOAT64), rows)
    sizes, steps = (
        n.b.weight(n.b.fresh(name), np.array(numbers, np.float64))
        for name, numbers in (("sizes", shape), ("strides", strides))
    )
    number = n.b.where(n.b.greater_equal(number, 0.0), number, number + sizes)
    return n.b.cast(n.b.sum(number * steps, (1,)), DType.INT64)


def _depth(n: Call, first: int) -> int:
    """How many axes each row of positions, operand 1, is about."""
    (depth,) = fixed(n.shape(1)[-1:]) or (0,)
    if not 1 <= depth <= len(n.shape(0)) - first:
        raise NodeError(f"positions on {depth} of {len(n.shape(0)) - first} axes")
    return depth


def _gather_nd(n: Call) -> ir.Value:
    """The parts of x at positions on its first axes; `batch_dims` axes go before both."""
    x, batch = n.x(0), n.attributes.integer("batch_dims", 0)
    if batch:
        raise NodeError("batch_dims is not supported")
    depth = _depth(n, batch)
    sizes, rest = fixed(x.shape[:depth]), x.shape[depth:]
    rows = n.b.reshape(x, (math.prod(sizes), *rest))
    return n.b.reshape(n.b.take(rows, _flat(n, sizes)), (*n.shape(1)[:-1], *rest))


def _scatter_nd(n: Call) -> ir.Value:
    """x with parts of it, at positions on its first axes, replaced or added to."""
    x, updates, depth = n.x(0), n.x(2), _depth(n, 0)
    sizes, rest = fixed(x.shape[:depth]), x.shape[depth:]
    if updates.shape != (*n.shape(1)[:-1], *rest):
        raise NodeError(f"updates {updates.type} for positions {n.shape(1)} of {x.type}")
    places, count = _flat(n, sizes), math.prod(sizes)

    def spread(values: ir.Value) -> ir.Value:
        rows = n.b.reshape(values, (product(n.shape(1)[:-1]), *rest))
        return n.b.reshape(n.b.apply(ir.ops.TakeGrad(0, count), rows, places), x.shape)

    return _merged(n, x, updates, spread)


def _one_hot(n: Call) -> Result:
    """Of two numbers, the second one at a position along a new axis, the first one elsewhere."""
    shape, depth = n.shape(0), int(n.number(1, "the depth"))
    axis = axis_of(n.attributes.integer("axis", -1), len(shape) + 1)
    values = n.constant(2, "the two numbers")
    if depth < 0 or values.size != 2 or is_symbolic(values):
        raise NodeError(f"a depth of {depth} and {values.size} numbers, not two")
    off, on = map(float, values.reshape(-1))
    index = n.b.reshape(n.x(0), (*shape[:axis], 1, *shape[axis:]))
    counted = n.b.cast(_from_start(n, index, depth), DType.FLOAT64)
    column = np.arange(depth, dtype=np.float64).reshape(depth, *(1,) * (len(shape) - axis))
    hit = n.b.equal(counted, n.b.weight(n.b.fresh("positions"), column))
    return n.b.cast(hit * (on - off) + off, DType.of(computable(values).dtype))


INDEXED: dict[str, Emit] = {
    name: truthful(emit)
    for name, emit in {
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "OneHot": _one_hot,
        "Scatter": _scatter_elements,
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
    }.items()
}
