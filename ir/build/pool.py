"""Builder methods for pooling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod

import numpy as np

from ir.build.core import Core, PerAxis, Value, items, naming
from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.ops import (
    adaptive,
    circular,
    dense,
    functions,
    index,
    pointwise,
    pool,
    pool_variants,
    shape,
)
from ir.ops.window import Pad, named_pads, per_axis
from ir.types import Array, TensorType

Taps = Sequence[float]


class PoolMethods(Core):
    """Pooling. Where a stride is not given it is the window."""

    def max_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """The maximum of each window of x [N, C, *S]."""
        windows = self._windows("max_pool", x, window, stride, pad, dilation, edge)
        return self.apply(pool.MaxPool(*windows), x, name=name)

    def average_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        divisor: str = "real",
        name: str | None = None,
    ) -> Value:
        """The mean of each window.

        `divisor`: "real" counts the cells that exist, "padded" also those of the padding, "one"
        makes sums.
        """
        windows = self._windows("average_pool", x, window, stride, pad, dilation, edge)
        return self.apply(pool.AveragePool(*windows, divisor), x, name=name)

    def sum_pool(
        self,
        x: Value,
        window: PerAxis,
        w: Value | None = None,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """The sum of each window, times w [C] where that is given: a weight for each channel."""
        windows = self._windows("sum_pool", x, window, stride, pad, dilation, edge)
        op = pool.AveragePool(*windows, "one")
        if w is None:
            return self.apply(op, x, name=name)
        if self._own(w).shape != x.shape[1:2]:
            hint = "w needs one entry per channel"
            raise ShapeError(f"sum_pool: %{x.name} is {x.type}, %{w.name} is {w.type}; {hint}")
        columns = (*w.shape, *(1,) * len(windows[0]))
        scale = self.apply(shape.Reshape(columns), w)
        return self.apply(pointwise.Mul(), self.apply(op, x), scale, name=name)

    def lp_pool(
        self,
        x: Value,
        window: PerAxis,
        p: float = 2.0,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """The p-norm of each window, p ≥ 1; p = 2 is the root of the sum of squares."""
        windows = self._windows("lp_pool", x, window, stride, pad, dilation, edge)
        return self.apply(pool_variants.LpPool(*windows, p), x, name=name)

    def weighted_pool(
        self,
        x: Value,
        weights: Value,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """The mean of each window weighted by weights [*window], over the cells that exist."""
        window = self._own(weights).type.static_shape
        windows = self._windows("weighted_pool", x, window, stride, pad, dilation, edge)
        return self.apply(pool_variants.WeightedPool(*windows), x, weights, name=name)

    def distance_pool(
        self,
        x: Value,
        window: PerAxis,
        kind: str = "gaussian",
        width: float = 1.0,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """`weighted_pool` with weights that fall with the distance d from the middle.

        `kind`: "gaussian", exp(-d²/(2·width²)); "inverse", 1/(1 + d/width); "linear",
        1 - d/width, for a width beyond the corners.
        """
        axes = len(self._spatial("distance_pool", "x", x, "[N, C, *S]"))
        with naming("distance_pool", x):
            sizes = per_axis(window, axes, "window")
        weights = self._weights_like(x, pool_variants.distance_weights(sizes, kind, width))
        return self.weighted_pool(x, weights, stride, pad, edge, dilation, name=name)

    def blur_pool(
        self,
        x: Value,
        stride: PerAxis = 2,
        taps: Taps = (1, 2, 1),
        boundary: str = "renormalised",
        name: str | None = None,
    ) -> Value:
        """x blurred by `taps` along each spatial axis, then every stride-th cell of it.

        Positive taps are divided by their sum. `boundary`: "renormalised" leaves out what lies
        beyond the edge and divides by the rest; "circular" goes on at the other end.
        """
        axes = len(self._spatial("blur_pool", "x", x, "[N, C, *S]"))
        numbers = items("blur_pool: taps", taps)
        if not numbers or not all(isinstance(tap, int | float) and tap > 0 for tap in numbers):
            raise AttributeValueError(f"blur_pool: taps = {numbers} must be positive numbers")
        weights = self._weights_like(x, reduce(np.multiply.outer, [np.asarray(taps)] * axes))
        pads = ((len(taps) - 1) // 2, len(taps) // 2)
        if boundary == "renormalised":
            return self.weighted_pool(x, weights, stride, (pads,) * axes, name=name)
        if boundary != "circular":
            hint = "is not renormalised or circular"
            raise AttributeValueError(f"blur_pool: boundary = {boundary!r} {hint}")
        around = self.apply(circular.CircularPad((pads,) * axes), x)
        return self.weighted_pool(around, weights, stride, name=name)

    def max_blur_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis = 2,
        taps: Taps = (1, 2, 1),
        boundary: str = "renormalised",
        name: str | None = None,
    ) -> Value:
        """The maximum of a window at each cell, then `blur_pool`: less shifty than `max_pool`.

        "renormalised": the windows keep inside. "circular": they go on at the other end.
        """
        size = self._spatial("max_blur_pool", "x", x, "[N, C, *S]")
        with naming("max_blur_pool", x):
            sizes = per_axis(window, len(size), "window")
        if boundary == "circular":
            x = self.apply(circular.CircularPad(tuple((0, k - 1) for k in sizes)), x)
        maxima = self.max_pool(x, sizes, stride=1)
        return self.blur_pool(maxima, stride, taps, boundary, name=name)

    def channel_pool(
        self, x: Value, size: int, kind: str = "max", name: str | None = None
    ) -> Value:
        """Groups of `size` neighbouring channels reduced to one: [N, C, *S] → [N, C/size, *S].

        `kind`: "max" (maxout), "average", or "l2", the root of the sum of squares.
        """
        return self.apply(pool_variants.ChannelPool(kind, size), x, name=name)

    def adaptive_pool(
        self,
        x: Value,
        size: PerAxis,
        kind: str = "max",
        mode: str = "partition",
        window: PerAxis | None = None,
        name: str | None = None,
    ) -> Value:
        """x [N, C, *S] → [N, C, *size]: the maximum or "average" of `size` bins, whatever S is.

        `mode`: "partition" cuts an axis into bins, "cover" lets them overlap by a cell so that they
        are alike (PyTorch's adaptive pools), "offset" spreads windows of `window` over it.
        """
        axes = len(self._spatial("adaptive_pool", "x", x, "[N, C, *S]"))
        with naming("adaptive_pool", x):
            windows = () if window is None else per_axis(window, axes, "window")
            op = adaptive.AdaptivePool(kind, per_axis(size, axes, "size"), mode, windows)
        return self.apply(op, x, name=name)

    def global_average_pool(self, x: Value, name: str | None = None) -> Value:
        """The mean of each channel: [N, C, *S] → [N, C, 1, …]."""
        return self.adaptive_pool(x, 1, "average", name=name)

    def global_max_pool(self, x: Value, name: str | None = None) -> Value:
        """The maximum of each channel: [N, C, *S] → [N, C, 1, …]."""
        return self.adaptive_pool(x, 1, "max", name=name)

    def max_pool_indices(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        dilation: PerAxis = 1,
        name: str | None = None,
    ) -> Value:
        """Where in its plane each maximum is, counted row by row: i64 [N, C, *out]."""
        windows = self._windows("max_pool_indices", x, window, stride, pad, dilation, edge)
        return self.apply(index.MaxPoolIndices(*windows), x, name=name)

    def max_unpool(
        self, x: Value, indices: Value, size: Sequence[Dim], name: str | None = None
    ) -> Value:
        """x [N, C, *S] put where `indices`, counted row by row, say in [N, C, *size]; 0 elsewhere.

        What is put in one place adds up.
        """
        self._spatial("max_unpool", "x", x, "[N, C, *S]")
        if self._own(indices).shape != x.shape:
            given = f"%{x.name} is {x.type}, %{indices.name} is {indices.type}"
            raise ShapeError(f"max_unpool: {given}; indices need one entry for each of x")
        extents = items("max_unpool: size", size)
        row = (*x.shape[:2], product(x.shape[2:]))
        lists = [self.apply(shape.Reshape(row), self._own(value)) for value in (x, indices)]
        placed = self.apply(index.TakeAlongGrad(2, product(extents)), *lists)
        return self.apply(shape.Reshape((*x.shape[:2], *extents)), placed, name=name)

    def region_pool(
        self, x: Value, regions: Sequence[Sequence[int]], kind: str = "max", name: str | None = None
    ) -> Value:
        """The maximum or "average" of each region of x [N, C, *S] → [N, C, number of regions].

        A region lists its cells, counted row by row; none is empty.
        """
        extents = self._spatial("region_pool", "x", x, "[N, C, *S]")
        if kind not in ("max", "average"):
            raise AttributeValueError(f"region_pool: kind = {kind!r} is not max or average")
        lists = _regions(regions, product(extents))
        if kind == "max":
            width = max(map(len, lists))
            cells = [region + region[-1:] * (width - len(region)) for region in lists]
            places = self.weight(self.fresh("cells"), np.array(cells, np.int64))
            return self.region_max(x, places, name=name)
        shares = np.zeros((len(lists), prod(TensorType(x.dtype, extents).static_shape)))
        for row, region in zip(shares, lists, strict=True):
            np.add.at(row, region, 1 / len(region))
        return self.region_sum(x, self._weights_like(x, shares), name=name)

    def region_max(self, x: Value, cells: Value, name: str | None = None) -> Value:
        """The maximum of each region of x [N, C, *S] → [N, C, Q].

        cells: i64 [Q, W], or [N, Q, W] where every image has regions of its own: W cells of each,
        counted row by row, where one may stand several times. The first maximum counts.
        """
        self._spatial("region_max", "x", x, "[N, C, *S]")
        if self._own(cells).type.rank not in (2, 3):
            hint = "must be [Q, W] or [N, Q, W]"
            raise ShapeError(f"region_max: %{cells.name} is {cells.type}, but cells {hint}")
        *batch, regions, width = cells.shape
        rows = self.apply(shape.Reshape((*x.shape[:2], product(x.shape[2:]))), x)
        if batch:
            column = self.apply(shape.Reshape((*batch, 1, regions * width)), cells)
            places = self.apply(shape.Expand((*x.shape[:2], regions * width)), column)
            side = self.apply(index.TakeAlong(2), rows, places)
        else:
            places = self.apply(shape.Reshape((regions * width,)), cells)
            side = self.apply(index.Take(2), rows, places)
        return self.max_pool(side, TensorType(x.dtype, (width,)).static_shape, name=name)

    def region_sum(self, x: Value, shares: Value, name: str | None = None) -> Value:
        """Weighted sums over the cells of x [N, C, *S] → [N, C, Q], learned or given.

        shares: [Q, cells], or [N, Q, cells] where every image has its own.
        """
        self._spatial("region_sum", "x", x, "[N, C, *S]")
        rows = self.apply(shape.Reshape((*x.shape[:2], product(x.shape[2:]))), x)
        if self._own(shares).type.rank == 2:
            flat = self.apply(shape.Reshape((x.shape[0] * x.shape[1], rows.shape[2])), rows)
            sums = self.apply(dense.Dense(False, True), flat, shares)
            return self.apply(shape.Reshape((*x.shape[:2], shares.shape[0])), sums, name=name)
        return self.apply(dense.MatMul(False, True), rows, shares, name=name)

    def _windows(
        self,
        what: str,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None,
        pad: Pad,
        dilation: PerAxis,
        edge: str,
    ) -> pool.Geometry:
        axes = len(self._spatial(what, "x", x, "[N, C, *S]"))
        with naming(what, x):
            sizes = per_axis(window, axes, "window")
            strides = sizes if stride is None else per_axis(stride, axes, "stride")
            dilations = per_axis(dilation, axes, "dilation")
            return sizes, strides, named_pads(pad, sizes, dilations), dilations, edge

    def _weights_like(self, x: Value, weights: Array) -> Value:
        """Given weights, which no gradient changes."""
        given = self.weight(self.fresh("weights"), weights.astype(x.dtype.numpy))
        return self.apply(functions.StopGradient(), given)


def _regions(regions: Sequence[Sequence[int]], count: Dim) -> list[list[int]]:
    """Lists of cells; AttributeValueError unless they are cells of an image of so many."""
    lists = [[*items("region_pool: a region", r)] for r in items("region_pool: regions", regions)]
    if not lists or not all(lists):
        raise AttributeValueError("region_pool: no regions, or one that is empty; give it a cell")
    for cell in (cell for region in lists for cell in region):
        whole = isinstance(cell, int | np.integer)
        if not whole or cell < 0 or (isinstance(count, int) and cell >= count):
            reason = f"{cell!r} is not a cell, one of 0 to {count} - 1"
            raise AttributeValueError(f"region_pool: {reason}")
    return lists
