"""Ops that cut, pad, join and turn elements of any type: slice, pad, concat, reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim, Sym
from ir.errors import AttributeValueError, DTypeError, ShapeError
from ir.op import Example, Grads, Op, Values, require_extents, require_integer
from ir.ops.shape import require_axes, require_axes_of
from ir.types import Array, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder, Value

Pads = tuple[tuple[Dim, Dim], ...]


@dataclass(frozen=True)
class Moving(Op):
    """What only moves elements: no arithmetic, any element type."""

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0


@dataclass(frozen=True)
class Slice(Moving):
    """Every `steps`-th of `sizes` elements from `starts` on, one entry per axis."""

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]

    name: ClassVar[str] = "slice"
    formula: ClassVar[str] = "y[a] = x[starts + a·steps]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        for attribute in ("starts", "sizes", "steps"):
            require_extents(self, attribute, getattr(self, attribute))
        for step in self.steps:
            require_integer(self, "steps", step, 1)
        if not len(self.starts) == len(self.sizes) == len(self.steps):
            given = f"starts = {self.starts}, sizes = {self.sizes}, steps = {self.steps}"
            raise AttributeValueError(f"{self.name}: {given} must have one entry per axis")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank != len(self.sizes):
            given = f"{len(self.sizes)} entries per attribute"
            raise ShapeError(f"{self.name}: {given} for {x}; give one per axis")
        for axis, ((_, beyond), n) in enumerate(zip(self.margins(x), x.shape, strict=True)):
            if isinstance(beyond, int) and beyond < 0:
                start, size, step = self.starts[axis], self.sizes[axis], self.steps[axis]
                reach = f"{size} elements from {start} on, each {step} after the last"
                raise ShapeError(f"{self.name}: {reach}, end beyond the {n} on axis {axis} of {x}")
        return (x.with_shape(*self.sizes),)

    def margins(self, x: TensorType) -> Pads:
        """How many elements of each axis lie before the first one taken, and after the last."""
        axes = zip(x.shape, self.starts, self.sizes, self.steps, strict=True)
        return tuple((start, n - start - spread(size, step)) for n, start, size, step in axes)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        sizes = self.infer(TensorType.of(x))[0].static_shape
        axes = zip(self.starts, sizes, self.steps, strict=True)
        cut = tuple(slice(start, start + size * step, step) for start, size, step in axes)
        return (x[cut].copy(order="C"),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        whole = self.starts[0] == 0 and self.sizes[0] == types[0].shape[0] and self.steps[0] == 1
        return replace(self, sizes=(1, *self.sizes[1:])) if whole else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        interior = tuple(step - 1 for step in self.steps)
        return (b.apply(Pad(self.margins(inputs[0].type), interior, 0.0), upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("crop", cls((0, 0, 1, 2), (1, 20, 3, 4), (1,) * 4), "f32[1, 20, 5, 7]"),
            Example.of("stride", cls((0, 0, 1, 0), (2, 3, 2, 4), (1, 1, 2, 2)), "f32[2, 3, 5, 7]"),
            Example.of("channels", cls((0, 3, 0), (3, 5, 4), (1, 1, 1)), "f32[3, 17, 4]"),
            Example.of(
                "aligned channels", cls((0, 16, 0, 0), (1, 17, 3, 5), (1,) * 4), "f32[1, 33, 3, 5]"
            ),
            Example.of("every third", cls((1,), (7,), (3,)), "f32[20]"),
            Example.of("one", cls((2, 3), (1, 1), (1, 5)), "f32[3, 4]"),
            Example.of("nothing", cls((0, 5), (3, 0), (1, 2)), "f32[3, 5]"),
            Example.of("batch 0", cls((0, 1), (0, 2), (1, 1)), "f32[0, 3]"),
            Example.of("scalar", cls((), (), ()), "f32[]"),
        )


@dataclass(frozen=True)
class Pad(Moving):
    """`interior` fillers between neighbours, `pads` = (lo, hi) of them around; negative ones crop.

    The adjoint of `Slice`. An axis of n becomes lo + n·(1 + interior) - interior + hi long. Pads
    that are symbolic are not negative.
    """

    pads: Pads
    interior: tuple[int, ...]
    value: float

    name: ClassVar[str] = "pad"
    formula: ClassVar[str] = "y[lo + a·(1 + interior)] = x[a], elsewhere `value`"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_extents(self, "interior", self.interior)
        for fillers in self.interior:
            require_integer(self, "interior", fillers, 0)
        pairs = isinstance(self.pads, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in self.pads
        )
        if not pairs or len(self.pads) != len(self.interior):
            hint = "must hold a pair (lo, hi) for each entry of interior"
            raise AttributeValueError(f"{self.name}: pads = {self.pads} {hint}")
        for amount in (amount for pair in self.pads for amount in pair):
            if not isinstance(amount, Sym):
                require_integer(self, "pads", amount)
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            given = described(self.value)
            raise AttributeValueError(f"{self.name}: value must be a number, not {given}")
        object.__setattr__(self, "value", float(self.value))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        if not (x.dtype.is_float or self.value.is_integer()):
            raise DTypeError(f"{self.name}: the filler {self.value} is no {x.dtype}")
        if x.rank != len(self.pads):
            raise ShapeError(f"{self.name}: pads = {self.pads} for {x}; give a pair for each axis")
        axes = zip(x.shape, self.pads, self.interior, strict=True)
        sizes = [lo + spread(n, 1 + fillers) + hi for n, (lo, hi), fillers in axes]
        for axis, size in enumerate(sizes):
            if isinstance(size, int) and size < 0:
                given = f"pads {self.pads[axis]} leave {size} elements"
                raise ShapeError(f"{self.name}: {given} of axis {axis} of {x}")
        return (x.with_shape(*sizes),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        y = np.full(self.infer(TensorType.of(x))[0].static_shape, self.value, x.dtype)
        places = [
            lo + np.arange(n) * (1 + fillers)
            for n, (lo, _), fillers in zip(x.shape, self.pads, self.interior, strict=True)
        ]
        kept = [(p >= 0) & (p < n) for p, n in zip(places, y.shape, strict=True)]
        y[np.ix_(*map(np.compress, kept, places))] = x[np.ix_(*kept)]
        return (y,)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if self.pads[0] == (0, 0) and self.interior[0] == 0 else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x,), (g,) = inputs, upstream
        cropped = tuple((_positive(lo * -1), _positive(hi * -1)) for lo, hi in self.pads)
        if any(map(any, cropped)):
            g = b.apply(Pad(cropped, (0,) * x.type.rank, 0.0), g)
        starts = tuple(lo if isinstance(lo, Sym) else _positive(lo) for lo, _ in self.pads)
        steps = tuple(1 + fillers for fillers in self.interior)
        return (b.apply(Slice(starts, x.shape, steps), g),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        image = ((0, 0), (0, 0), (1, 2), (0, 3))
        return (
            Example.of("image", cls(image, (0,) * 4, 0.0), "f32[1, 20, 3, 5]"),
            Example.of("filler", cls(image, (0,) * 4, -1.5), "f32[2, 3, 3, 4]"),
            Example.of("interior", cls(image, (0, 0, 1, 2), 0.0), "f32[1, 17, 3, 4]"),
            Example.of("channels", cls(((0, 0), (2, 1), (0, 0)), (0,) * 3, 0.0), "f32[3, 5, 4]"),
            Example.of("crop", cls(((-1, 2), (3, -2)), (0, 0), 1.0), "f32[3, 17]"),
            Example.of("crop between", cls(((-2, -2), (-1, 1)), (2, 1), 0.0), "f32[5, 4]"),
            Example.of("crop all", cls(((-5, 2), (1, 0)), (0, 0), 2.0), "f32[3, 4]"),
            Example.of("one", cls(((3, 0),), (4,), 0.0), "f32[1]"),
            Example.of("from nothing", cls(((2, 1), (0, 0)), (1, 0), 0.0), "f32[0, 3]"),
            Example.of("batch 0", cls(((0, 0), (1, 1)), (0, 0), 0.0), "f32[0, 3]"),
            Example.of("scalar", cls((), (), 0.0), "f32[]"),
        )


def spread(size: Dim, step: int) -> Dim:
    """The length that `size` elements cover, each `step` after the last; 1 - step for none."""
    return size * step + (1 - step)


def _positive(amount: Dim) -> int:
    """What a pad adds, 0 where it crops; the negative of a symbolic one counts as a crop."""
    return max(amount, 0) if isinstance(amount, int) else 0


@dataclass(frozen=True)
class Concat(Moving):
    """`count` operands one behind the other along an axis; their other extents agree."""

    axis: int
    count: int

    name: ClassVar[str] = "concat"
    formula: ClassVar[str] = "y = x0, x1, … along `axis`"
    operands: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        require_integer(self, "axis", self.axis, 0)
        require_integer(self, "count", self.count, 1)

    def operand_names(self) -> tuple[str, ...]:
        return tuple(f"x{number}" for number in range(self.count))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        first = types[0]
        listed = ", ".join(map(str, types))
        if any(type.dtype is not first.dtype for type in types):
            raise DTypeError(f"{self.name}: {listed} have several element types; cast them to one")
        if any(type.rank <= self.axis or self._rest(type) != self._rest(first) for type in types):
            reason = f"must agree in all but axis {self.axis}"
            raise ShapeError(f"{self.name}: {listed} {reason}")
        total = sum((type.shape[self.axis] for type in types), 0)
        lead, tail = first.shape[: self.axis], first.shape[self.axis + 1 :]
        return (first.with_shape(*lead, total, *tail),)

    def _rest(self, type: TensorType) -> tuple[Dim, ...]:
        return tuple(n for axis, n in enumerate(type.shape) if axis != self.axis)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.concatenate(arrays, self.axis),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if all(images) and self.axis != 0 else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g,) = upstream
        grads: list[Value] = []
        start: Dim = 0
        for x in inputs:
            starts = tuple(start if axis == self.axis else 0 for axis in range(g.type.rank))
            grads.append(b.apply(Slice(starts, x.shape, (1,) * g.type.rank), g))
            start = start + x.shape[self.axis]
        return tuple(grads)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        def case(name: str, axis: int, *types: str) -> Example:
            return Example.of(name, cls(axis, len(types)), *types)

        return (
            case("channels", 1, "f32[1, 3, 4, 5]", "f32[1, 17, 4, 5]"),
            case("blocks of channels", 1, "f32[2, 16, 3, 5]", "f32[2, 32, 3, 5]",
                 "f32[2, 20, 3, 5]"),
            case("rows", 2, "f32[1, 20, 3, 5]", "f32[1, 20, 1, 5]"),
            case("columns", 3, "f32[1, 3, 2, 17]", "f32[1, 3, 2, 4]"),
            case("batch", 0, "f32[1, 3, 4]", "f32[0, 3, 4]", "f32[2, 3, 4]"),
            case("vectors", 0, "f32[1]", "f32[17]", "f32[20]"),
            case("one operand", 1, "f32[3, 5]"),
            case("batch 0", 1, "f32[0, 3]", "f32[0, 2]"),
        )  # fmt: skip


@dataclass(frozen=True)
class Reverse(Moving):
    """x with some axes run backwards; its own adjoint."""

    axes: tuple[int, ...]

    name: ClassVar[str] = "reverse"
    formula: ClassVar[str] = "y[…, a, …] = x[…, n - 1 - a, …] on the axes"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_axes(self, self.axes)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_axes_of(self, self.axes, x)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.flip(arrays[0], self.axes).copy(order="C"),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(self, upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("kernel", cls((2, 3)), "f32[5, 3, 3, 4]"),
            Example.of("rows", cls((2,)), "f32[1, 20, 3, 5]"),
            Example.of("last", cls((1,)), "f32[3, 17]"),
            Example.of("all", cls((0, 1)), "f32[3, 20]"),
            Example.of("none", cls(()), "f32[2, 3]"),
            Example.of("batch 0", cls((1,)), "f32[0, 5]"),
        )
