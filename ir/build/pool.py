"""Builder methods for pooling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from ir.build.core import Core, PerAxis, Value, items
from ir.errors import AttributeValueError
from ir.ops import circular, pointwise, pool, pool_variants, shape
from ir.ops.window import Pad, named_pads, per_axis

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
        columns = (*self._own(w).shape, *(1,) * len(windows[0]))
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
        max(0, 1 - d/width).
        """
        axes = len(self._spatial("distance_pool", "x", x, "[N, C, *S]"))
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
        if not items("blur_pool: taps", taps) or not all(tap > 0 for tap in taps):
            raise AttributeValueError(f"blur_pool: taps = {tuple(taps)} must be positive")
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
        sizes = per_axis(window, axes, "window")
        strides = sizes if stride is None else per_axis(stride, axes, "stride")
        dilations = per_axis(dilation, axes, "dilation")
        return sizes, strides, named_pads(pad, sizes, dilations), dilations, edge

    def _weights_like(
        self, x: Value, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    ) -> Value:
        return self.weight(self.fresh("weights"), weights.astype(x.dtype.numpy))
