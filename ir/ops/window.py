"""The geometry that convolution and pooling share: sizes, padding, taps.

Sizes follow Goodfellow et al. 2016, section 9.5: one formula, its precondition first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.op import Op, require_integer
from ir.types import Array, described

Pads: TypeAlias = tuple[tuple[int, int], ...]
Pad: TypeAlias = int | str | Sequence[int | Sequence[int]]
Extent = TypeVar("Extent", int, Dim)


def output_size(n: Dim, k: Dim, stride: int, lo: int, hi: int, dilation: int = 1) -> Dim:
    """floor((n + lo + hi - K)/stride) + 1 for the dilated kernel extent K = (k-1)·dilation + 1.

    ShapeError when the padded input is smaller than the kernel. A symbolic `n` is checked when
    it is bound.
    """
    extent = (k - 1) * dilation + 1
    room = n + lo + hi - extent
    if isinstance(k, int) and k < 1:
        raise ShapeError(f"a kernel of {k} cells is empty")
    if isinstance(room, int) and room < 0:
        padded = f"input {n} padded by ({lo}, {hi})"
        hint = "pad more or use a smaller kernel"
        raise ShapeError(f"{padded} is smaller than a kernel of extent {extent}; {hint}")
    return room // stride + 1


def least_transposed(
    out: Extent, k: int, stride: int, lo: int = 0, hi: int = 0, dilation: int = 1
) -> Extent:
    """The least of `transposed_sizes`, (out-1)·stride + K - lo - hi: windows read all its cells."""
    return (out - 1) * stride + (k - 1) * dilation + 1 - lo - hi


def transposed_sizes(
    out: int, k: int, stride: int, lo: int = 0, hi: int = 0, dilation: int = 1
) -> range:
    """The input extents from which a convolution makes `out` cells: those to transpose it to.

    There are `stride` of them, from `least_transposed` on, less where pads leave none.
    """
    least = least_transposed(out, k, stride, lo, hi, dilation)
    return range(max(least, 0), max(least + stride, 0)) if out > 0 else range(0)


def pooled_size(n: Dim, k: int, stride: int, lo: int, hi: int, edge: str) -> Dim:
    """The number of windows on an axis whose `lo`, `hi` padding cells are absent.

    "drop" keeps whole windows only; "partial" also those that overhang the end, as long as they
    start on a cell that exists (Goodfellow et al. 2016, figure 9.10). A symbolic `n` is taken to
    hold at least one whole window; binding checks it again.
    """
    if isinstance(n, int) and n < 1:
        raise ShapeError(f"an axis of {n} cells cannot be pooled; give at least one cell")
    if edge == "drop":
        return output_size(n, k, stride, lo, hi)
    room = n + lo + hi - k
    if isinstance(room, int):
        assert isinstance(n, int)
        whole_or_partial = -(-max(0, room) // stride) + 1
        return min(whole_or_partial, -(-(n + lo) // stride))
    return (n + lo + stride - 1 + min(hi - k + stride, 0)) // stride


def per_axis(value: int | Sequence[int], axes: int, what: str) -> tuple[int, ...]:
    """One int per axis, from an int for all of them or from a sequence."""
    values: Any = (value,) * axes if _whole(value) else value
    if not isinstance(values, Sequence | np.ndarray) or not all(map(_whole, values)):
        hint = "give a whole number, or one per spatial axis"
        raise AttributeValueError(f"{what} = {_shown(value)}: {hint}")
    if len(values) != axes:
        wrong = f"has {len(values)} entries for {axes} axes"
        raise AttributeValueError(f"{what} = {_shown(values)} {wrong}")
    return tuple(values)


def named_pads(
    pad: int | str | Sequence[int | Sequence[int]], kernel: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """Explicit (lo, hi) pairs from an int, a mode, one int per axis, or the pairs themselves.

    Modes refer to the dilated kernel and to stride 1: "valid" pads nothing, "same" K-1 in all
    (the odd cell at the high end), "full" K-1 at both ends.
    """
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if pad == "valid":
        return tuple((0, 0) for _ in extents)
    if pad == "same":
        return tuple(((k - 1) // 2, k // 2) for k in extents)
    if pad == "full":
        return tuple((k - 1, k - 1) for k in extents)
    hint = 'use "valid", "same", "full", a whole number or (lo, hi) pairs'
    if isinstance(pad, str):
        raise AttributeValueError(f'pad = "{pad}" is not a mode; {hint}')
    if _whole(pad):
        return (_pair(pad),) * len(extents)
    if not isinstance(pad, Sequence | np.ndarray):
        raise AttributeValueError(f"pad = {_shown(pad)} is no padding; {hint}")
    return tuple(_pair(p) for p in pad)


def require_geometry(op: Op, stride: Any, pads: Any, **others: Any) -> None:
    """AttributeValueError unless all attributes have one legal entry per spatial axis."""
    axes = max(len(stride), 1) if isinstance(stride, tuple) else 1
    for name, value in {"stride": stride, "pads": pads, **others}.items():
        if not isinstance(value, tuple) or len(value) != axes:
            hint = f"must be a tuple with one entry for each of the {axes} spatial axes"
            raise AttributeValueError(f"{op.name}: {name} = {_shown(value)} {hint}")
    for name, value in {**others, "stride": stride, "pads": pads}.items():  # a window, then strides
        for item in value:
            if name != "pads":
                require_integer(op, name, item, 1)
            elif not isinstance(item, tuple) or len(item) != 2:
                raise AttributeValueError(f"{op.name}: pads = {pads} must hold (lo, hi) pairs")
            else:
                require_integer(op, "pads", item[0])
                require_integer(op, "pads", item[1])


def pad_spatial(x: Array, pads: Pads) -> Array:
    """`x` [N, C, *S] with zeros around it on the spatial axes; negative pads crop."""
    sizes = [n + lo + hi for n, (lo, hi) in zip(x.shape[2:], pads, strict=True)]
    padded = np.zeros((*x.shape[:2], *sizes), x.dtype)
    inside, kept = _overlap(x.shape[2:], pads)
    padded[inside] = x[kept]
    return padded


def crop_spatial(padded: Array, pads: Pads, size: Sequence[int]) -> Array:
    """The adjoint of `pad_spatial`: [N, C, *size] read back from its padded form."""
    x = np.zeros((*padded.shape[:2], *size), padded.dtype)
    inside, kept = _overlap(size, pads)
    x[kept] = padded[inside]
    return x


def taps(
    kernel: Sequence[int], out: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Every kernel offset m, row-major, with the index of the cells that the windows have there.

    Indexing a padded [N, C, *S] array with it gives a view [N, C, *out]: cell j·stride + m·dilation
    of every window j.
    """
    for m in product(*map(range, kernel)):
        starts = [offset * d for offset, d in zip(m, dilation, strict=True)]
        axes = zip(starts, out, stride, strict=True)
        yield m, (..., *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in axes))


def _pair(pad: Any) -> tuple[int, int]:
    pair = (pad, pad) if _whole(pad) else pad
    if not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2 or not all(map(_whole, pair)):
        hint = "must be one whole number or a (lo, hi) pair of them"
        raise AttributeValueError(f"pad = {_shown(pad)} {hint}")
    return pair[0], pair[1]


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value for a message; of an array, its type and shape."""
    return described(value) if isinstance(value, np.ndarray) else f"{value!r:.60}"


def _overlap(size: Sequence[int], pads: Pads) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Indices of the cells that survive padding: in the padded array, in the array itself."""
    inside: list[Any] = [...]
    kept: list[Any] = [...]
    for n, (lo, hi) in zip(size, pads, strict=True):
        start = min(max(0, -lo), n)
        stop = max(start, min(n, n + hi))
        kept.append(slice(start, stop))
        inside.append(slice(start + lo, stop + lo) if start < stop else slice(0, 0))
    return tuple(inside), tuple(kept)
