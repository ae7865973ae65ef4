"""Ops that move or repeat elements, and the sum over axes: reshape, transpose, sum, expand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim, product
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_extents, require_floats, require_integer
from ir.types import Array, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder, Value


def broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The shape that both broadcast to by numpy's rule, None where they do not.

    A symbolic extent matches itself and 1.
    """
    rank = max(len(a), len(b))
    left, right = ((1,) * (rank - len(shape)) + tuple(shape) for shape in (a, b))
    pairs = tuple(zip(left, right, strict=True))
    if any(m != n and m != 1 and n != 1 for m, n in pairs):
        return None
    return tuple(n if m == 1 else m for m, n in pairs)


def sum_to(b: Builder, value: Value, shape: Sequence[Dim]) -> Value:
    """The adjoint of broadcasting `shape` to the shape of `value`: sums the repeated axes."""
    extra = value.type.rank - len(shape)
    kept = zip(value.shape[extra:], shape, strict=True)
    repeated = [extra + axis for axis, (n, m) in enumerate(kept) if n != m]
    axes = (*range(extra), *repeated)
    if axes:
        value = b.apply(Sum(axes), value)
    return value if value.shape == tuple(shape) else b.apply(Reshape(tuple(shape)), value)


def require_axes(op: Op, axes: object) -> None:
    """AttributeValueError unless `axes` is a tuple of axes that are all different."""
    if not isinstance(axes, tuple):
        raise AttributeValueError(f"{op.name}: axes = {described(axes)} must be a tuple")
    for axis in axes:
        require_integer(op, "axes", axis, 0)
    if len(set(axes)) != len(axes):
        raise AttributeValueError(f"{op.name}: axes = {axes} names an axis twice")


