"""The heart of the builder: values, names, and nodes of any op."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar, cast

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, Error, GraphError, ShapeError, did_you_mean
from ir.graph import Graph, Node, weight_type
from ir.names import check_name, written
from ir.op import Op
from ir.ops import arithmetic, functions, pointwise
from ir.types import Array, DType, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder

Item = TypeVar("Item")
Number = (int, float, np.generic)
PerAxis: TypeAlias = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a graph under construction; `+`, `-`, `*`, `/` add nodes.

    Either operand may be a number; to divide by one is to multiply by its reciprocal.
    """

    builder: Builder = field(repr=False)
    name: str
    type: TensorType

    __array_ufunc__ = None  # so that numpy leaves `array * value` to this class

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the value."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The element type of the value."""
        return self.type.dtype

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Number):
            return self.builder.apply(pointwise.Shift(other), self)
        return self.builder.apply(pointwise.Add(), self, other)

    __radd__ = __add__

    def __sub__(self, other: Value | float) -> Value:
        if isinstance(other, Number):
            return self + -other
        return self.builder.apply(pointwise.Sub(), self, other)

    def __rsub__(self, other: float) -> Value:
        return -self + other

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return self.builder.apply(pointwise.Mul(), self, other)
        return self.builder.apply(pointwise.Scale(other), self)

    __rmul__ = __mul__

    def __truediv__(self, other: Value | float) -> Value:
        if isinstance(other, Number):
            return self * (1 / other)
        return self.builder.apply(arithmetic.Div(), self, other)

    def __rtruediv__(self, other: float) -> Value:
        inverse = self.builder.apply(functions.Reciprocal(), self)
        return inverse if other == 1 else inverse * other

    def __neg__(self) -> Value:
        return self * -1.0


class Core:
    """What every part of the builder needs; `Builder` adds a method per op."""

    def __init__(self, name: str = "graph") -> None:
        check_name(name, "graph")
        self.name = name
        self._inputs: dict[str, TensorType] = {}
        self._weights: dict[str, Array] = {}
        self._nodes: list[Node] = []
        self._outputs: dict[str, str] = {}
        self._values: dict[str, Value] = {}
        self._counts: dict[str, int] = {}

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """A builder that already holds everything in `graph`."""
        if not isinstance(graph, Graph):
            hint = "read a file first: ir.load(path)" if isinstance(graph, str) else "b.build()"
            raise GraphError(f"Builder.of takes a graph, not {described(graph)}; {hint}")
        b = cls(graph.name)
        b._inputs, b._weights = dict(graph.inputs), dict(graph.weights)
        b._nodes, b._outputs = list(graph.nodes), dict(graph.outputs)
        b._values = {name: b._value(name, type) for name, type in graph.types.items()}
        return b

    def input(self, name: str, type: TensorType | str) -> Value:
        """A run-time input of the given type, e.g. "f32[N, 1, 28, 28]"."""
        parsed = TensorType.parse(type) if isinstance(type, str) else type
        if not isinstance(parsed, TensorType):
            hint = 'write it like "f32[N, 1, 28, 28]"'
            raise GraphError(f"input '{name}': {described(type)} is not a type; {hint}")
        value = self._define(name, parsed)
        self._inputs[name] = value.type
        return value

    def weight(self, name: str, array: Array) -> Value:
        """A constant; its element type is f32, f64 or i64."""
        value = self._define(name, weight_type(name, array))
        self._weights[name] = array
        return value

    def output(self, name: str, value: Value) -> None:
        """Make `value` an output of the graph, called `name` outside."""
        check_name(name)
        if name in self._outputs:
            raise GraphError(f"output '{name}' exists; give every output its own name")
        self._outputs[name] = self._own(value).name

    def value(self, name: str) -> Value:
        """The value called `name`."""
        if name not in self._values:
            hint = did_you_mean(name, self._values)
            raise GraphError(f"graph '{self.name}' has no value '{name}'{hint}")
        return self._values[name]

    def build(self) -> Graph:
        """The graph so far."""
        return Graph(self.name, self._inputs, self._weights, tuple(self._nodes), self._outputs)

    def apply(self, op: Op, *values: Value, name: str | None = None) -> Value:
        """A node of any op with one output; its name derives from the op's unless given."""
        names = None if name is None else (name,)
        results = self.emit(op, values, names)
        if len(results) != 1:
            raise GraphError(f"{op.name} has {len(results)} outputs; use emit")
        return results[0]

    def emit(
        self, op: Op, values: Sequence[Value], names: Sequence[str] | None = None
    ) -> tuple[Value, ...]:
        """A node of any op, one value per output."""
        if not isinstance(op, Op):
            made = isinstance(op, type) and issubclass(op, Op)
            hint = f"make one: {op.__name__}(...)" if made else "for a sum, write b.add(x, y)"
            raise GraphError(f"apply and emit take an op such as ir.ops.Relu() first; {hint}")
        operands = [self._own(value) for value in values]
        try:
            types = op.result_types([value.type for value in operands])
        except Error as error:
            raise error.within(_call(op.name, operands), op.name) from error
        if names is not None and len(names) != len(types):
            raise GraphError(f"{op.name} has {len(types)} outputs, got {len(names)} names")
        results = tuple(
            self._define(self.fresh(op.name) if names is None else names[i], type)
            for i, type in enumerate(types)
        )
        inputs, outputs = (tuple(value.name for value in part) for part in (operands, results))
        self._nodes.append(Node(op, inputs, outputs))
        return results

    def fresh(self, stem: str) -> str:
        """A name that no value has: `stem`, `stem_1`, `stem_2`, …"""
        name = stem
        while name in self._values:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        return name

    def _define(self, name: str, type: TensorType) -> Value:
        check_name(name)
        if name in self._values:
            raise GraphError(f"'{name}' is defined twice; give every value its own name")
        value = self._value(name, type)
        self._values[name] = value
        return value

    def _value(self, name: str, type: TensorType) -> Value:
        return Value(cast("Builder", self), name, type)

    def _own(self, value: Value) -> Value:
        if isinstance(value, Value) and value.builder is self:
            return value
        if isinstance(value, Value):
            given, hint = f"{value}", "make it there"
        else:
            given, hint = described(value), "declare it with b.input or b.weight"
        raise GraphError(f"{given} is not a value of builder '{self.name}'; {hint}")

    def _spatial(self, op: str, operand: str, value: Value, wanted: str) -> tuple[Dim, ...]:
        """The spatial extents of a value; ShapeError when it has none."""
        if self._own(value).type.rank < 3:
            reason = f"{operand} must be {wanted} with at least one spatial axis"
            raise ShapeError(f"{op}: %{value.name} is {value.type}, but {reason}")
        return value.shape[2:]


@contextmanager
def naming(op: str, *operands: Value) -> Iterator[None]:
    """Errors inside start with the op and its operands."""
    try:
        yield
    except Error as error:
        raise error.within(_call(op, operands), op) from error


def _call(op: str, operands: Sequence[Value]) -> str:
    return f"{op}({', '.join(f'%{written(value.name)}: {value.type}' for value in operands)})"


def items(what: str, value: Sequence[Item]) -> tuple[Item, ...]:
    """The items of a sequence; AttributeValueError for what is none."""
    if isinstance(value, Iterable) and not isinstance(value, Value):
        return tuple(value)
    raise AttributeValueError(f"{what} must be a sequence, not {described(value)}")


def from_start(axis: int, rank: int) -> int:
    """A negative axis counted from the start; anything that is not an int is left for the op."""
    return axis + rank if isinstance(axis, int) and axis < 0 else axis
