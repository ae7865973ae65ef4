"""Ops that are formulas of other ops, and their gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ir.dims import Dim
from ir.errors import AttributeValueError, Error, ShapeError
from ir.op import Example, Grads, Op, Values
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder
    from ir.graph import Graph


@dataclass(frozen=True)
class Composite(Op):
    """An op that can be written as a graph of others.

    It stands in a graph as one node, under symbolic extents too; `ir.expand` replaces it when all
    extents are known. `evaluate` is the formula itself, not the expansion: tests compare the two.
    `results` names the float results, `integers` the operands that are not float.
    """

    results: ClassVar[tuple[str, ...]] = ("y",)
    integers: ClassVar[tuple[str, ...]] = ()

    def result_names(self) -> tuple[str, ...]:
        """The names of the float results, in order."""
        return self.results

    @abstractmethod
    def expand(self, b: Builder, operands: Values) -> Values:
        """Emit the ops that compute the outputs.

        ShapeError where they depend on a symbolic extent.
        """

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        floats = [g for g in upstream if g.dtype.is_float]
        grads = iter(b.emit(CompositeGrad(self), (*inputs, *floats)))
        return tuple(next(grads) if value.dtype.is_float else None for value in inputs)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        """Those of the expansion."""
        return self.expansion(inputs).cost().flops

    def expansion(self, types: Sequence[TensorType]) -> Graph:
        """The op as a graph whose inputs are its operands; ShapeError unless types are static."""
        from ir.expand import expansion  # the graph and its builder know the ops, not the reverse

        return expansion(self, tuple(types))

    def parts(self, types: Sequence[TensorType]) -> Graph:
        """The op as the graph that it emits, composite ops in it too, under symbolic extents too;
        ShapeError where it depends on one."""
        from ir.expand import parts

        return parts(self, tuple(types))


@dataclass(frozen=True)
class CompositeGrad(Composite):
    """The gradient of a composite op in each float operand: its operands, g per float output."""

    of: Composite

    name: ClassVar[str] = "gradient"
    formula: ClassVar[str] = "dx = gradient of Σ ⟨g, of(x)⟩, by differentiating the expansion"
    operands: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        if not isinstance(self.of, Composite):
            raise AttributeValueError(f"{self.name}: of = {self.of!r} must be a composite op")

    def operand_names(self) -> tuple[str, ...]:
        """Those of the op, then a gradient for each of its float outputs."""
        names = list(self.of.operand_names())
        for name in self.of.result_names():
            upstream = f"grad_{name}"
            while upstream in names:  # of a gradient of a gradient
                upstream = f"grad_{upstream}"
            names.append(upstream)
        return tuple(names)

    def result_names(self) -> tuple[str, ...]:
        """A gradient for each float operand of the op."""
        floats = (name for name in self.of.operand_names() if name not in self.of.integers)
        return tuple(f"grad_{name}" for name in floats)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        count = len(self.of.operand_names())
        operands, upstream = types[:count], types[count:]
        try:
            results = self.of.infer(*operands)
        except Error as error:
            raise error.within(self.name) from error
        wanted = [type for type in results if type.dtype.is_float]
        if list(upstream) != wanted:
            listed = ", ".join(map(str, wanted))
            given = ", ".join(map(str, upstream))
            raise ShapeError(f"{self.of.name}: its gradient takes g of {listed}, not of {given}")
        return tuple(type for type in operands if type.dtype.is_float)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        from ir.interpreter import interpret

        graph = self.expansion([TensorType.of(array) for array in arrays])
        given = dict(zip(graph.inputs, arrays, strict=True))
        return tuple(interpret(graph, given).values())

    def expand(self, b: Builder, operands: Values) -> Values:
        from ir.autodiff import vjp
        from ir.expand import inline

        count = len(self.of.operand_names())
        types = [value.type for value in operands[:count]]
        static = all(type.is_static for type in types)
        forward = self.of.expansion(types) if static else self.of.parts(types)
        wrt = [name for name, type in forward.inputs.items() if type.dtype.is_float]
        back = vjp(forward, wrt)
        grads = {name: value for name, value in back.outputs.items() if name not in forward.outputs}
        return inline(b, back.replace(outputs=grads), operands)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        from ir.ops import OPS

        kinds = [op for op in OPS if issubclass(op, Composite) and op is not cls]
        return tuple(_gradient_example(kind.examples()[0]) for kind in kinds)[:13]


def _gradient_example(example: Example) -> Example:
    assert isinstance(example.op, Composite)
    upstream = [type for type in example.op.infer(*example.inputs) if type.dtype.is_float]
    types = (*example.inputs, *upstream)
    return replace(example, name=example.op.name, op=CompositeGrad(example.op), inputs=types)
