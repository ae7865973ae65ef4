"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import ir
from convc.frontends.onnx.call import Call, Emit, fixed
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.operators.windows import (
    explicit_pads,
    padding_mode,
    per_axis,
    spatial,
    split,
    windows,
)
from ir.dims import Dim
from ir.ops.window import Pads


def _kernel(n: Call, axes: int) -> tuple[int, ...]:
    """The spatial shape of the kernel, which the attribute kernel_shape may repeat."""
    shape = n.shape(1)
    if len(shape) != axes + 2:
        raise NodeError(f"the kernel has {len(shape)} axes for an image of {axes + 2}")
    cells = fixed(shape[2:])
    declared = n.attributes.integers("kernel_shape")
    if declared is not None and declared != cells:
        raise NodeError(f"attribute kernel_shape = {declared}, but the kernel has {cells}")
    return cells


def _groups(n: Call) -> int:
    groups = n.attributes.integer("group", 1)
    if groups < 1:
        raise NodeError(f"attribute group = {groups} must be positive")
    return groups


def _biased(n: Call, y: ir.Value) -> ir.Value:
    return n.b.bias(y, n.x(2)) if n.has(2) else y


def _conv(n: Call) -> ir.Value:
    size = spatial(n)
    where = windows(n, size, _kernel(n, len(size)))
    x, w = n.x(0), n.x(1)
    return _biased(n, n.b.conv(x, w, where.stride, where.pads, where.dilation, _groups(n)))


def _conv_transpose(n: Call) -> ir.Value:
    """The adjoint of a convolution; the size of its result is explicit.

    Cells that output_padding adds beyond what one stride allows are padding less.
    """
    size = spatial(n)
    axes = len(size)
    cells = _kernel(n, axes)
    stride, dilation = per_axis(n, "strides", axes), per_axis(n, "dilations", axes)
    extra = n.attributes.integers("output_padding", axes) or (0,) * axes
    if any(cell < 0 for cell in extra):
        raise NodeError(f"attribute output_padding = {extra} must not be negative")
    extents = [(k - 1) * d + 1 for k, d in zip(cells, dilation, strict=True)]
    parts = zip(size, stride, extents, extra, strict=True)
    whole = [(m - 1) * s + k + more for m, s, k, more in parts]
    pads = _transposed_pads(n, size, stride, whole)
    out = tuple(cell - lo - hi for cell, (lo, hi) in zip(whole, pads, strict=True))
    pads = tuple(
        (lo, hi - more if more >= s else hi)
        for (lo, hi), more, s in zip(pads, extra, stride, strict=True)
    )
    x, w = n.x(0), n.x(1)
    return _biased(n, n.b.conv_transpose(x, w, out, stride, pads, dilation, _groups(n)))


def _transposed_pads(
    n: Call, size: Sequence[Dim], stride: Sequence[int], whole: Sequence[Dim]
) -> Pads:
    """What is cut off the result that has not been cut: as attributes say, or to be so large."""
    axes = len(size)
    mode = padding_mode(n)
    wanted: Sequence[Dim] | None = n.attributes.integers("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        return explicit_pads(n, axes) if mode == "NOTSET" else ((0, 0),) * axes
    if wanted is None:
        wanted = [m * s for m, s in zip(size, stride, strict=True)]
    elif len(wanted) == axes + 2:  # some write the batch and the channels too
        wanted = wanted[2:]
    if len(wanted) != axes:
        raise NodeError(f"attribute output_shape has {len(wanted)} entries, not {axes}")
    totals = fixed([a - b for a, b in zip(whole, wanted, strict=True)])
    return tuple(split(total, mode) for total in totals)


CONVOLUTIONS: dict[str, Emit] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
