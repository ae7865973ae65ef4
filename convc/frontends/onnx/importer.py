"""A model, node by node, into a graph: what is known is computed, the rest is emitted."""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import ir
from convc.errors import LoadError
from convc.frontends.onnx.attributes import Attributes
from convc.frontends.onnx.call import (
    Call,
    Known,
    Live,
    Operand,
    Result,
    computable,
    described,
    fixed,
)
from convc.frontends.onnx.control import CONTROL
from convc.frontends.onnx.dispatch import NO_OPERATOR, results
from convc.frontends.onnx.errors import (
    GIVE_SHAPES,
    ConstantNeededError,
    NodeError,
    UndecidedError,
    tell,
)
from convc.frontends.onnx.external import External
from convc.frontends.onnx.inputs import Inputs
from convc.frontends.onnx.names import STANDARD, checked, renamed
from convc.frontends.onnx.narrow import integer_of, typed
from convc.frontends.onnx.sizes import counted
from convc.frontends.onnx.survey import functions_of, is_known, kind_of
from convc.frontends.onnx.symbolic import LARGEST, MAX_TERMS, is_symbolic, settled
from convc.frontends.onnx.tensors import MAX_RANK, NARROW, Stored, name_of
from ir.dims import Sym
from ir.types import Array

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

MAX_NODES = 200_000
MAX_BYTES = 2**31
MAX_DEPTH = 50
LONGEST = 200  # characters of a name in those of values made for it
SHOWN = 100
OLDEST, NEWEST = 7, 28
MALFORMED = (ir.Error, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
             RecursionError, TypeError, ValueError)  # fmt: skip


class Recorder(ir.Builder):
    """A builder whose values are called after the node that is imported."""

    prefix = ""

    def fresh(self, stem: str) -> str:
        return super().fresh(f"{self.prefix}.{stem}" if self.prefix else stem)


@dataclass
class Scope:
    """The values of a graph, of a branch or of a function by name; None is one that failed."""

    values: MutableMapping[str, Operand | None]
    opsets: Mapping[str, int]
    path: str = ""
    given: Mapping[str, AttributeProto] = field(default_factory=dict)
    depth: int = 0

    def inner(self, node: NodeProto, round: str = "") -> Scope:
        """The scope of a graph within a node: it sees what lies around it."""
        if self.depth == MAX_DEPTH:
            raise NodeError(f"graphs and functions within each other, more than {MAX_DEPTH} deep")
        name = node.output[0] if node.output else node.op_type
        path = f"{self.path}{name[:LONGEST]}.{round}"
        values = ChainMap[str, "Operand | None"]({}, self.values)
        return Scope(values, self.opsets, path, self.given, self.depth + 1)


