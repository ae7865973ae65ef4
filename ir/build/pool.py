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
        name: str | None = None,
    ) -> Value:
        """The maximum of each window of x [N, C, *S]; the stride defaults to the window."""
        axes = len(self._spatial("max_pool", "x", x, "[N, C, *S]"))
        op = pool.MaxPool(*_windows(axes, window, stride, pad), edge)
        return self.apply(op, x, name=name)

    def average_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        name: str | None = None,
    ) -> Value:
        """The mean of the real cells of each window; the stride defaults to the window."""
        axes = len(self._spatial("average_pool", "x", x, "[N, C, *S]"))
        op = pool.AveragePool(*_windows(axes, window, stride, pad), edge)
        return self.apply(op, x, name=name)


def _windows(
    axes: int, window: PerAxis, stride: PerAxis | None, pad: Pad
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    sizes = per_axis(window, axes, "window")
    strides = sizes if stride is None else per_axis(stride, axes, "stride")
    return sizes, strides, named_pads(pad, sizes, (1,) * len(sizes))
