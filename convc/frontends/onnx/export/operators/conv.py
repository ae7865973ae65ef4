"""Convolution, and its two gradients as convolutions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ir
from convc.frontends.onnx.export.call import Call, Emit
from convc.frontends.onnx.export.operators.movement import padded, sliced
from convc.frontends.onnx.export.operators.pointwise import channels
from convc.frontends.onnx.export.steps import unread
from ir import ops
from ir.dims import Dim
from ir.ops.conv import ConvAttributes
from ir.ops.window import Pads, output_size


class Windows(NamedTuple):
    """Per spatial axis: stride, (lo, hi) pads, dilation."""

    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]


def flat(pads: Pads) -> list[int]:
    """All beginnings before all ends."""
    return [lo for lo, _ in pads] + [hi for _, hi in pads]


def geometry(op: ConvAttributes) -> dict[str, Any]:
    """The attributes but pads."""
    return {"strides": op.stride, "dilations": op.dilation, "group": op.groups}


def cropped(n: Call[Any], x: str, shape: Sequence[Dim], pads: Pads) -> tuple[str, list[int]]:
    """An image and the pads that are left to do: none, where some of them crop."""
    if all(pad >= 0 for pad in flat(pads)):
        return x, flat(pads)
    return padded(n, x, shape, ((0, 0), (0, 0), *pads)), [0] * (2 * len(pads))


def _conv(n: Call[ops.Conv]) -> str:
    x, w, *bias = n.operands
    x, pads = cropped(n, x, n.shape, n.op.pads)
    return n("Conv", x, w, *bias, pads=pads, **geometry(n.op))


def _input_grad(n: Call[ops.ConvInputGrad]) -> str:
    w, g, *bias = n.operands
    extra = unread(n.op, n.types[0].shape[2:], n.types[1].shape[2:])
    where = Windows(n.op.stride, n.op.pads, n.op.dilation)
    return transposed(n, (g, w, *bias), where, n.out, extra, group=n.op.groups)


def transposed(
    n: Call[Any],
    operands: Sequence[str],
    where: Windows,
    out: Sequence[Dim],
    extra: Sequence[Dim],
    group: int = 1,
) -> str:
    """A transposed convolution with a result of shape `out`, of which `extra` cells at the end of
    each axis exceed the smallest. Where these are symbolic, as many as can be are made, and cut.

    Cells that the convolution crops are padding here; the bias comes after it.
    """
    image, kernel, *bias = operands
    crops = any(pad < 0 for pad in flat(where.pads))
    more = [cells if isinstance(cells, int) else s - 1
            for cells, s in zip(extra, where.stride, strict=True)]  # fmt: skip
    y = n("ConvTranspose", image, kernel, *(() if crops else bias), strides=where.stride,
          pads=[max(pad, 0) for pad in flat(where.pads)], dilations=where.dilation,
          output_padding=more, group=group)  # fmt: skip
    if crops:
        axes, around = len(where.pads), [max(-pad, 0) for pad in flat(where.pads)]
        y = n("Pad", y, n.integers([0, 0, *around[:axes], 0, 0, *around[axes:]], "pads"))
    if more != list(extra):
        y = sliced(n, y, [0] * len(out), out)
    return n("Add", y, channels(n, bias[0], out)) if crops and bias else y


def _weight_grad(n: Call[ops.ConvWeightGrad]) -> str:
    """x with its examples as channels, convolved by g with its examples as channels; the stride
    and the dilation change places. Windows at the end that the kernel lacks are cut off."""
    op, (g, x) = n.op, n.operands
    batch, channels, *size = n.types[1].shape
    x, pads = cropped(n, x, (batch, channels, *size), op.pads)
    rest = tuple(range(2, len(size) + 2))
    if pads != flat(op.pads):
        size = [s + lo + hi for s, (lo, hi) in zip(size, op.pads, strict=True)]
    if op.groups > 1:
        per_group = channels // op.groups
        x = n.reshaped(x, (batch, channels, *size), (batch, op.groups, per_group, *size))
        x = n("Transpose", x, perm=(2, 1, 0, *(axis + 1 for axis in rest)))
        x = n.reshaped(x, (per_group, op.groups, batch, *size),
                       (per_group, batch * op.groups, *size))  # fmt: skip
    else:
        x = n("Transpose", x, perm=(1, 0, *rest))
    kernels = n("Transpose", g, perm=(1, 0, *rest))
    y = n("Conv", x, kernels, strides=op.dilation, dilations=op.stride, pads=pads, group=op.groups)
    w = n("Transpose", y, perm=(1, 0, *rest))
    axes = zip(n.types[1].shape[2:], n.types[0].shape[2:], op.dilation, op.pads, op.stride,
               strict=True)  # fmt: skip
    windows = tuple(output_size(m, k, s, lo, hi, d) for m, k, s, (lo, hi), d in axes)
    return w if windows == n.out[2:] else sliced(n, w, [0] * len(n.out), n.out)


CONVOLUTIONS: dict[type[ir.Op], Emit] = {
    ops.Conv: _conv,
    ops.ConvInputGrad: _input_grad,
    ops.ConvWeightGrad: _weight_grad,
}
