"""Where windows lie: strides, dilations and padding of all kinds as explicit pads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convc.frontends.onnx.call import Call
from convc.frontends.onnx.errors import GIVE_SHAPES, NodeError
from ir.dims import Dim
from ir.ops.window import Pads

NAMED = ("SAME_UPPER", "SAME_LOWER", "VALID")


class Windows(NamedTuple):
    """Per spatial axis: cells, stride, (lo, hi) pads, dilation."""

    cells: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]


def windows(n: Call, size: Sequence[Dim], cells: tuple[int, ...]) -> Windows:
    """The windows over an image of spatial shape `size`.

    SAME_UPPER and SAME_LOWER pad so that there are ⌈size/stride⌉ windows, reckoned with the dilated
    window; where fewer cells than the image has are needed, nothing is padded.
    """
    axes = len(size)
    stride, dilation = per_axis(n, "strides", axes), per_axis(n, "dilations", axes)
    mode = padding_mode(n)
    extents = [(k - 1) * d + 1 for k, d in zip(cells, dilation, strict=True)]
    if mode == "NOTSET":
        return Windows(cells, stride, explicit_pads(n, axes), dilation)
    if mode == "VALID":
        return Windows(cells, stride, ((0, 0),) * axes, dilation)
    parts = zip(size, extents, stride, strict=True)
    totals = [_same(extent, k, s) for extent, k, s in parts]
    return Windows(cells, stride, tuple(split(total, mode) for total in totals), dilation)


def _same(size: Dim, extent: int, stride: int) -> int:
    """How many cells to pad in all."""
    if stride == 1:
        return extent - 1
    if not isinstance(size, int):
        raise NodeError(f"auto_pad with stride {stride} of a symbolic size; {GIVE_SHAPES}")
    return max((-(-size // stride) - 1) * stride + extent - size, 0)


def split(total: int, mode: str) -> tuple[int, int]:
    """A number of cells at both ends, an odd one where the mode says."""
    less = total // 2
    return (less, total - less) if mode == "SAME_UPPER" else (total - less, less)


def padding_mode(n: Call) -> str:
    """The attribute auto_pad."""
    return n.attributes.choice("auto_pad", "NOTSET", *NAMED, "") or "NOTSET"


def per_axis(n: Call, name: str, axes: int) -> tuple[int, ...]:
    """An attribute of positive integers, 1 by default."""
    values = n.attributes.integers(name, axes) or (1,) * axes
    if any(value < 1 for value in values):
        raise NodeError(f"attribute {name} = {values} must be positive")
    return values


def explicit_pads(n: Call, axes: int) -> Pads:
    """The attribute pads, all beginnings before all ends, as pairs."""
    pads = n.attributes.integers("pads", 2 * axes) or (0,) * (2 * axes)
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


def window_cells(n: Call, axes: int) -> tuple[int, ...]:
    """The attribute kernel_shape of a pool."""
    cells = n.attributes.integers("kernel_shape", axes)
    if cells is None or any(k < 1 for k in cells):
        raise NodeError(f"attribute kernel_shape = {cells} must be positive integers")
    return cells


def spatial(n: Call) -> tuple[Dim, ...]:
    """The spatial extents of operand 0, [N, C, *S]; NodeError without any."""
    shape = n.shape(0)
    if len(shape) < 3:
        listed = ", ".join(map(str, shape))
        raise NodeError(f"operand 0 has the shape [{listed}], but must be [N, C, *S]")
    return shape[2:]
