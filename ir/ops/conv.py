"""Convolution and its two gradients, three ops closed under differentiation.

c(K, V) is `Conv`, g(G, V) `ConvWeightGrad`, h(K, G) `ConvInputGrad`: Goodfellow et al. 2016,
eq 9.8, 9.11 and 9.13. They are the three partial derivatives of one trilinear form,
⟨G, c(K, V)⟩ = ⟨K, g(G, V)⟩ = ⟨V, h(K, G)⟩, so each one's gradients are the other two.

Shapes: x [N, C, *S], w [K, C/groups, *k], g [N, K, *out]. Kernels are not flipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_extents, require_floats, require_integer
from ir.ops.window import (
    Pads,
    crop_spatial,
    output_size,
    pad_spatial,
    require_geometry,
    taps,
    transposed_sizes,
)
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder

LAYOUTS = {"x": "[N, C, *S]", "w": "[K, C/groups, *k]", "g": "[N, K, *out]"}


@dataclass(frozen=True)
class ConvGeometry(Op):
    """Where the windows of a convolution lie: one entry per spatial axis, pads as (lo, hi),
    negative ones crop."""

    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]

    def validate(self) -> None:
        require_geometry(self, self.stride, self.pads, dilation=self.dilation)

    def output_sizes(self, size: Sequence[Dim], kernel: Sequence[Dim]) -> tuple[Dim, ...]:
        """The spatial shape of the convolution of an input by a kernel; ShapeError if none."""
        axes = zip(size, kernel, self.stride, self.pads, self.dilation, strict=True)
        return tuple(output_size(n, k, s, lo, hi, d) for n, k, s, (lo, hi), d in axes)

    def check_rank(self, name: str, type: TensorType, layout: str, rank: int) -> None:
        """ShapeError unless the operand called `name` has this rank."""
        if type.rank != rank:
            wanted = f"{layout}, with as many spatial axes as stride {self.stride}"
            raise ShapeError(f"{self.name}: {name} is {type}, but must be {wanted}")

    def taps(
        self, kernel: Sequence[int], out: Sequence[int]
    ) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Kernel offsets and the input cells that they meet; see `window.taps`."""
        return taps(kernel, out, self.stride, self.dilation)


