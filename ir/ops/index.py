"""Ops that pick elements by integer indices, their adjoints, and those that find indices.

Indices are i64 and must lie in the axis: InputError otherwise, from the reference and at the door
of a compiled model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim, Sym
from ir.errors import DTypeError, InputError, ShapeError
from ir.op import Example, Grads, Op, Values, require_floats, require_integer
from ir.ops.movement import Moving
from ir.ops.pool import CASES, PoolAttributes
from ir.ops.shape import require_axes_of
from ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class Indexing(Moving):
    """What reads its second operand as positions along an axis."""

    axis: int

    def validate(self) -> None:
        require_integer(self, "axis", self.axis, 0)

    def require_index(self, x: TensorType, index: TensorType) -> None:
        """DTypeError or ShapeError unless x has the axis and the integer index a place in it."""
        require_axes_of(self, (self.axis,), x)
        if index.dtype is not DType.INT64:
            raise DTypeError(f"{self.name}: the index is {index}; convert it to i64")
        if self.index_bound(x) == 0 and isinstance(index.size, int) and index.size > 0:
            raise ShapeError(f"{self.name}: the index is {index}, but axis {self.axis} is empty")

    def checked(self, index: Array, size: int) -> Array:
        """The index; InputError where one is outside [0, size)."""
        wrong = np.argwhere((index < 0) | (index >= size))
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            hint = f"axis {self.axis} has positions in [0, {size})"
            raise InputError(f"{self.name}: index {index[at]} at position {at}; {hint}")
        return index


@dataclass(frozen=True)
class Picking(Indexing):
    """What takes elements of x."""

    operands: ClassVar[tuple[str, ...]] = ("x", "index")

    def index_bound(self, *types: TensorType) -> Dim:
        return types[0].shape[self.axis]


@dataclass(frozen=True)
class Scattering(Indexing):
    """What adds elements of g up, in their order, where the index says, along an axis of `size`."""

    size: Dim

    operands: ClassVar[tuple[str, ...]] = ("g", "index")

    def validate(self) -> None:
        super().validate()
        if not isinstance(self.size, Sym):
            require_integer(self, "size", self.size, 0)

    def index_bound(self, *types: TensorType) -> Dim:
        return self.size

    def placed(self, g: TensorType) -> TensorType:
        """The type of the result."""
        return g.with_shape(*g.shape[: self.axis], self.size, *g.shape[self.axis + 1 :])

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return inputs[0].size


@dataclass(frozen=True)
class Take(Picking):
    """Slices of x along an axis: x [*A, n, *B], index i64[K] → [*A, K, *B]."""

    name: ClassVar[str] = "take"
    formula: ClassVar[str] = "y[a, k, b] = x[a, index[k], b]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, index = types
        self.require_index(x, index)
        _require_list(self, index)
        return (x.with_shape(*x.shape[: self.axis], *index.shape, *x.shape[self.axis + 1 :]),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, index = arrays
        return (np.take(x, self.checked(index, x.shape[self.axis]), self.axis),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        size = inputs[0].shape[self.axis]
        return b.apply(TakeGrad(self.axis, size), upstream[0], inputs[1]), None

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(axis), x, f"i64[{count}]", high=high)
            for name, axis, x, _, count, high in _LISTS
        )


@dataclass(frozen=True)
class TakeGrad(Scattering):
    """The adjoint of `Take`: g [*A, K, *B], index i64[K] → [*A, size, *B]."""

    name: ClassVar[str] = "take_grad"
    formula: ClassVar[str] = "dx[a, i, b] = Σ_{k: index[k] = i} g[a, k, b]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        g, index = types
        _require_float(self, g)
        self.require_index(g, index)
        _require_list(self, index)
        if g.shape[self.axis] != index.shape[0]:
            raise ShapeError(f"{self.name}: g is {g} and the index {index}; axis {self.axis} of g "
                             f"needs an entry per index")  # fmt: skip
        return (self.placed(g),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        g, index = arrays
        dx = np.zeros(self.infer(*map(TensorType.of, arrays))[0].static_shape, g.dtype)
        self.checked(index, dx.shape[self.axis])
        np.add.at(np.moveaxis(dx, self.axis, 0), index, np.moveaxis(g, self.axis, 0))
        return (dx,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return b.apply(Take(self.axis), upstream[0], inputs[1]), None

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(axis, high), g, f"i64[{count}]", high=high)
            for name, axis, _, g, count, high in _LISTS
        )


@dataclass(frozen=True)
class TakeAlong(Picking):
    """For every place, the element of x at an index along an axis; the shape is the index's.

    x and index agree in all other axes.
    """

    name: ClassVar[str] = "take_along"
    formula: ClassVar[str] = "y[a, k, b] = x[a, index[a, k, b], b]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, index = types
        self.require_index(x, index)
        rest = [(*type.shape[: self.axis], *type.shape[self.axis + 1 :]) for type in types]
        if x.rank != index.rank or rest[0] != rest[1]:
            reason = f"must agree in all but axis {self.axis}"
            raise ShapeError(f"{self.name}: x {x} and index {index} {reason}")
        return (x.with_shape(*index.shape),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, index = arrays
        return (np.take_along_axis(x, self.checked(index, x.shape[self.axis]), self.axis),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        size = inputs[0].shape[self.axis]
        return b.apply(TakeAlongGrad(self.axis, size), upstream[0], inputs[1]), None

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(axis), x, index, high=high)
            for name, axis, x, index, high in _PLACES
        )


@dataclass(frozen=True)
class TakeAlongGrad(Scattering):
    """The adjoint of `TakeAlong`, and max unpooling: g and index of one shape; axis → `size`."""

    name: ClassVar[str] = "take_along_grad"
    formula: ClassVar[str] = "dx[a, i, b] = Σ_{k: index[a, k, b] = i} g[a, k, b]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        g, index = types
        _require_float(self, g)
        self.require_index(g, index)
        if g.shape != index.shape:
            raise ShapeError(f"{self.name}: g is {g} and the index {index}; they must agree")
        return (self.placed(g),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        g, index = arrays
        dx = np.zeros(self.infer(*map(TensorType.of, arrays))[0].static_shape, g.dtype)
        places: list[Array] = [*np.indices(g.shape, sparse=True)]
        places[self.axis] = self.checked(index, dx.shape[self.axis])
        np.add.at(dx, tuple(places), g)
        return (dx,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return b.apply(TakeAlong(self.axis), upstream[0], inputs[1]), None

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(
            Example.of(name, cls(axis, high), f"f32{index[3:]}", index, high=high)
            for name, axis, _, index, high in _PLACES
        )


@dataclass(frozen=True)
class Finding(Op):
    """The position of an element along an axis, which disappears; no gradient."""

    axis: int

    operands: ClassVar[tuple[str, ...]] = ("x",)
    largest: ClassVar[bool]

    def validate(self) -> None:
        require_integer(self, "axis", self.axis, 0)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        require_axes_of(self, (self.axis,), x)
        if x.shape[self.axis] == 0:
            raise ShapeError(f"{self.name}: {x} has nothing on axis {self.axis} to choose from")
        return (TensorType(DType.INT64, (*x.shape[: self.axis], *x.shape[self.axis + 1 :])),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (np.asarray(x.argmax(self.axis) if self.largest else x.argmin(self.axis)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (None,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return inputs[0].size

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("classes", cls(1), "f32[3, 17]"),
            Example.of("per pixel", cls(1), "f32[1, 5, 3, 20]"),
            Example.of("first axis", cls(0), "f32[4, 3]"),
            Example.of("one", cls(1), "f32[5, 1]"),
            Example.of("long", cls(1), "f32[2, 100]"),
            Example.of("vector", cls(0), "f32[20]"),
            Example.of("batch 0", cls(1), "f32[0, 3]"),
        )


@dataclass(frozen=True)
class ArgMax(Finding):
    """Where x is largest along an axis: the first such place, that of a NaN if there is one."""

    name: ClassVar[str] = "argmax"
    formula: ClassVar[str] = "y[a, b] = the first i with x[a, i, b] = max_j x[a, j, b]"
    largest: ClassVar[bool] = True


@dataclass(frozen=True)
class ArgMin(Finding):
    """Where x is smallest along an axis: the first such place, that of a NaN if there is one."""

    name: ClassVar[str] = "argmin"
    formula: ClassVar[str] = "y[a, b] = the first i with x[a, i, b] = min_j x[a, j, b]"
    largest: ClassVar[bool] = False


@dataclass(frozen=True)
class MaxPoolIndices(PoolAttributes):
    """Where the maxima of `MaxPool` are: x [N, C, *S] → i64 [N, C, *out], row-major in the plane.

    The first maximum of each window; no gradient.
    """

    name: ClassVar[str] = "max_pool_indices"
    formula: ClassVar[str] = "y[n,c,j] = the first cell of window j, in *S, that is its maximum"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(DType.INT64, self.pooled(types[0]).shape),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        _, where = self.first_maximum(x)
        found = np.zeros(where.shape, np.int64)
        places = np.ix_(*map(np.arange, where.shape[2:]))
        taps = np.unravel_index(where, self.window)
        for axis, (j, m) in enumerate(zip(places, taps, strict=True)):
            cell = j * self.stride[axis] + m * self.dilation[axis] - self.pads[axis][0]
            found = found * x.shape[2 + axis] + cell
        return (found,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (None,)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(c.name, cls(*c.geometry), c.type("x")) for c in CASES)


def _require_float(op: Op, g: TensorType) -> None:
    if not g.dtype.is_float:
        raise DTypeError(f"{op.name}: operand g is {g}; cast it to a float type")


def _require_list(op: Op, index: TensorType) -> None:
    if index.rank != 1:
        raise ShapeError(f"{op.name}: the index is {index}, but must have one axis; flatten it")


_LISTS = (  # name, axis, x, taken, count, size of the axis
    ("rows", 0, "f32[3, 20]", "f32[5, 20]", 5, 3),
    ("columns", 1, "f32[3, 5]", "f32[3, 17]", 17, 5),
    ("channels", 1, "f32[2, 17, 3, 4]", "f32[2, 3, 3, 4]", 3, 17),
    ("vector", 0, "f32[20]", "f32[33]", 33, 20),
    ("one of one", 0, "f32[1, 3]", "f32[1, 3]", 1, 1),
    ("none", 0, "f32[3, 2]", "f32[0, 2]", 0, 3),
    ("batch 0", 1, "f32[0, 3]", "f32[0, 2]", 2, 3),
)
_PLACES = (  # name, axis, x, index, size of the axis
    ("rows", 0, "f32[3, 20]", "i64[2, 20]", 3),
    ("columns", 1, "f32[3, 5]", "i64[3, 17]", 5),
    ("channels", 1, "f32[2, 17, 3, 5]", "i64[2, 4, 3, 5]", 17),
    ("planes", 2, "f32[2, 3, 20]", "i64[2, 3, 5]", 20),
    ("one of one", 0, "f32[1, 3]", "i64[1, 3]", 1),
    ("none", 0, "f32[3, 2]", "i64[0, 2]", 3),
    ("batch 0", 1, "f32[0, 3]", "i64[0, 2]", 3),
)