def require_axes_of(op: Op, axes: Sequence[int], x: TensorType) -> None:
    """ShapeError unless x has all of these axes."""
    if any(axis >= x.rank for axis in axes):
        raise ShapeError(f"{op.name}: axes = {tuple(axes)} go beyond the axes of {x}")


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape of the same size."""

    shape: tuple[Dim, ...]

    name: ClassVar[str] = "reshape"
    formula: ClassVar[str] = "y = x in row-major order under `shape`"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_extents(self, "shape", self.shape)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        y = x.with_shape(*self.shape)
        if x.size != y.size:
            raise ShapeError(f"{self.name}: {x} has {x.size} elements, {y} has {y.size}")
        return (y,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (x.reshape(TensorType.of(x).with_shape(*self.shape).static_shape),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        (x,) = types
        return Reshape((1, *self.shape[1:])) if self.shape[:1] == x.shape[:1] else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(Reshape(inputs[0].shape), upstream[0]),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("flatten", cls((3, 40)), "f32[3, 5, 4, 2]"),
            Example.of("unflatten", cls((1, 17, 1, 3)), "f32[1, 51]"),
            Example.of("to scalar", cls(()), "f32[1, 1]"),
            Example.of("batch 0", cls((0, 12)), "f32[0, 3, 2, 2]"),
            Example.of("same", cls((2, 3)), "f32[2, 3]"),
        )


@dataclass(frozen=True)
class Transpose(Op):
    """Axes in another order: axis i of the result is axis perm[i] of x."""

    perm: tuple[int, ...]

    name: ClassVar[str] = "transpose"
    formula: ClassVar[str] = "y.shape[i] = x.shape[perm[i]]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_extents(self, "perm", self.perm)
        if sorted(self.perm, key=str) != sorted(range(len(self.perm)), key=str):
            hint = f"must order the axes 0 to {len(self.perm) - 1}"
            raise AttributeValueError(f"{self.name}: perm = {self.perm} {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank != len(self.perm):
            raise ShapeError(f"{self.name}: perm = {self.perm} orders {len(self.perm)} axes of {x}")
        return (x.with_shape(*(x.shape[axis] for axis in self.perm)),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.transpose(arrays[0], self.perm).copy(order="C"),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if self.perm[0] == 0 else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        inverse = tuple(self.perm.index(axis) for axis in range(len(self.perm)))
        return (b.apply(Transpose(inverse), upstream[0]),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("matrix", cls((1, 0)), "f32[3, 5]"),
            Example.of("channels last", cls((0, 2, 3, 1)), "f32[1, 16, 3, 5]"),
            Example.of("cycle", cls((2, 0, 1)), "f32[3, 17, 2]"),
            Example.of("identity", cls((0, 1, 2)), "f32[1, 20, 3]"),
            Example.of("batch 0", cls((1, 0)), "f32[0, 5]"),
            Example.of("scalar", cls(()), "f32[]"),
        )


@dataclass(frozen=True)
class Reduction(Op):
    """Many elements to one, over some axes, which disappear from the shape."""

    axes: tuple[int, ...]

    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_axes(self, self.axes)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        return (self.reduced(types[0]),)

    def reduced(self, x: TensorType) -> TensorType:
        """The type of what is left of x."""
        require_axes_of(self, self.axes, x)
        return x.with_shape(*(n for axis, n in enumerate(x.shape) if axis not in self.axes))

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if all(images) and 0 not in self.axes else None

    def rows(self, b: Builder, x: Value) -> Value:
        """x as [*kept, the rest]: what is reduced is one last axis, in row-major order."""
        kept = [axis for axis in range(x.type.rank) if axis not in self.axes]
        turned = _permuted(b, x, (*kept, *sorted(self.axes)))
        gone = product(x.shape[axis] for axis in self.axes)
        return b.apply(Reshape((*turned.shape[: len(kept)], gone)), turned)

    def from_rows(self, b: Builder, rows: Value, shape: Sequence[Dim]) -> Value:
        """The inverse of `rows`, for an x of this shape."""
        order = [axis for axis in range(len(shape)) if axis not in self.axes]
        order += sorted(self.axes)
        turned = b.apply(Reshape(tuple(shape[axis] for axis in order)), rows)
        return _permuted(b, turned, tuple(map(order.index, range(len(shape)))))

    def spread(self, b: Builder, y: Value, shape: Sequence[Dim]) -> Value:
        """A result repeated along the axes that it has lost, to the shape of x."""
        kept = tuple(1 if axis in self.axes else n for axis, n in enumerate(shape))
        return b.apply(Expand(tuple(shape)), b.apply(Reshape(kept), y))

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return inputs[0].size


def _permuted(b: Builder, x: Value, perm: tuple[int, ...]) -> Value:
    return x if perm == tuple(range(len(perm))) else b.apply(Transpose(perm), x)


@dataclass(frozen=True)
class Sum(Reduction):
    """The sum over some axes, which disappear from the shape."""

    name: ClassVar[str] = "sum"
    formula: ClassVar[str] = "y = Σ over axes of x"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0].sum(axis=self.axes)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (self.spread(b, upstream[0], inputs[0].shape),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("all", cls((0, 1)), "f32[3, 5]"),
            Example.of("all but channels", cls((0, 2, 3)), "f32[2, 17, 3, 4]"),
            Example.of("last", cls((2,)), "f32[1, 3, 20]"),
            Example.of("none", cls(()), "f32[2, 3]"),
            Example.of("batch 0", cls((0,)), "f32[0, 5]"),
        )


@dataclass(frozen=True)
class Expand(Op):
    """x broadcast to `shape` by numpy's rule: new axes in front, extents of 1 repeated."""

    shape: tuple[Dim, ...]

    name: ClassVar[str] = "expand"
    formula: ClassVar[str] = "y = x broadcast to `shape`"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_extents(self, "shape", self.shape)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        extra = len(self.shape) - x.rank
        fits = extra >= 0 and all(
            n in (1, m) for n, m in zip(x.shape, self.shape[extra:], strict=True)
        )
        if not fits:
            raise ShapeError(f"{self.name}: {x} does not broadcast to {self.shape}")
        return (x.with_shape(*self.shape),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        shape = TensorType.of(x).with_shape(*self.shape).static_shape
        return (np.broadcast_to(x, shape).copy(order="C"),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (sum_to(b, upstream[0], inputs[0].shape),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("scalar", cls((3, 5)), "f32[]"),
            Example.of("channel", cls((2, 17, 3, 4)), "f32[17, 1, 1]"),
            Example.of("middle", cls((3, 5, 2)), "f32[3, 1, 2]"),
            Example.of("same", cls((1, 20)), "f32[1, 20]"),
            Example.of("to batch 0", cls((0, 5)), "f32[1, 5]"),
        )
