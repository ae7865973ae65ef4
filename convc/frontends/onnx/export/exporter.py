"""A graph as a model of ONNX: names, and one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ir
from convc.errors import ExportError
from convc.frontends.onnx.export.call import ELEMENT, Call
from convc.frontends.onnx.export.functions import functions
from convc.frontends.onnx.export.operators import NO_FORM, OPERATORS
from convc.frontends.onnx.export.opsets import opset_of
from convc.frontends.onnx.export.steps import Step, steps
from convc.frontends.onnx.export.writer import Line, NoFormError, Writer, check_integers
from convc.frontends.onnx.names import OWN, unique
from ir.errors import ShapeError
from ir.ops.composite import Composite
from ir.types import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

Store = Callable[[str, "Array"], "TensorProto"]


class Exporter:
    """Writes one graph; ExportError lists all nodes that ONNX cannot express."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.names = _names(graph)
        self.writer = Writer(graph.inputs, self.names.values())
        self.failures = [
            f"output '{name}' is called like an input; give it another name"
            for name, value in graph.outputs.items()
            if name in graph.inputs and name != value
        ]
        self._write(graph, self.names)
        if self.failures:
            count = "a node has" if len(self.failures) == 1 else f"{len(self.failures)} nodes have"
            listed = "\n".join(f"  {failure}" for failure in self.failures)
            raise ExportError(f"graph '{graph.name}': {count} no form in ONNX:\n{listed}")
        for name, value in graph.outputs.items():
            if self.names[value] != name:
                self.writer.lines.append(Line("Identity", (self.names[value],), (name,), {}))
        self.lines = self.writer.needed(graph.outputs)
        weights = {self.names[name]: array for name, array in graph.weights.items()}
        used = {*graph.outputs, *(name for line in self.lines for name in line.inputs)}
        self.constants = {name: array for name, array in weights.items() if name in used}
        self.constants |= self.writer.constants

    def proto(self, store: Store) -> ModelProto:
        """The model; `store` makes tensors of its constants."""
        from onnx import helper

        from convc import __version__

        types = {name: self.graph.types[value] for name, value in self.graph.outputs.items()}
        made = helper.make_graph(
            [_node(line) for line in self.lines],
            self.graph.name,
            [_info(name, type) for name, type in self.graph.inputs.items()],
            [_info(name, type) for name, type in types.items()],
            [store(name, array) for name, array in self.constants.items()],
        )
        opset = opset_of(self.lines)
        called = functions((line.kind for line in self.lines), opset)
        domains = {"": opset, OWN: 1} if called else {"": opset}
        opsets = [helper.make_opsetid(*domain) for domain in domains.items()]
        version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        return helper.make_model(
            made, opset_imports=opsets, ir_version=version, producer_name="convc",
            producer_version=__version__, functions=called,
        )  # fmt: skip

    def _write(self, graph: ir.Graph, names: Mapping[str, str]) -> None:
        """Write all steps; `names` says what the values of the graph are called in the model."""
        for step in steps(graph):
            types = tuple(graph.types[name] for name in step.operands)
            made = tuple(graph.types[name] for name in step.results)
            operands = tuple(names[name] for name in step.operands)
            call = Call(self.writer, step.op, operands, types, made, names[step.result])
            try:
                check_integers(*(extent for type in made for extent in type.shape))
                self._step(call, tuple(names[name] for name in step.results))
            except NoFormError as error:
                self._fail(step, types, error)
            except MemoryError:
                reason = "it needs a constant that does not fit into memory"
                self._fail(step, types, NoFormError(reason, "use smaller windows"))

    def _step(self, call: Call[Any], results: tuple[str, ...]) -> None:
        """Write one step, by its operator or through its parts."""
        op = call.op
        if type(op) in NO_FORM:
            raise NoFormError(NO_FORM[type(op)], "export the graph that the passes were given")
        since = len(self.writer.lines)
        try:
            if type(op) not in OPERATORS:
                composite = isinstance(op, Composite)
                raise NoFormError(
                    "it is written through its parts, which depend on sizes" if composite else
                    "the exporter does not know this op"
                )  # fmt: skip
            made = OPERATORS[type(op)](call)
        except NoFormError as error:
            if not isinstance(op, Composite):
                raise
            self._expand(call, results, error)
            return
        given = (made,) if isinstance(made, str) else made
        self._call(since, given, results)

    def _expand(self, call: Call[Any], results: tuple[str, ...], otherwise: NoFormError) -> None:
        """Write the parts of an op that is a formula of others; where they depend on symbolic
        sizes, there is no form."""
        static = all(type.is_static for type in call.types)
        try:
            inner = call.op.expansion(call.types) if static else call.op.parts(call.types)
        except ShapeError as error:
            raise otherwise from error
        names = dict(zip(inner.inputs, call.operands, strict=True))
        for value in inner.types:
            if value not in names:
                names[value] = self.writer.fresh(f"{call.name}.{value}")
        for name, array in inner.weights.items():
            self.writer.constants[names[name]] = array
        since = len(self.writer.lines)
        self._write(inner, names)
        self._call(since, [names[value] for value in inner.outputs.values()], results)

    def _call(self, since: int, made: Sequence[str], wanted: Sequence[str]) -> None:
        """Call results so; what was there before, or has another name already, is copied."""
        renamed: dict[str, str] = {}
        for old, new in zip(made, wanted, strict=True):
            if old not in renamed and any(
                old in line.outputs for line in self.writer.lines[since:]
            ):
                self.writer.rename(since, old, new)
                renamed[old] = new
            else:
                self.writer.lines.append(Line("Identity", (renamed.get(old, old),), (new,), {}))

    def _fail(self, step: Step, types: tuple[ir.TensorType, ...], error: NoFormError) -> None:
        extents = [extent for type in types for extent in type.shape]
        names = sorted(frozenset().union(*map(ir.symbols, extents)))
        bind = f"bind {', '.join(names)}, as in graph.bind({{'{names[0]}': 8}})" if names else ""
        listed = ", ".join(map(str, types))
        reason = f"{error}; {error.hint or bind}"
        self.failures.append(f"node '{step.result}': {step.op.name}({listed}): {reason}")


def _names(graph: ir.Graph) -> dict[str, str]:
    """What values are called: inputs and outputs as from outside, others as in the graph unless
    that is taken."""
    taken = {*graph.inputs, *graph.outputs}
    public: dict[str, str] = {}
    for name, value in graph.outputs.items():
        if graph.producer(value) is not None and name not in graph.inputs:
            public.setdefault(value, name)
    return {
        value: value if value in graph.inputs else public.get(value) or unique(value, taken)
        for value in graph.types
    }


def _node(line: Line) -> NodeProto:
    from onnx import helper

    return helper.make_node(
        line.kind, line.inputs, line.outputs, line.outputs[0], **line.attributes
    )


def _info(name: str, type: ir.TensorType) -> ValueInfoProto:
    from onnx import helper

    shape = [dim if isinstance(dim, int) else str(dim) for dim in type.shape]
    return helper.make_tensor_value_info(name, ELEMENT[type.dtype], shape)