@dataclass(frozen=True)
class ConvAttributes(ConvGeometry):
    """What the three ops share: the geometry, and groups of channels that do not mix."""

    groups: int

    def validate(self) -> None:
        super().validate()
        require_integer(self, "groups", self.groups, 1)

    @property
    def attributes(self) -> tuple[tuple[int, ...], Pads, tuple[int, ...], int]:
        """The shared attributes, in the order of the constructors."""
        return self.stride, self.pads, self.dilation, self.groups

    def check_operands(self, *types: TensorType) -> None:
        """Float operands with a batch, a channel and as many spatial axes as the attributes."""
        require_floats(self, *types)
        for name, type in zip(self.operands, types, strict=True):
            self.check_rank(name, type, LAYOUTS[name], len(self.stride) + 2)

    def check_groups(self, what: str, channels: Dim) -> None:
        """ShapeError unless the channels split evenly over the groups."""
        if isinstance(channels, int) and channels % self.groups:
            hint = f"not a multiple of groups = {self.groups}"
            raise ShapeError(f"{self.name}: {channels} {what} channels are {hint}")

    def check_produces(self, size: Sequence[Dim], kernel: Sequence[Dim], g: TensorType) -> None:
        """ShapeError unless the convolution of `size` by `kernel` has the spatial shape of g."""
        out = self.output_sizes(size, kernel)
        if out != g.shape[2:]:
            pair = f"size {tuple(size)} and kernel {tuple(kernel)} give {out}"
            hint = self.legal_sizes(g.shape[2:], kernel)
            raise ShapeError(f"{self.name}: {pair}, but operand g has {g.shape[2:]}; {hint}")

    def legal_sizes(self, out: Sequence[Dim], kernel: Sequence[Dim]) -> str:
        """What input sizes have a convolution of shape `out`, in words."""
        axes = zip(out, kernel, self.stride, self.pads, self.dilation, strict=True)
        listed = []
        for j, k, stride, (lo, hi), dilation in axes:
            if not isinstance(j, int) or not isinstance(k, int):
                return "fix the size"
            sizes = transposed_sizes(j, k, stride, lo, hi, dilation)
            listed.append(f"{sizes.start} to {sizes.stop - 1}" if sizes else "none")
        return f"its size can come from {', '.join(listed)}"

    def multiply_adds(self, batch: Dim, w: Sequence[Dim], out: Sequence[Dim]) -> Dim:
        """Multiply-adds of any of the three: one per example, kernel element and output cell."""
        return batch * product(w) * product(out)

    def by_group(self, x: Array) -> Array:
        """[N, C, *S] as [N, groups, C/groups, cells]."""
        n, channels, *size = x.shape
        return x.reshape(n, self.groups, channels // self.groups, math.prod(size))

    def tap(self, w: Array, m: tuple[int, ...]) -> Array:
        """The matrices of one kernel offset: [groups, K/groups, C/groups]."""
        k, channels = w.shape[:2]
        taps: Array = w[at_tap(m)]
        return taps.reshape(self.groups, k // self.groups, channels)


@dataclass(frozen=True)
class Conv(ConvAttributes):
    """Strided, padded, dilated, grouped cross-correlation: x [N, C, *S], w → [N, K, *out]."""

    name: ClassVar[str] = "conv"
    formula: ClassVar[str] = "y[n,i,j] = Σ_l Σ_m x~[n,l, j·s + m·d - lo]·w[i,l,m]"
    operands: ClassVar[tuple[str, ...]] = ("x", "w")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        self.check_operands(x, w)
        self.check_groups("output", w.shape[0])
        if x.shape[1] != w.shape[1] * self.groups:
            kernel = f"kernel {w} with groups = {self.groups} reads {w.shape[1] * self.groups}"
            raise ShapeError(f"{self.name}: {kernel} channels, but x is {x}")
        out = self.output_sizes(x.shape[2:], w.shape[2:])
        return (x.with_shape(x.shape[0], w.shape[0], *out),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        (type,) = self.infer(TensorType.of(x), TensorType.of(w))
        n, k, *out = type.static_shape
        padded = pad_spatial(x, self.pads)
        y = np.zeros((n, self.groups, k // self.groups, math.prod(out)), x.dtype)
        for m, cells in self.taps(w.shape[2:], out):
            y += self.tap(w, m) @ self.by_group(padded[cells])
        return (y.reshape(n, k, *out),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if tuple(images) == (True, False) else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x, w), (g,) = inputs, upstream
        return (
            b.apply(ConvInputGrad(*self.attributes, x.shape[2:]), w, g),
            b.apply(ConvWeightGrad(*self.attributes, w.shape[2:]), g, x),
        )

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        (_, w), (y,) = inputs, outputs
        return self.multiply_adds(y.shape[0], w.shape, y.shape[2:]) * 2

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.attributes), c.type("x"), c.type("w")) for c in CASES
        )


@dataclass(frozen=True)
class ConvInputGrad(ConvAttributes):
    """Transposed convolution: w, g [N, K, *out] → [N, C, *size].

    `size` is the spatial shape of the result; it must be one from which `Conv` makes g's. Cells
    that no window reads are 0. Goodfellow et al. 2016, eq 9.13.
    """

    size: tuple[Dim, ...]

    name: ClassVar[str] = "conv_input_grad"
    formula: ClassVar[str] = "x[n,l,a] = Σ_i Σ_{(j,m): j·s + m·d - lo = a} w[i,l,m]·g[n,i,j]"
    operands: ClassVar[tuple[str, ...]] = ("w", "g")

    def validate(self) -> None:
        super().validate()
        require_extents(self, "size", self.size)
        if len(self.size) != len(self.stride):
            hint = f"{len(self.stride)} axes"
            raise AttributeValueError(f"{self.name}: size {self.size} needs {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        w, g = types
        self.check_operands(w, g)
        self.check_groups("output", w.shape[0])
        if g.shape[1] != w.shape[0]:
            raise ShapeError(f"{self.name}: g is {g}, but kernel {w} makes {w.shape[0]} channels")
        self.check_produces(self.size, w.shape[2:], g)
        return (g.with_shape(g.shape[0], w.shape[1] * self.groups, *self.size),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        w, g = arrays
        (type,) = self.infer(TensorType.of(w), TensorType.of(g))
        n, channels, *size = type.static_shape
        widths = [extent + lo + hi for extent, (lo, hi) in zip(size, self.pads, strict=True)]
        padded = np.zeros((n, channels, *widths), g.dtype)
        for m, cells in self.taps(w.shape[2:], g.shape[2:]):
            part = self.tap(w, m).swapaxes(1, 2) @ self.by_group(g)
            padded[cells] += part.reshape(n, channels, *g.shape[2:])
        return (crop_spatial(padded, self.pads, size),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if tuple(images) == (False, True) else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (w, g), (e,) = inputs, upstream
        return (
            b.apply(ConvWeightGrad(*self.attributes, w.shape[2:]), g, e),
            b.apply(Conv(*self.attributes), e, w),
        )

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        w, g = inputs
        return self.multiply_adds(g.shape[0], w.shape, g.shape[2:]) * 2

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.attributes, c.size), c.type("w"), c.type("g")) for c in CASES
        )


@dataclass(frozen=True)
class ConvWeightGrad(ConvAttributes):
    """Gradient of a convolution in its kernel: g [N, K, *out], x → [K, C/groups, *kernel].

    Goodfellow et al. 2016, eq 9.11, summed over the examples of the batch.
    """

    kernel: tuple[Dim, ...]

    name: ClassVar[str] = "conv_weight_grad"
    formula: ClassVar[str] = "w[i,l,m] = Σ_n Σ_j g[n,i,j]·x~[n,l, j·s + m·d - lo]"
    operands: ClassVar[tuple[str, ...]] = ("g", "x")

    def validate(self) -> None:
        super().validate()
        require_extents(self, "kernel", self.kernel)
        if len(self.kernel) != len(self.stride):
            hint = f"{len(self.stride)} axes"
            raise AttributeValueError(f"{self.name}: kernel {self.kernel} needs {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        g, x = types
        self.check_operands(g, x)
        self.check_groups("output", g.shape[1])
        self.check_groups("input", x.shape[1])
        if g.shape[0] != x.shape[0]:
            raise ShapeError(f"{self.name}: g is {g} and x is {x}; their batches differ")
        self.check_produces(x.shape[2:], self.kernel, g)
        return (x.with_shape(g.shape[1], x.shape[1] // self.groups, *self.kernel),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        g, x = arrays
        (type,) = self.infer(TensorType.of(g), TensorType.of(x))
        w = np.zeros(type.static_shape, x.dtype)
        padded = pad_spatial(x, self.pads)
        for m, cells in self.taps(w.shape[2:], g.shape[2:]):
            seen = self.by_group(padded[cells]).swapaxes(2, 3)
            part = (self.by_group(g) @ seen).sum(axis=0)
            w[at_tap(m)] = part.reshape(w.shape[:2])
        return (w,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g, x), (d,) = inputs, upstream
        return (
            b.apply(Conv(*self.attributes), x, d),
            b.apply(ConvInputGrad(*self.attributes, x.shape[2:]), d, g),
        )

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        (g, _), (w,) = inputs, outputs
        return self.multiply_adds(g.shape[0], w.shape, g.shape[2:]) * 2

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(c.name, cls(*c.attributes, c.kernel), c.type("g"), c.type("x"))
            for c in CASES
        )


def at_tap(m: tuple[int, ...]) -> tuple[Any, ...]:
    """The index of one kernel offset in a kernel."""
    return (..., *m)


class Case(NamedTuple):
    """One geometry, from which each of the three ops makes its example."""

    name: str
    batch: int
    channels: tuple[int, int]
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    groups: int

    @property
    def attributes(self) -> tuple[tuple[int, ...], Pads, tuple[int, ...], int]:
        return self.stride, self.pads, self.dilation, self.groups

    def type(self, operand: str) -> str:
        """The type of x, w or g as text."""
        c, k = self.channels
        out = Conv(*self.attributes).output_sizes(self.size, self.kernel)
        shapes: dict[str, tuple[Dim, ...]] = {
            "x": (self.batch, c, *self.size),
            "w": (k, c // self.groups, *self.kernel),
            "g": (self.batch, k, *out),
        }
        return f"f32[{', '.join(map(str, shapes[operand]))}]"


_NO = (0, 0)
CASES = (
    Case("plain", 1, (1, 20), (7, 9), (3, 3), (1, 1), (_NO, _NO), (1, 1), 1),
    Case("same, batch 3", 3, (3, 16), (5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    Case("stride with remainder", 1, (3, 17), (8, 7), (3, 2), (2, 3), (_NO, _NO), (1, 1), 1),
    Case("strided, padded", 1, (5, 16), (9, 11), (7, 5), (2, 2), ((3, 3), (2, 1)), (1, 1), 1),
    Case("dilated", 1, (3, 5), (9, 8), (3, 2), (1, 2), ((2, 1), _NO), (2, 3), 1),
    Case("groups", 2, (6, 4), (5, 4), (3, 3), (1, 1), ((1, 0), (0, 1)), (1, 1), 2),
    Case("depthwise", 1, (17, 17), (6, 5), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 17),
    Case("pointwise", 3, (5, 17), (3, 4), (1, 1), (1, 1), (_NO, _NO), (1, 1), 1),
    Case("pad beyond kernel", 1, (1, 3), (1, 2), (2, 2), (1, 1), ((4, 3), (2, 5)), (1, 1), 1),
    Case("crop", 1, (1, 3), (6, 7), (2, 3), (1, 1), ((-1, -2), (1, -1)), (1, 1), 1),
    Case("batch 0", 0, (3, 2), (4, 4), (3, 3), (1, 1), (_NO, _NO), (1, 1), 1),
    Case("1-D causal", 3, (2, 3), (10,), (4,), (1,), ((3, 0),), (1,), 1),
    Case("3-D", 1, (2, 3), (4, 3, 5), (2, 1, 3), (2, 1, 1), (_NO, _NO, (1, 1)), (1, 1, 1), 1),
)
