"""Pooling. What ONNX's pools cannot do is padded first, or a convolution with ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.export.call import Call, Emit
from convc.frontends.onnx.export.operators.conv import Windows, cropped, flat, transposed
from convc.frontends.onnx.export.operators.movement import padded
from convc.frontends.onnx.export.steps import fits
from convc.frontends.onnx.export.writer import NoFormError
from ir import ops
from ir.dims import Dim, product
from ir.ops.pool import Averaging, PoolAttributes
from ir.ops.window import Pads, pad_spatial

LARGEST_WINDOW, LARGEST_IMAGE = 2**20, 2**28  # cells, where a constant is made of them


def _is_direct(op: PoolAttributes, size: Sequence[Dim]) -> bool:
    """Whether engines take these windows: none may reach over, nor pads be as wide as it is."""
    wide = any(pad >= k for pair, k in zip(op.pads, op.window, strict=True) for pad in pair)
    return fits(op, size) and not wide


def _windows(op: PoolAttributes, padding: bool = True) -> dict[str, Any]:
    """The attributes that all pools have; without padding, those of windows that all fit."""
    attributes = {"kernel_shape": op.window, "strides": op.stride, "dilations": op.dilation}
    if not padding:
        return attributes
    return {**attributes, "pads": flat(op.pads), "ceil_mode": int(op.edge == "partial")}


def _reach(n: Call[Any], op: PoolAttributes, x: Sequence[Dim], out: Sequence[Dim]) -> Pads:
    """The pads after which all windows are whole."""
    if op.edge == "drop":
        return op.pads
    size = n.static(f"where windows of {op.name} end", *x[2:])
    return op.reach(size, n.static(f"how many windows {op.name} has", *out[2:]))


def _affordable(cells: Sequence[int], most: int) -> None:
    """NoFormError for a window or an image that is too large to make a constant of it."""
    if prod(cells) > most:
        raise NoFormError(f"a constant for {prod(cells)} cells is too large", "use smaller windows")


def _max_pool(n: Call[ops.MaxPool]) -> str:
    if _is_direct(n.op, n.shape[2:]):
        return n("MaxPool", n.x, **_windows(n.op))
    around = ((0, 0), (0, 0), *_reach(n, n.op, n.shape, n.out))
    return n("MaxPool", padded(n, n.x, n.shape, around, -np.inf), **_windows(n.op, False))


def _places(n: Call[Any], out: Sequence[Dim]) -> str:
    """Where the maxima of the first operand are, row-major in its plane."""
    x, op, size = n.x, n.op, n.shape[2:]
    if _is_direct(op, size):
        places = n.results("MaxPool", 2, x, **_windows(op))[1]
        return n("Mod", places, n.extents([product(size)]))
    reach = _reach(n, op, n.shape, out)
    cells = n.static(f"where cells of {op.name} are", *size)
    _affordable(_around(cells, reach), LARGEST_IMAGE)
    table = pad_spatial(np.arange(prod(cells)).reshape(1, 1, *cells), reach)
    x = padded(n, x, n.shape, ((0, 0), (0, 0), *reach), -np.inf)
    places = n.results("MaxPool", 2, x, **_windows(op, False))[1]
    places = n("Mod", places, n.integers([table.size], "cells"))
    return n("Gather", n.constant(table.reshape(-1), "places"), places)


def _planes(n: Call[Any], value: str, shape: Sequence[Dim]) -> str:
    """A value [N, C, *S] as [N·C, cells of S]."""
    return n.reshaped(value, shape, (shape[0] * shape[1], product(shape[2:])))


def _max_pool_grad(n: Call[ops.MaxPoolGrad]) -> str:
    g = n.types[1].shape
    planes = (n.shape[0] * n.shape[1], product(n.shape[2:]))
    values = (_planes(n, value, g) for value in (_places(n, g), n.operands[1]))
    dx = n("ScatterElements", n.filled(0.0, planes), *values, axis=1, reduction="add")
    return n.reshaped(dx, planes, n.shape)


def _max_pool_pick(n: Call[ops.MaxPoolPick]) -> str:
    places = _planes(n, _places(n, n.out), n.out)
    picked = n("GatherElements", _planes(n, n.operands[1], n.shape), places, axis=1)
    return n.reshaped(picked, (n.out[0] * n.out[1], product(n.out[2:])), n.out)


def _average_pool(n: Call[ops.AveragePool]) -> str:
    """Engines disagree on the divisor of a window that is neither inside nor padding."""
    op = n.op
    plain = op.divisor == "real" or (op.divisor == "padded" and op.edge == "drop")
    if plain and _is_direct(op, n.shape[2:]):
        included = int(op.divisor == "padded")
        return n("AveragePool", n.x, count_include_pad=included, **_windows(op))
    return _shared(n, _sums(n, n.shape, n.out), n.shape, n.out)


def _sums(n: Call[Any], shape: Sequence[Dim], out: Sequence[Dim]) -> str:
    """The sum of each window: channels become examples, the kernel is of ones."""
    one = (shape[0] * shape[1], 1, *shape[2:])
    x = n.reshaped(n.x, shape, one)
    x, pads = cropped(n, x, one, _reach(n, n.op, shape, out))
    y = n("Conv", x, _ones(n), strides=n.op.stride, dilations=n.op.dilation, pads=pads)
    return n.reshaped(y, (one[0], 1, *out[2:]), out)


def _around(size: Sequence[int], pads: Pads) -> list[int]:
    return [extent + lo + hi for extent, (lo, hi) in zip(size, pads, strict=True)]


def _ones(n: Call[Any]) -> str:
    _affordable(n.op.window, LARGEST_WINDOW)
    return n.constant(np.ones((1, 1, *n.op.window), n.dtype.numpy), "ones")


def _shared(n: Call[Any], total: str, x: Sequence[Dim], out: Sequence[Dim]) -> str:
    """Sums of windows over what they are divided by."""
    op = n.op
    assert isinstance(op, Averaging)
    whole = op.edge == "drop" and (op.divisor == "padded" or not any(map(any, op.pads)))
    if op.divisor == "one":
        return total
    if whole:
        return n("Div", total, n.number(float(prod(op.window)), "divisor"))
    size = n.static("how many cells are averaged", *x[2:])
    windows = n.static("how many windows there are", *out[2:])
    _affordable(_around(size, op.reach(size, windows)), LARGEST_IMAGE)
    return n("Div", total, n.constant(op.divisors(size, windows, n.dtype.numpy), "divisors"))


def _average_pool_grad(n: Call[ops.AveragePoolGrad]) -> str:
    """Each window's share is spread over its cells, by a transposed convolution with ones."""
    op, g, x = n.op, n.shape, n.out
    one = (g[0] * g[1], 1, *g[2:])
    share = n.reshaped(_shared(n, n.x, x, g), g, one)
    pads = _reach(n, op, x, g)
    axes = zip(x[2:], g[2:], op.stride, op.extents, pads, strict=True)
    extra = [size - ((m - 1) * s + k - lo - hi) for size, m, s, k, (lo, hi) in axes]
    where = Windows(op.stride, pads, op.dilation)
    dx = transposed(n, (share, _ones(n)), where, (one[0], 1, *x[2:]), extra)
    return n.reshaped(dx, (one[0], 1, *x[2:]), x)


def _lp_pool(n: Call[ops.LpPool]) -> str:
    """Engines disagree about windows that overhang."""
    op = n.op
    if op.edge == "partial" or not _is_direct(op, n.shape[2:]) or not op.p.is_integer():
        raise NoFormError("ONNX has norms of whole p over windows within the padding only")
    return n("LpPool", n.x, p=int(op.p), **_windows(op))


def _adaptive_pool(n: Call[ops.AdaptivePool]) -> str:
    if n.op.mode == "offset" or set(n.op.size) != {1}:
        raise NoFormError("the bins depend on the sizes")
    return n("GlobalMaxPool" if n.op.kind == "max" else "GlobalAveragePool", n.x)


POOLS: dict[type[ir.Op], Emit] = {
    ops.MaxPool: _max_pool,
    ops.MaxPoolGrad: _max_pool_grad,
    ops.MaxPoolPick: _max_pool_pick,
    ops.MaxPoolIndices: lambda n: _places(n, n.out),
    ops.AveragePool: _average_pool,
    ops.AveragePoolGrad: _average_pool_grad,
    ops.LpPool: _lp_pool,
    ops.AdaptivePool: _adaptive_pool,
}