class Importer:
    """Imports one model. `graph` raises LoadError with all that is wrong."""

    def __init__(
        self,
        model: ModelProto,
        external: External,
        shapes: Mapping[str, Sequence[int | str]],
        constants: Mapping[str, Array],
    ) -> None:
        self.model, self.stored, self.constants = model, Stored(external), constants
        self.inputs = Inputs(model.graph, shapes, constants)
        self.b = Recorder(checked(model.graph.name) or "graph")
        self.functions = functions_of(model)
        self.wanted: dict[str, str] = {}  # what values of the graph are to be called
        self.problems: list[tuple[str, str]] = []  # operators, and lines that say what is wrong
        self.needed: set[str] = set()
        self._weights: dict[int, tuple[Known, ir.Value]] = {}
        self._notes: set[str] = set()
        self._visits, self._bytes = 0, 0

    def graph(self) -> ir.Graph:
        """The imported graph."""
        proto = self.model.graph
        scope = self.scope = Scope({}, opsets_of(self.model.opset_import))
        for tensor in proto.initializer:
            if checked(tensor.name) in scope.values:
                raise LoadError(f"weight '{tensor.name}' is defined a second time")
            scope.values[tensor.name] = self._weight(tensor)
        if proto.sparse_initializer:
            raise LoadError("sparse weights are not supported; store them as plain tensors")
        for name, array in self.constants.items():
            scope.values[name] = Known(array, name)
        for value, type, truth in self.inputs.types():
            live = self.b.input(checked(value.name), type)
            self.wanted[live.name] = live.name
            element = value.type.tensor_type.elem_type
            depends = frozenset({value.name})
            scope.values[value.name] = Live(live, truth, depends, integer_of(element))
            if element in NARROW:
                self.note(f"{name_of(element)} is computed as float32")
        self.run(proto.node, scope)
        self._outputs(proto, scope)
        if self.problems:
            raise self._error()
        return renamed(ir.dead_code(self.b.build()), self._kept_names())

    def run(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        """Import nodes in their order."""
        for node in nodes:
            self._visit()
            try:
                results = self._results(node, scope)
            except MALFORMED as error:
                self._failed(node, scope, error)
                results = None
            for number, name in enumerate(node.output):
                if name:
                    done = results is not None and number < len(results)
                    scope.values[name] = results[number] if results is not None and done else None

    def _visit(self) -> None:
        """Count a node, or a round of a loop, which may be empty."""
        self._visits += 1
        if self._visits > MAX_NODES:
            raise LoadError(f"there are more than {MAX_NODES} nodes to import")

    def weight(self, operand: Known) -> ir.Value:
        """A known value as a weight, one for all its uses.

        A single number that the model does not store belongs to the formula: a constant.
        """
        if id(operand.array) not in self._weights:
            array = settled(operand.array)
            if is_symbolic(array):
                value = counted(self.b, array)
            else:
                array = computable(array)
                self.budget(array.nbytes if array is not operand.array else 0)
                if array.ndim == 0 and array.dtype.kind == "f" and not operand.stored:
                    value = self.b.constant(array.item(), array.dtype.name)
                else:
                    value = self.b.weight(self.b.fresh("constant"), array)
            self._weights[id(operand.array)] = operand, value
            if operand.name:
                self.wanted[value.name] = operand.name
        return self._weights[id(operand.array)][1]

    def live(self, name: str) -> ir.Value:
        """What the model, outside of functions and branches, calls so."""
        operand = self.scope.values.get(name)
        if operand is None:
            raise NodeError(f"no node before it defines '{name}'")
        return operand.value if isinstance(operand, Live) else self.weight(operand)

    def interpreted(self, value: ir.Value) -> Array:
        """The numbers of a value that depends on no input."""
        part = ir.dead_code(self.b.build().replace(outputs={"value": value.name}))
        part = part.replace(inputs={})
        for type in part.types.values():
            self.budget(type.dtype.numpy.itemsize * math.prod(fixed(type.shape)))
        return ir.interpret(part, {})["value"]

    def budget(self, size: int) -> None:
        """Count the bytes that are computed at import."""
        self._bytes += max(size, 0)
        if self._bytes > MAX_BYTES:
            raise NodeError(f"what is computed at import takes more than {MAX_BYTES} bytes")

    def note(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self._notes:
            self._notes.add(text)
            tell(f"{self.b.name}: {text}")

    def _weight(self, tensor: Any) -> Known:
        try:
            array = self.stored(tensor)
        except LoadError as error:
            raise error.within(f"weight '{tensor.name}'") from error
        if tensor.data_type in NARROW:
            self.note(f"{name_of(tensor.data_type)} is computed as float32")
        return Known(array, tensor.name, stored=True)

    def _results(self, node: NodeProto, scope: Scope) -> list[Operand] | None:
        """The results of a node; None where an operand has failed before."""
        operands: list[Operand | None] = []
        for name in node.input:
            if name and name not in scope.values:
                raise NodeError(f"it reads '{name}', which no node before it defines")
            operands.append(scope.values[name] if name else None)
            if name and operands[-1] is None:
                self._check_known(node)
                return None
        if any(name and name in scope.values for name in node.output):
            taken = next(name for name in node.output if name in scope.values)
            raise NodeError(f"'{taken}' is defined a second time")
        name = node.output[0] if node.output else node.op_type
        self.b.prefix = scope.path + checked(name)[:LONGEST]
        domain = "" if node.domain in STANDARD else node.domain
        if not domain and domain not in scope.opsets:
            raise NodeError("the model does not say of which opset it is; give it an opset_import")
        function = self.functions.get((node.domain, node.op_type))
        attributes = Attributes(node, scope.given)
        if function is not None:
            made: Sequence[Result] = self._called(function, node, operands, attributes, scope)
        else:
            call = Call(
                self.b, node, tuple(operands), attributes, scope.opsets.get(domain, 0), self
            )
            made = self._made(call, scope)
        return self._bound(node, made, operands, scope)

    def _check_known(self, node: NodeProto) -> None:
        """NodeError for an operator that cannot be imported whatever its operands are."""
        if not is_known(kind_of(node)) and (node.domain, node.op_type) not in self.functions:
            raise NodeError(NO_OPERATOR)

    def _made(self, call: Call, scope: Scope) -> Sequence[Result]:
        kind = kind_of(call.node)
        if kind in CONTROL:
            return CONTROL[kind](self, call, scope)
        return results(kind, call)

    def _called(
        self,
        function: FunctionProto,
        node: NodeProto,
        operands: Sequence[Operand | None],
        attributes: Attributes,
        scope: Scope,
    ) -> list[Result]:
        """The results of a function that the model defines."""
        inner = scope.inner(node)
        defaults = {proto.name: proto for proto in function.attribute_proto}
        inner.given = {**defaults, **attributes.protos}
        inner.opsets = opsets_of(function.opset_import)
        inner.values = dict.fromkeys(function.input)
        inner.values.update(zip(function.input, operands, strict=False))
        before = len(self.problems)
        self.run(function.node, inner)
        if len(self.problems) > before:
            raise NodeError(f"in function {function.name}: {self.problems.pop()[1]}")
        return [_present(inner, name) for name in function.output]

    def branch(
        self,
        graph: GraphProto,
        node: NodeProto,
        scope: Scope,
        operands: Sequence[Operand] = (),
        round: str = "",
    ) -> list[Operand]:
        """The results of a graph within a node, in a round of a loop for the operands given."""
        self._visit()
        inner = scope.inner(node, round)
        inner.values.update({t.name: self._weight(t) for t in graph.initializer})
        inner.values.update(zip((value.name for value in graph.input), operands, strict=True))
        before = len(self.problems)
        self.run(graph.node, inner)
        if len(self.problems) > before:
            raise NodeError(f"in its graph: {self.problems.pop()[1]}")
        return [_present(inner, value.name) for value in graph.output]

    def _bound(
        self, node: NodeProto, made: Sequence[Result], operands: Sequence[Operand | None],
        scope: Scope,
    ) -> list[Operand]:  # fmt: skip
        """Results as operands of the nodes to come, under their names."""
        inputs = frozenset[str]().union(*(o.inputs for o in operands if isinstance(o, Live)))
        bound: list[Operand] = []
        for number, result in enumerate(made):
            name = node.output[number] if number < len(node.output) else ""
            if isinstance(result, np.ndarray | np.generic):
                array = settled(np.asarray(result))
                self.budget(array.nbytes if array.base is None else 0)
                bound.append(Known(array, name))
            elif isinstance(result, Known):
                bound.append(result)
            else:
                live = result if isinstance(result, Live) else Live(result)
                _check_size(live.value.type)
                live = typed(self, node.op_type, live, operands)
                bound.append(replace(live, inputs=live.inputs | inputs))
                if name and not scope.path:
                    self.wanted.setdefault(live.value.name, checked(name))
        return bound

    def _outputs(self, proto: GraphProto, scope: Scope) -> None:
        if not proto.output:
            raise LoadError("the model has no outputs")
        for value in proto.output:
            if value.name not in scope.values:
                raise LoadError(f"no node defines the output '{value.name}'")
            operand = scope.values[value.name]
            if operand is not None:
                made = operand.value if isinstance(operand, Live) else self.weight(operand)
                self.b.output(value.name, made)

    def _kept_names(self) -> dict[str, str]:
        """What is called as in the model: of names wanted twice, the first keeps it."""
        kept: dict[str, str] = {}
        taken: set[str] = set()
        for value, name in self.wanted.items():
            if name not in taken:
                taken.add(name)
                kept[value] = name
        return kept

    def _failed(self, node: NodeProto, scope: Scope, error: BaseException) -> None:
        if isinstance(error, ConstantNeededError):
            self.needed |= error.inputs
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.replace(GIVE_SHAPES, self.inputs.hint())
        if not isinstance(error, ir.Error):
            reason = f"malformed ({type(error).__name__}: {reason:.200})"
        operands = [scope.values.get(name) for name in node.input]
        types = f"{', '.join(described(operand) for operand in operands):.600}"
        listed = f"{Attributes(node, scope.given)!s:.600}"
        name = node.name or (node.output[0] if node.output else "")
        what = kind_of(node)
        line = f"node '{name!s:.200}': {what}({types})"
        reason = reason if len(reason) <= 600 else f"{reason[:200]} … {reason[-400:]}"
        self.problems.append((what, f"{line}{f' with {listed}' if listed else ''}: {reason}"))

    def _error(self) -> LoadError:
        kinds = Counter(kind for kind, _ in self.problems)
        summary = ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in kinds.items())
        total = len(self.model.graph.node)
        count = f"{len(self.problems)} of {total} nodes cannot be imported: {summary:.300}"
        lines = [line for _, line in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - SHOWN} more")
        message = "\n  ".join([count, *lines])
        if self.needed:
            names = ", ".join(f"{name!r}: ..." for name in sorted(self.needed))
            message += f"\n  give the values that must be known: constants={{{names}}}"
            return ConstantNeededError(message, self.needed)
        return LoadError(message)


def opsets_of(imports: Sequence[Any]) -> dict[str, int]:
    """The version of each domain; LoadError where that of ONNX itself is too old."""
    opsets = {"" if each.domain in STANDARD else each.domain: each.version for each in imports}
    version = opsets.get("", OLDEST)
    if version < OLDEST:
        hint = "convert the model with onnx.version_converter"
        raise LoadError(f"opset {version} is older than {OLDEST}; {hint}")
    if version > NEWEST:
        taken = f"operators are taken for what they are in {NEWEST}"
        tell(f"opset {version} is newer than {NEWEST}, the newest that is known; {taken}")
    return opsets


def _present(scope: Scope, name: str) -> Operand:
    operand = scope.values.get(name)
    if operand is None:
        raise NodeError(f"its graph does not define '{name}'")
    return operand


def _check_size(type: ir.TensorType) -> None:
    """NodeError for types that would make everything after them slow to import."""
    if type.rank > MAX_RANK:
        raise NodeError(f"a result of {type.rank} axes; at most {MAX_RANK} are supported")
    terms = 1
    for extent in type.shape:
        if isinstance(extent, Sym):
            terms *= len(extent.terms)
        elif extent > LARGEST:
            raise NodeError("an extent of a result is beyond the integers of 64 bits")
    if terms > MAX_TERMS**2:
        raise UndecidedError("the sizes of a result are too long expressions")
