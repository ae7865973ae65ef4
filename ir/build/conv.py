"""Builder methods for convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from ir.build.core import Core, PerAxis, Value, items
from ir.dims import Dim
from ir.errors import ShapeError
from ir.ops import conv
from ir.ops.window import Pad, Pads, named_pads, per_axis
from ir.types import DType, TensorType


class ConvMethods(Core):
    """Convolutions."""

    def conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """Cross-correlation of x [N, C, *S] by w [K, C/groups, *k] → [N, K, *out].

        `pad` is "valid", "same", "full", a number, or (lo, hi) pairs.
        """
        size = self._spatial("conv", "x", x, "[N, C, *S]")
        kernel = self._spatial("conv", "w", w, "[K, C/groups, *k]")
        if len(size) != len(kernel):
            reason = f"x is {x.type} and w is {w.type}: different numbers of spatial axes"
            raise ShapeError(f"conv: {reason}; x must be [N, C, *S] and w [K, C/groups, *k]")
        attributes = *geometry(kernel, stride, pad, dilation), groups
        return self.apply(conv.Conv(*attributes), x, w, name=name)

    def conv_transpose(
        self,
        w: Value,
        g: Value,
        size: Sequence[Dim],
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """The adjoint of `conv` in x: w [K, C/groups, *k], g [N, K, *out] → [N, C, *size]."""
        kernel = self._spatial("conv_transpose", "w", w, "[K, C/groups, *k]")
        attributes = *geometry(kernel, stride, pad, dilation), groups, items("size", size)
        return self.apply(conv.ConvInputGrad(*attributes), w, g, name=name)

    def conv_weight_grad(
        self,
        g: Value,
        x: Value,
        kernel: Sequence[Dim],
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """The adjoint of `conv` in w: g [N, K, *out], x → [K, C/groups, *kernel]."""
        cells = items("kernel", kernel)
        attributes = *geometry(cells, stride, pad, dilation), groups, cells
        return self.apply(conv.ConvWeightGrad(*attributes), g, x, name=name)


def geometry(
    kernel: Sequence[Dim], stride: PerAxis, pad: Pad, dilation: PerAxis
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    axes = len(kernel)
    sizes = TensorType(DType.FLOAT32, tuple(kernel)).static_shape
    dilations = per_axis(dilation, axes, "dilation")
    return per_axis(stride, axes, "stride"), named_pads(pad, sizes, dilations), dilations
