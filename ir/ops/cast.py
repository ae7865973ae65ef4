"""Ops that name an element type: conversion, a constant, random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, DTypeError, ShapeError
from ir.numeric import GOLDEN, mixed, shifted_right, truncated
from ir.op import Example, Grads, Op, Values, require_extents, require_number
from ir.types import Array, DType, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class Cast(Op):
    """The same numbers as f32, f64 or i64: rounded to nearest, or to integers towards 0.

    Beyond the range of integers the nearest end is taken, and 0 for NaN. Gradients pass between
    floats only. Where a graph is given another float type, so is a cast to floats.
    """

    dtype: str

    name: ClassVar[str] = "cast"
    formula: ClassVar[str] = "y = x as `dtype`"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        _require_dtype(self, tuple(DType))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (replace(types[0], dtype=DType.of(self.dtype)),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        dtype = DType.of(self.dtype)
        return (x.astype(dtype.numpy) if dtype.is_float else truncated(x),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x,), (g,) = inputs, upstream
        return (b.apply(Cast(x.dtype.value), g) if x.dtype.is_float and g.dtype.is_float else None,)

    def with_dtype(self, dtype: DType) -> Self:
        return replace(self, dtype=dtype.value) if DType.of(self.dtype).is_float else self

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("wider", cls("f64"), "f32[3, 5, 2, 2]"),
            Example.of("narrower", cls("f32"), "f64[1, 17]"),
            Example.of("integers", cls("f32"), "i64[2, 20]", high=5),
            Example.of("same", cls("f32"), "f32[2, 3]"),
            Example.of("scalar", cls("f64"), "i64[]", high=5),
            Example.of("batch 0", cls("f64"), "f32[0, 3]"),
        )


@dataclass(frozen=True)
class Constant(Op):
    """A number that belongs to the formula: no operands → []. Unlike a weight, nobody trains it."""

    value: float
    dtype: str = "f32"

    name: ClassVar[str] = "constant"
    formula: ClassVar[str] = "y = value"
    operands: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        require_number(self, "value")
        _require_dtype(self, (DType.FLOAT32, DType.FLOAT64))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(DType.of(self.dtype), ()),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(self.value, DType.of(self.dtype).numpy),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return ()

    def with_dtype(self, dtype: DType) -> Self:
        return replace(self, dtype=dtype.value)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return 0

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        numbers = {"one": 1, "third": 1 / 3, "zero": -0.0, "large": -1e30}
        narrow = (Example.of(name, cls(value)) for name, value in numbers.items())
        return *narrow, Example.of("wide", cls(0.1, "f64"))


@dataclass(frozen=True)
class Uniform(Op):
    """Random numbers in [0, 1), whole multiples of 2^-24, of one shape: seed i64 [] → `shape`.

    Element i, in row-major order, is made of the top bits of output i of SplitMix64 that starts
    at the seed. The same seed gives the same numbers, on every machine and in f32 as in f64.
    Source: Steele, Lea and Flood 2014.
    """

    shape: tuple[Dim, ...]
    dtype: str = "f32"

    name: ClassVar[str] = "uniform"
    formula: ClassVar[str] = "y[i] = ⌊mix(seed + (i + 1)·γ) / 2^40⌋ / 2^24 in integers modulo 2^64"
    operands: ClassVar[tuple[str, ...]] = ("seed",)

    def validate(self) -> None:
        require_extents(self, "shape", self.shape)
        _require_dtype(self, (DType.FLOAT32, DType.FLOAT64))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (seed,) = types
        if seed.dtype is not DType.INT64:
            raise DTypeError(f"{self.name}: seed is {seed}; it must be i64")
        if seed.rank:
            raise ShapeError(f"{self.name}: seed is {seed}; it must be one number, i64[]")
        return (TensorType(DType.of(self.dtype), self.shape),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (seed,) = arrays
        type = TensorType(DType.of(self.dtype), self.shape)
        count = np.arange(1, np.prod(type.static_shape, dtype=np.int64) + 1)
        bits = shifted_right(mixed(seed + count * np.int64(GOLDEN)), 40)
        return ((bits * 2.0**-24).astype(type.dtype.numpy).reshape(type.static_shape),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (None,)

    def with_dtype(self, dtype: DType) -> Self:
        return replace(self, dtype=dtype.value)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return outputs[0].size * 10

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("image", cls((3, 5, 4, 3)), "i64[]", high=2**62),
            Example.of("vector", cls((1, 17), "f64"), "i64[]"),
            Example.of("long", cls((3, 1031)), "i64[]", high=2**62),
            Example.of("scalar", cls(()), "i64[]", high=7),
            Example.of("batch 0", cls((0, 3)), "i64[]"),
        )


def _require_dtype(op: Cast | Constant | Uniform, legal: Sequence[DType]) -> None:
    """Make the attribute `dtype` a type's name; AttributeValueError unless it is a legal one."""
    named = [dtype.value for dtype in legal]
    given = op.dtype.value if isinstance(op.dtype, DType) else op.dtype
    if given not in named:
        hint = f"must be one of {', '.join(sorted(named))}"
        raise AttributeValueError(f"{op.name}: dtype = {described(given)} {hint}")
    object.__setattr__(op, "dtype", given)
