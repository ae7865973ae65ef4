"""Builder methods for pooling."""

from __future__ import annotations

from ir.build.core import Core, PerAxis, Value
from ir.ops import pool
from ir.ops.window import Pad, Pads, named_pads, per_axis


class PoolMethods(Core):
    """Pooling."""

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
        """The maximum of each window of x [N, C, *S]; the stride defaults to the window."""
        axes = len(self._spatial("max_pool", "x", x, "[N, C, *S]"))
        op = pool.MaxPool(*_windows(axes, window, stride, pad, dilation), edge)
        return self.apply(op, x, name=name)

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
        """The mean of each window; the stride defaults to the window.

        `divisor`: "real" counts the cells that exist, "padded" also those of the padding, "one"
        makes sums.
        """
        axes = len(self._spatial("average_pool", "x", x, "[N, C, *S]"))
        op = pool.AveragePool(*_windows(axes, window, stride, pad, dilation), edge, divisor)
        return self.apply(op, x, name=name)


def _windows(
    axes: int, window: PerAxis, stride: PerAxis | None, pad: Pad, dilation: PerAxis
) -> tuple[tuple[int, ...], tuple[int, ...], Pads, tuple[int, ...]]:
    sizes = per_axis(window, axes, "window")
    strides = sizes if stride is None else per_axis(stride, axes, "stride")
    dilations = per_axis(dilation, axes, "dilation")
    return sizes, strides, named_pads(pad, sizes, dilations), dilations
