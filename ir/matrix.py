"""A convolution as a matrix: sparse, and with the same few numbers on every diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ir.errors import AttributeValueError, ShapeError
from ir.ops.window import Pad, named_pads, output_size, per_axis
from ir.types import Array


def convolution_matrix(
    w: Array,
    size: Sequence[int],
    stride: int | Sequence[int] = 1,
    pad: Pad = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    flip: bool = False,
    boundary: str = "zero",
) -> Array:
    """The matrix M of `Builder.conv` by w [K, C/groups, *k] on inputs [C, *size].

    With row-major vectors, M @ x.reshape(-1) is the convolution of x [C, *size], [K, *out], and
    M.T is its transpose. M is Toeplitz on one axis and doubly block Toeplitz on two; with
    `boundary` "circular" and as many outputs as inputs, (doubly block) circulant. Goodfellow et
    al. 2016, section 9.1. For small sizes: M has K·out·C·size entries, most of them 0.

    Raises ShapeError and AttributeValueError as the builder does.
    """
    w = np.asarray(w)
    axes = len(size)
    if w.ndim != axes + 2 or groups < 1 or w.shape[0] % groups:
        wanted = f"[K, C/groups, *k] for inputs of size {tuple(size)} in {groups} groups"
        raise ShapeError(f"convolution_matrix: w has shape {w.shape}, but must be {wanted}")
    if boundary not in ("zero", "circular"):
        raise AttributeValueError(f'boundary = {boundary!r} must be "zero" or "circular"')
    if flip:
        w = np.flip(w, tuple(range(2, axes + 2)))
    kernel = w.shape[2:]
    strides, dilations = per_axis(stride, axes, "stride"), per_axis(dilation, axes, "dilation")
    geometry = zip(
        size, kernel, strides, named_pads(pad, kernel, dilations), dilations, strict=True
    )
    reads = [_reads(*axis, boundary == "circular") for axis in geometry]
    per_output, per_input = len(w) // groups, w.shape[1]
    matrix = np.zeros((len(w), *(r.shape[1] for r in reads), per_input * groups, *size), w.dtype)
    for i, read, *m in np.ndindex(*w.shape):
        channel = i // per_output * per_input + read
        pairs = [np.nonzero(r[offset]) for r, offset in zip(reads, m, strict=True)]
        rows, columns = (np.ix_(*part) for part in zip(*pairs, strict=True))
        matrix[(i, *rows, channel, *columns)] += w[(i, read, *m)]
    return matrix.reshape(len(w) * _cells(reads), -1)


def _reads(
    n: int, k: int, stride: int, pads: tuple[int, int], dilation: int, circular: bool
) -> Array:
    """[k, out, n]: whether output j reads input a with kernel offset m, on one axis."""
    out = output_size(n, k, stride, *pads, dilation)
    assert isinstance(out, int)
    offsets, outputs = np.arange(k)[:, None], np.arange(out)[None]
    cells = outputs * stride + offsets * dilation - pads[0]
    if circular and n:
        cells = cells % n
    read: Array = cells[..., None] == np.arange(n)
    return read


def _cells(reads: Sequence[Array]) -> int:
    return math.prod(r.shape[1] for r in reads)
