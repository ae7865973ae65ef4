"""Builder methods for convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ir.build.core import PerAxis, Value, items, naming
from ir.build.movement import MovementMethods
from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.ops import cast, circular, connected, conv, local, shape, tiled
from ir.ops.composite import CompositeGrad
from ir.ops.window import Pad, Pads, least_transposed, named_pads, per_axis

Geometry = tuple[tuple[int, ...], Pads, tuple[int, ...]]
Given = tuple[PerAxis, Pad, PerAxis]


class ConvMethods(MovementMethods):
    """Convolutions of x [N, C, *S] by kernels w.

    `pad` is "valid", "same", "full", a number, or (lo, hi) pairs; it does not depend on the stride.
    With `flip` kernels run backwards along the spatial axes: true convolution instead of
    cross-correlation. With `boundary` "circular" what is padded is x itself, round and round,
    instead of zeros.
    """

    def conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Cross-correlation of x by w [K, C/groups, *k] → [N, K, *out]."""
        axes = self._axes("conv", x, w, "[K, C/groups, *k]", 1)
        cells, given = range(2, axes + 2), (stride, pad, dilation)
        x, w, where = self._bounded("conv", x, w, cells, given, flip, boundary)
        return self.apply(conv.Conv(*where, groups), x, w, name=name)

    def depthwise_conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Every channel by kernels of its own: w [C·m, 1, *k] → [N, C·m, *out]."""
        self._axes("depthwise_conv", x, w, "[C·m, 1, *k]", 1)
        channels = x.shape[1]
        if not isinstance(channels, int) or channels == 0:
            raise ShapeError(f"depthwise_conv: %{x.name} is {x.type}; its channels must be known")
        return self.conv(x, w, stride, pad, dilation, channels, flip, boundary, name)

    def separable_conv(
        self,
        x: Value,
        depthwise: Value,
        pointwise: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Depthwise [C·m, 1, *k], then across channels, pointwise [K, C·m, 1…] → [N, K, *out]."""
        y = self.depthwise_conv(x, depthwise, stride, pad, dilation, flip, boundary)
        return self.conv(y, pointwise, name=name)

    def connected_conv(
        self,
        x: Value,
        w: Value,
        connections: Any,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Convolution under a matrix [K, C] of 0 and 1: which output reads which input channel.

        Only kernels of connections exist: w [number of ones, *k], row after row → [N, K, *out].
        """
        axes = self._axes("connected_conv", x, w, "[connections, *k]", 1, 1)
        cells, given = range(1, axes + 1), (stride, pad, dilation)
        x, w, where = self._bounded("connected_conv", x, w, cells, given, flip, boundary)
        rows = rows_of("connected_conv", connections, x)
        return self.apply(connected.ConnectedConv(*where, rows), x, w, name=name)

    def local_conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        connections: Any = None,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """A kernel of its own for every output cell: w [K, *out, C/groups, *k] → [N, K, *out].

        Under a connection matrix as in `connected_conv`, w is [number of ones, *out, *k].
        """
        layout = "[K, *out, C/groups, *k]" if connections is None else "[connections, *out, *k]"
        axes = self._axes("local_conv", x, w, layout, 2, 2 if connections is None else 1)
        first = w.type.rank - axes
        cells, given = range(first, first + axes), (stride, pad, dilation)
        x, w, where = self._bounded("local_conv", x, w, cells, given, flip, boundary)
        if connections is None:
            return self.apply(local.LocalConv(*where, groups), x, w, name=name)
        if groups != 1:
            raise AttributeValueError("local_conv: give groups or connections, not both")
        rows = rows_of("local_conv", connections, x)
        return self.apply(connected.ConnectedLocalConv(*where, rows), x, w, name=name)

    def tiled_conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        phase: PerAxis = 0,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Kernels that take turns along the axes: w [K, C/groups, *k, *t] → [N, K, *out].

        Output cell j has the kernel at (j + phase) mod t; each axis has a range t of its own.
        """
        axes = self._axes("tiled_conv", x, w, "[K, C/groups, *k, *t]", 2)
        cells, given = range(2, axes + 2), (stride, pad, dilation)
        x, w, where = self._bounded("tiled_conv", x, w, cells, given, flip, boundary)
        with naming("tiled_conv", x, w):
            op = tiled.TiledConv(*where, groups, per_axis(phase, axes, "phase"))
        return self.apply(op, x, w, name=name)

    def tiled_bias(self, x: Value, b: Value, phase: PerAxis = 0, name: str | None = None) -> Value:
        """x [N, C, *S] plus b [C, *t], repeated: cell j gets b at (j + phase) mod t."""
        axes = len(self._spatial("tiled_bias", "x", x, "[N, C, *S]"))
        with naming("tiled_bias", x, b):
            op = tiled.TiledBias(per_axis(phase, axes, "phase"))
        return self.apply(op, x, b, name=name)

    def circular_pad(self, x: Value, pad: Pad, name: str | None = None) -> Value:
        """x [N, C, *S] continued round and round: a number, or (lo, hi) pairs for S."""
        axes = len(self._spatial("circular_pad", "x", x, "[N, C, *S]"))
        if isinstance(pad, str):
            hint = "give a number or (lo, hi) pairs; names are for kernels"
            raise AttributeValueError(f'circular_pad: pad = "{pad}": {hint}')
        with naming("circular_pad", x):
            pads = named_pads(pad, (1,) * axes, (1,) * axes)
        return self.apply(circular.CircularPad(pads), x, name=name)

    def conv_transpose(
        self,
        x: Value,
        w: Value,
        size: Sequence[Dim] | None = None,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        flip: bool = False,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """The adjoint of `conv` in its images: x [N, K, *out], w [K, C/groups, *k] → [N, C, *size].

        Of the sizes that `ir.transposed_sizes` lists for an axis, each is possible; the default
        is the least, (out - 1)·stride + (k - 1)·dilation + 1 - lo - hi. `flip` and `boundary` are
        those of the convolution.
        """
        axes = self._axes("conv_transpose", x, w, "[K, C/groups, *k]", 1)
        with naming("conv_transpose", x, w):
            if w.shape[0] != x.shape[1]:
                hint = "x is [N, K, *out] and comes first, then w [K, C/groups, *k]"
                raise ShapeError(f"x has {x.shape[1]} channels, w is for {w.shape[0]}; {hint}")
            strides, pads, dilations = geometry(w.shape[2:], stride, pad, dilation)
            extents = _transposed_size(x, w, size, strides, pads, dilations)
            around = _circular(boundary)
        if flip:
            w = self.reverse(w, range(2, axes + 2))
        if around:
            wide = tuple(n + lo + hi for n, (lo, hi) in zip(extents, pads, strict=True))
            none = ((0, 0),) * len(pads)
            op = conv.ConvInputGrad(strides, none, dilations, groups, wide)
            return self._folded(self.apply(op, w, x), pads, extents, name)
        op = conv.ConvInputGrad(strides, pads, dilations, groups, extents)
        return self.apply(op, w, x, name=name)

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
        with naming("conv_weight_grad", self._own(g), self._own(x)):
            attributes = *geometry(cells, stride, pad, dilation), groups, cells
        return self.apply(conv.ConvWeightGrad(*attributes), g, x, name=name)

    def _axes(self, op: str, x: Value, w: Value, layout: str, times: int, others: int = 2) -> int:
        """The spatial axes of x, after checking that w has so many `times`, and `others`."""
        axes = len(self._spatial(op, "x", x, "[N, C, *S]"))
        if self._own(w).type.rank != times * axes + others:
            wanted = f"w must be {layout} and x must be [N, C, *S] with as many spatial axes"
            raise ShapeError(f"{op}: %{w.name} is {w.type} and %{x.name} {x.type}, but {wanted}")
        return axes

    def _bounded(
        self, op: str, x: Value, w: Value, kernel: range, given: Given, flip: bool, boundary: str
    ) -> tuple[Value, Value, Geometry]:
        """The operands with the flip and the circular boundary done, and what pads are left."""
        with naming(op, x, w):
            stride, pads, dilation = geometry([w.shape[axis] for axis in kernel], *given)
            around = _circular(boundary)
        if flip:
            w = self.reverse(w, tuple(kernel))
        if around:
            x = self.apply(circular.CircularPad(pads), x)
            pads = ((0, 0),) * len(pads)
        return x, w, (stride, pads, dilation)

    def _folded(self, g: Value, pads: Pads, size: tuple[Dim, ...], name: str | None) -> Value:
        """The adjoint of padding an image of this size with itself: copies of a cell add up."""
        zero = self.apply(cast.Constant(0.0, g.dtype.value))
        image = self.apply(shape.Expand((*g.shape[:2], *size)), zero)
        return self.apply(CompositeGrad(circular.CircularPad(pads)), image, g, name=name)


def _circular(boundary: str) -> bool:
    if boundary not in ("zero", "circular"):
        raise AttributeValueError(f'boundary = {boundary!r} must be "zero" or "circular"')
    return boundary == "circular"


def geometry(kernel: Sequence[Dim], stride: PerAxis, pad: Pad, dilation: PerAxis) -> Geometry:
    """Stride, pads and dilation per axis, for a kernel of this spatial shape."""
    axes, sizes = len(kernel), [n for n in kernel if isinstance(n, int)]
    if len(sizes) < axes:
        given = ", ".join(map(str, kernel))
        raise ShapeError(f"a kernel of [{given}] cells; give kernels of known extents")
    dilations = per_axis(dilation, axes, "dilation")
    return per_axis(stride, axes, "stride"), named_pads(pad, sizes, dilations), dilations


def _transposed_size(
    x: Value,
    w: Value,
    size: Sequence[Dim] | None,
    strides: tuple[int, ...],
    pads: Pads,
    dilations: tuple[int, ...],
) -> tuple[Dim, ...]:
    """The size as given, else the least; ShapeError where pads leave none."""
    if size is not None:
        return items("size", size)
    kernel = w.type.with_shape(*w.shape[2:]).static_shape
    each = zip(x.shape[2:], kernel, strides, pads, dilations, strict=True)
    least = tuple(least_transposed(n, k, s, *p, d) for n, k, s, p, d in each)
    if any(isinstance(n, int) and n < 0 for n in least):
        raise ShapeError(f"pads {pads} leave a size of {least}; pad less or give the size")
    return least


def rows_of(op: str, connections: Any, x: Value) -> connected.Connections:
    """The input channels of each output; AttributeValueError for what is no connection matrix."""
    matrix = np.asarray(connections)
    if matrix.ndim != 2 or not np.isin(matrix, (0, 1)).all():
        given = f"connections of shape {list(matrix.shape)}"
        raise AttributeValueError(f"{op}: {given} must be a matrix of 0 and 1, outputs by inputs")
    if matrix.shape[1] != x.shape[1]:
        given = f"connections have {matrix.shape[1]} columns"
        raise ShapeError(f"{op}: {given} for the {x.shape[1]} channels of {x.type}")
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
