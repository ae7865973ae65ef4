"""What changes the borders of an image or cuts it into blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Known, Result, axis_of, fixed
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.symbolic import is_symbolic
from ir.dims import Dim

Pairs = dict[int, tuple[Dim, Dim]]
NUMPY_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _pad(n: Call) -> Result:
    """Cells around, or fewer where pads are negative: constant, or what lies inside."""
    rank = len(n.shape())
    pairs = _pads(n, rank)
    mode = n.attributes.choice("mode", "constant", "reflect", "edge", "wrap")
    filler = 0.0
    if n.opset < 11:
        filler = n.attributes.number("value", 0.0)
    elif n.has(2):
        filler = n.number(2, "the value of the padding")
    operand = n.operand(0)
    if isinstance(operand, Known) and not is_symbolic(operand.array) and mode == "constant":
        amounts = [fixed(pairs.get(axis, (0, 0))) for axis in range(rank)]
        if all(amount >= 0 for pair in amounts for amount in pair):
            sizes = [k + lo + hi for k, (lo, hi) in zip(operand.array.shape, amounts, strict=True)]
            n.budget(8 * math.prod(sizes))
            return np.pad(operand.array, amounts, constant_values=filler)
    x = n.x()
    if mode == "constant":
        return n.b.pad(x, pairs, filler)
    crops = {axis: tuple(min(side, 0) for side in fixed(pair)) for axis, pair in pairs.items()}
    if any(side for pair in crops.values() for side in pair):
        x = n.b.pad(x, {axis: (pair[0], pair[1]) for axis, pair in crops.items()})
    for axis, pair in pairs.items():
        lo, hi = (max(side, 0) for side in fixed(pair))
        if lo or hi:
            x = _continued(n, x, axis, lo, hi, mode)
    return x


def _pads(n: Call, rank: int) -> Pairs:
    """Pads before and after each axis that has some."""
    if n.opset < 11:
        amounts: Sequence[Dim] = n.attributes.integers("pads") or ()
    else:
        amounts = n.extents(1, "the pads")
    axes = n.integers(3, "axes") if n.has(3) else tuple(range(rank))
    if len(amounts) != 2 * len(axes):
        raise NodeError(f"{len(amounts)} pads for {len(axes)} axes")
    pairs: Pairs = {}
    for axis, lo, hi in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        at = axis_of(axis, rank)
        if at in pairs:
            raise NodeError(f"axis {axis} is padded twice")
        if lo != 0 or hi != 0:
            pairs[at] = (lo, hi)
    return pairs


def _continued(n: Call, x: ir.Value, axis: int, lo: int, hi: int, mode: str) -> ir.Value:
    """x with what lies inside at its borders too: mirrored, repeated, or from the other end."""
    b, size = n.b, x.shape[axis]
    least = {"reflect": 1, "edge": 0, "wrap": 0}[mode] + (max(lo, hi) if mode != "edge" else 1)
    if isinstance(size, int) and size < least:
        raise NodeError(f"mode {mode} pads axis {axis} of {size} by {lo} and {hi}: too many")

    def part(start: Dim, stop: Dim, count: int) -> ir.Value:
        cut = b.slice(x, {axis: (start, stop)})
        if mode == "reflect":
            return b.reverse(cut, axis)
        shape = tuple(count if i == axis else extent for i, extent in enumerate(x.shape))
        return b.expand(cut, shape) if mode == "edge" else cut

    ends = {
        "reflect": ((1, lo + 1), (size - 1 - hi, size - 1)),
        "edge": ((0, 1), (size - 1, size)),
        "wrap": ((size - lo, size), (0, hi)),
    }[mode]
    before = [part(*ends[0], lo)] if lo else []
    after = [part(*ends[1], hi)] if hi else []
    return b.concat([*before, x, *after], axis)


def _center_crop_pad(n: Call) -> ir.Value:
    """Axes of another size: cells cut off or zeros put at both ends, an odd one at the end."""
    x, wanted = n.x(), n.integers(1, "the shape")
    axes = n.attributes.integers("axes") or tuple(range(x.type.rank))
    if len(axes) != len(wanted):
        raise NodeError(f"a shape of {len(wanted)} extents for {len(axes)} axes")
    pads: Mapping[int, tuple[int, int]] = {
        at: _halves(n.sizes()[at], size)
        for at, size in (
            (axis_of(axis, x.type.rank), m) for axis, m in zip(axes, wanted, strict=True)
        )
    }
    return n.b.pad(x, pads)


def _halves(old: int, new: int) -> tuple[int, int]:
    more = abs(new - old)
    lo, hi = more // 2, more - more // 2
    return (lo, hi) if new > old else (-lo, -hi)


def _blocks(n: Call) -> tuple[int, bool]:
    size = n.attributes.integer("blocksize", 0)
    if size < 1 or len(n.shape()) != 4:
        raise NodeError(f"blocksize = {size} of {len(n.shape())} axes; it needs [N, C, H, W]")
    return size, n.attributes.choice("mode", "DCR", "CRD") == "DCR"


def _depth_to_space(n: Call) -> ir.Value:
    """Channels become blocks of cells; DCR: the place in a block counts before the channel."""
    size, depth_first = _blocks(n)
    batch, channels, height, width = n.shape()
    rest = channels // (size * size)
    split = (size, size, rest) if depth_first else (rest, size, size)
    parts = n.b.reshape(n.x(), (batch, *split, height, width))
    order = (0, 3, 4, 1, 5, 2) if depth_first else (0, 1, 4, 2, 5, 3)
    return n.b.reshape(n.b.transpose(parts, order), (batch, rest, height * size, width * size))


def _space_to_depth(n: Call) -> ir.Value:
    """The inverse."""
    size, depth_first = _blocks(n)
    batch, channels, height, width = n.shape()
    if any(isinstance(extent, int) and extent % size for extent in (height, width)):
        raise NodeError(f"{height} by {width} cells are no whole blocks of {size}")
    rows, columns = height // size, width // size
    parts = n.b.reshape(n.x(), (batch, channels, rows, size, columns, size))
    order = (0, 3, 5, 1, 2, 4) if depth_first else (0, 1, 3, 5, 2, 4)
    return n.b.reshape(n.b.transpose(parts, order), (batch, channels * size**2, rows, columns))


BORDERS: dict[str, Emit] = {
    "Pad": _pad,
    "CenterCropPad": _center_crop_pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
