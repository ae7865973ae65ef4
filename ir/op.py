"""What an op is: a frozen value with attributes, a meaning, a gradient, a cost and examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from ir.dims import Dim, Sym, bind, symbols
from ir.errors import AttributeValueError, DTypeError, GraphError, ShapeError
from ir.types import Array, DType, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder, Value

Values: TypeAlias = "Sequence[Value]"
Grads: TypeAlias = "tuple[Value | None, ...]"


@dataclass(frozen=True)
class Cost:
    """What an op moves and computes: a multiply-add is 2 flops, bytes count inputs and outputs."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Op(ABC):
    """One operation on tensors; its fields are its attributes.

    Attribute values are int, float, bool, str, extents, ops, and tuples of these; lists become
    tuples. Subclasses raise AttributeValueError for bad attributes when they are made.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    operands: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        self.validate()

    def validate(self) -> None:  # noqa: B027 - nothing to check is the common case
        """Raise AttributeValueError when an attribute is not legal; called on construction."""

    @abstractmethod
    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """The output types; raises ShapeError or DTypeError when the operands do not fit."""

    @abstractmethod
    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs for concrete arrays, in their element type, straight from the formula."""

    @abstractmethod
    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        """Emit the gradient in each input, given those of the outputs; None means always zero.

        Raises GradientError where a derivative is not provided.
        """

    @classmethod
    @abstractmethod
    def examples(cls) -> tuple[Example, ...]:
        """Small cases that cover the corners of this op; tests run all of them."""

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        """Floating-point operations; one per output element unless an op says otherwise."""
        return sum((output.size for output in outputs), 0)

    def cost(self, *types: TensorType) -> Cost:
        """Flops and bytes for static operand types."""
        outputs = self.result_types(types)
        flops = self.flops(types, outputs)
        moved = sum((value.nbytes for value in (*types, *outputs)), 0)
        if isinstance(flops, Sym) or isinstance(moved, Sym):
            raise ShapeError(f"the cost of {self.name} needs static shapes; bind the symbols first")
        return Cost(flops, moved)

    def operand_names(self) -> tuple[str, ...]:
        """The names of the operands, in order."""
        return self.operands

    def result_types(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """`infer` after checking the number of operands (GraphError)."""
        names = self.operand_names()
        if len(types) != len(names):
            wanted = f"{len(names)} operands ({', '.join(names)})"
            raise GraphError(f"{self.name} takes {wanted}, got {len(types)}")
        results: object = self.infer(*types)
        if isinstance(results, tuple) and all(isinstance(each, TensorType) for each in results):
            return results
        hint = "infer has to give a tuple of types, one for each result"
        raise GraphError(f"{self.name}: infer gives {described(results)}; {hint}")

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        """This op for one image of a batch, where what it makes of an image depends on no other.

        `images` says which operands hold one image per entry of axis 0, as all results do then;
        `types` are those for the whole batch. None where images depend on one another, or where
        that is not known.
        """
        return None

    def index_bound(self, *types: TensorType) -> Dim | None:
        """What the integers of operand 1 stay below, where those are positions or labels."""
        return None

    def bind(self, env: Mapping[str, Dim]) -> Self:
        """This op with the symbols in `env` replaced in its attributes."""
        changes = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: _bound(value, env) for name, value in changes.items()})

    def with_dtype(self, dtype: DType) -> Self:
        """This op where floats have the element type `dtype`; ops that name a type override it."""
        changes = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: _retyped(value, dtype) for name, value in changes.items()})

    def symbols(self) -> frozenset[str]:
        """The symbols that the attributes mention."""
        return frozenset().union(*(_mentioned(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True)
class Example:
    """One case of an op: operand types, and what their data must respect.

    Integer operands are labels in [0, high); `positive` keeps float data above zero.
    """

    name: str
    op: Op
    inputs: tuple[TensorType, ...]
    high: int = 1
    positive: bool = False

    @staticmethod
    def of(name: str, op: Op, *types: str, high: int = 1, positive: bool = False) -> Example:
        """An example whose operand types are written as text."""
        return Example(name, op, tuple(map(TensorType.parse, types)), high, positive)

    def arrays(
        self, rng: np.random.Generator, dtype: DTypeLike = np.float32, integers: bool = False
    ) -> tuple[Array, ...]:
        """Data for the operands: floats in `dtype`, small whole numbers if `integers` is set."""
        return tuple(self._array(type, rng, np.dtype(dtype), integers) for type in self.inputs)

    def _array(
        self, type: TensorType, rng: np.random.Generator, dtype: np.dtype[Any], integers: bool
    ) -> Array:
        shape = type.static_shape
        if not type.dtype.is_float:
            return rng.integers(0, self.high, shape, dtype=np.int64)
        if integers:
            low = 1 if self.positive else -4
            return np.asarray(rng.integers(low, 5, shape)).astype(dtype)
        data = rng.uniform(0.1, 1.0, shape) if self.positive else rng.standard_normal(shape)
        return np.asarray(data).astype(dtype)


def require_floats(op: Op, *types: TensorType) -> None:
    """DTypeError unless all types have one and the same float element type."""
    for name, type in zip(op.operand_names(), types, strict=True):
        if not type.dtype.is_float or type.dtype is not types[0].dtype:
            hint = "cast the operands to one float type"
            raise DTypeError(f"{op.name}: operand {name} is {type.dtype}; {hint}")


def require_integer(op: Op, attribute: str, value: object, least: int | None = None) -> None:
    """AttributeValueError unless `value` is an int, and at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        given = described(value)
        raise AttributeValueError(f"{op.name}: {attribute} = {given} must be an integer")
    if least is not None and value < least:
        raise AttributeValueError(f"{op.name}: {attribute} = {value} must be at least {least}")


def require_number(op: Op, attribute: str) -> None:
    """Make the attribute a float; AttributeValueError unless it is a number."""
    value = getattr(op, attribute)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AttributeValueError(
            f"{op.name}: {attribute} must be a number, not {described(value)}"
        )
    object.__setattr__(op, attribute, float(value))


def require_tuple(op: Op, attribute: str, value: object) -> tuple[Any, ...]:
    """`value`; AttributeValueError unless it is a tuple."""
    if not isinstance(value, tuple):
        given = described(value)
        raise AttributeValueError(f"{op.name}: {attribute} = {given} must be a tuple")
    return value


def require_extents(op: Op, attribute: str, value: object) -> None:
    """AttributeValueError unless `value` is a tuple of non-negative or symbolic extents."""
    for extent in require_tuple(op, attribute, value):
        if not isinstance(extent, Sym):
            require_integer(op, attribute, extent, 0)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _bound(value: Any, env: Mapping[str, Dim]) -> Any:
    if isinstance(value, tuple):
        return tuple(_bound(item, env) for item in value)
    if isinstance(value, Op):
        return value.bind(env)
    return bind(value, env) if isinstance(value, Sym) else value


def _retyped(value: Any, dtype: DType) -> Any:
    if isinstance(value, tuple):
        return tuple(_retyped(item, dtype) for item in value)
    return value.with_dtype(dtype) if isinstance(value, Op) else value


def _mentioned(value: Any) -> frozenset[str]:
    if isinstance(value, tuple):
        return frozenset().union(*map(_mentioned, value))
    if isinstance(value, Op):
        return value.symbols()
    return symbols(value) if isinstance(value, Sym) else frozenset()
