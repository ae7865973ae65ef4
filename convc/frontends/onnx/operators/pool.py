"""Pooling. Cells of padding are absent: they win no maximum, and averages may count them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Result, fixed
from convc.frontends.onnx.errors import GIVE_SHAPES, NodeError
from convc.frontends.onnx.operators.windows import Windows, spatial, window_cells, windows
from convc.frontends.onnx.sizes import number, numbered
from ir.dims import Sym, product


def _pool(n: Call) -> tuple[ir.Value, Windows, str]:
    """The image, with negative pads cropped, the windows over it, and what happens at the edge.

    With ceil_mode a window that starts beyond the image and its padding in front is dropped.
    """
    size = spatial(n)
    where = windows(n, size, window_cells(n, len(size)))
    x = n.x(0)
    crops = {2 + axis: (min(lo, 0), min(hi, 0)) for axis, (lo, hi) in enumerate(where.pads)}
    if any(lo or hi for lo, hi in crops.values()):
        x = n.b.pad(x, crops)
        where = where._replace(pads=tuple((max(lo, 0), max(hi, 0)) for lo, hi in where.pads))
    return x, where, "partial" if n.attributes.flag("ceil_mode") else "drop"


def _max_pool(n: Call) -> Sequence[Result]:
    x, where, edge = _pool(n)
    arguments = where.cells, where.stride, where.pads, edge, where.dilation
    y = n.b.max_pool(x, *arguments)
    if not n.wants(1):
        return (y,)
    if x is not n.x(0):
        raise NodeError("indices into an image that negative pads crop are not supported")
    return y, _indices(n, x, n.b.max_pool_indices(x, *arguments))


def _indices(n: Call, x: ir.Value, places: ir.Value) -> ir.Value:
    """Positions in each plane as positions in all of x, or column by column in each plane."""
    planes, size = product(n.shape(0)[:2]), fixed(n.shape(0)[2:])
    columns = n.attributes.flag("storage_order")
    if planes == 1 and not columns:
        return places
    if isinstance(planes, Sym):
        if columns:
            raise NodeError(f"storage_order = 1 with symbolic sizes; {GIVE_SHAPES}")
        cells = number(n.b, math.prod(size))
        starts = numbered(n.b, number(n.b, 0), cells, planes)
        column = n.b.reshape(starts, (*places.shape[:2], *(1 for _ in size)))
        return n.b.cast(n.b.cast(places, "f64") + column, "i64")
    batch, channels = n.sizes(0)[:2]
    n.budget(8 * math.prod(n.sizes(0)))
    first = np.arange(batch * channels).reshape(batch, channels, 1) * math.prod(size)
    order = np.arange(math.prod(size)).reshape(size, order="F" if columns else "C")
    table = first + order.reshape(1, 1, -1)
    rows = n.b.weight(n.b.fresh("cells"), table)
    flat = n.b.reshape(places, (batch, channels, product(places.shape[2:])))
    return n.b.reshape(n.b.take_along(rows, flat, 2), places.shape)


def _average_pool(n: Call) -> ir.Value:
    x, where, edge = _pool(n)
    divisor = "padded" if n.attributes.flag("count_include_pad") else "real"
    return n.b.average_pool(x, where.cells, where.stride, where.pads, edge, where.dilation, divisor)


def _lp_pool(n: Call) -> ir.Value:
    x, where, edge = _pool(n)
    p = n.attributes.integer("p", 2)
    return n.b.lp_pool(x, where.cells, p, where.stride, where.pads, edge, where.dilation)


def _over_space(reduce: Callable[[Call, ir.Value, tuple[int, ...]], ir.Value]) -> Emit:
    """A reduction over all spatial axes, which stay with an extent of 1."""

    def emit(n: Call) -> ir.Value:
        x = n.x(0)
        return reduce(n, x, tuple(range(2, 2 + len(spatial(n)))))

    return emit


def _norm(n: Call, x: ir.Value, axes: tuple[int, ...]) -> ir.Value:
    p = n.attributes.integer("p", 2)
    if p == 2:
        return n.b.sqrt(n.b.sum(n.b.square(x), axes, keepdims=True))
    powers = n.b.sum(n.b.power(n.b.abs(x), float(p)), axes, keepdims=True)
    return n.b.power(powers, 1 / p)


def _max_unpool(n: Call) -> ir.Value:
    """Elements put where indices into the whole result say; zeros fill what is larger than it."""
    x, places = n.x(0), n.x(1)
    axes = len(spatial(n))
    where = windows(n, spatial(n), window_cells(n, axes))
    parts = zip(n.sizes(0)[2:], where.stride, where.cells, where.pads, strict=True)
    shape = (*n.sizes(0)[:2], *((m - 1) * s + k - lo - hi for m, s, k, (lo, hi) in parts))
    rows = [n.b.reshape(value, (1, 1, math.prod(n.sizes(0)))) for value in (x, places)]
    y = n.b.reshape(n.b.max_unpool(rows[0], rows[1], (math.prod(shape),)), shape)
    if not n.has(2):
        return y
    wanted = n.integers(2, "output_shape")
    return n.b.pad(
        y, {axis: (0, m - k) for axis, (k, m) in enumerate(zip(shape, wanted, strict=True))}
    )


POOLS: dict[str, Emit] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "MaxUnpool": _max_unpool,
    "GlobalAveragePool": _over_space(lambda n, x, axes: n.b.global_average_pool(x)),
    "GlobalMaxPool": _over_space(lambda n, x, axes: n.b.global_max_pool(x)),
    "GlobalLpPool": _over_space(_norm),
}
