"""Graphs: named values computed by nodes in topological order, checked when they are made."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ir.dims import Dim, Sym, symbols
from ir.errors import Error, GraphError, ShapeError, did_you_mean
from ir.names import check_name
from ir.op import Cost, Op
from ir.types import Array, DType, TensorType, described

if TYPE_CHECKING:
    import networkx

MAX_BYTES = 2**46
Typed = tuple[tuple[TensorType, ...], tuple[TensorType, ...]]  # of the operands, of the results


@dataclass(frozen=True)
class Node:
    """One application of an op: the values it reads and the values it defines."""

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if not self.outputs:
            raise GraphError(f"a {self.op.name} node has no outputs; name at least one")

    @property
    def name(self) -> str:
        """The name of the node is that of its first output."""
        return self.outputs[0]

    def result_types(self, operands: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        """The types of the outputs; kept, as graphs made from one another share most nodes."""
        known: Typed | None = self.__dict__.get("_typed")
        if known is None or known[0] != operands:
            known = operands, tuple(self.op.result_types(operands))
            object.__setattr__(self, "_typed", known)
        return known[1]

    def __str__(self) -> str:
        return f"node '{self.name}' ({self.op.name})"


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """An immutable program on tensors.

    `inputs` maps names to types, `weights` names to arrays (kept read-only and C-contiguous, in
    their own element type), `outputs` public names to value names. Nodes stand in topological
    order. Construction checks everything and infers `types`, the type of every value; it raises
    GraphError, ShapeError, DTypeError or InputError with the name of the node.
    """

    name: str
    inputs: Mapping[str, TensorType]
    weights: Mapping[str, Array]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    types: Mapping[str, TensorType] = field(init=False, repr=False)
    _producers: Mapping[str, Node] = field(init=False, repr=False)
    _consumers: Mapping[str, tuple[Node, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = {name: weight_type(name, array) for name, array in self.weights.items()}
        weights = {name: _frozen(array, given[name]) for name, array in self.weights.items()}
        for name, value in {
            "inputs": MappingProxyType(dict(self.inputs)),
            "weights": MappingProxyType(weights),
            "nodes": tuple(self.nodes),
            "outputs": MappingProxyType(dict(self.outputs)),
        }.items():
            object.__setattr__(self, name, value)
        self._check_names()
        self._index()
        self._check_order()
        object.__setattr__(self, "types", MappingProxyType(self._infer(given)))

    def producer(self, value: str) -> Node | None:
        """The node that defines `value`, or None for an input or a weight."""
        return self._producers.get(value)

    def consumers(self, value: str) -> tuple[Node, ...]:
        """The nodes that read `value`, each once, in order."""
        return self._consumers.get(value, ())

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the symbolic extents of the inputs."""
        return _symbols(self.inputs.values())

    def bind(self, env: Mapping[str, Dim]) -> Graph:
        """This graph with the symbols in `env` replaced by ints or extents.

        Raises ShapeError for names that are no symbols of this graph, for values that are no
        extents, and where extents do not fit.
        """
        env = {name: self._extent(name, value) for name, value in env.items()}
        inputs = {name: type.bind(env) for name, type in self.inputs.items()}
        nodes = [dataclasses.replace(node, op=node.op.bind(env)) for node in self.nodes]
        return self.replace(inputs=inputs, nodes=tuple(nodes))

    def with_dtype(self, dtype: DType | str) -> Graph:
        """This graph with every float input, weight and result converted to `dtype`."""
        wanted = DType.of(dtype)
        inputs = {
            name: dataclasses.replace(type, dtype=wanted) if type.dtype.is_float else type
            for name, type in self.inputs.items()
        }
        weights = {
            name: array.astype(wanted.numpy, copy=False) if array.dtype.kind == "f" else array
            for name, array in self.weights.items()
        }
        nodes = [dataclasses.replace(n, op=n.op.with_dtype(wanted)) for n in self.nodes]
        return self.replace(inputs=inputs, weights=weights, nodes=tuple(nodes))

    def weights_as_inputs(self, names: Iterable[str] | None = None) -> Graph:
        """This graph with the named weights (default: all) as further inputs, in their order."""
        chosen = set(self.weights if names is None else names)
        for name in sorted(chosen - self.weights.keys()):
            raise GraphError(f"no weight is called '{name}'{did_you_mean(name, self.weights)}")
        moved = {name: self.types[name] for name in self.weights if name in chosen}
        kept = {name: array for name, array in self.weights.items() if name not in chosen}
        return self.replace(inputs={**self.inputs, **moved}, weights=kept)

    def replace(self, **changes: Any) -> Graph:
        """A new graph with some of name, inputs, weights, nodes, outputs exchanged."""
        return dataclasses.replace(self, **changes)

    def cost(self) -> Cost:
        """The summed cost of all nodes; ShapeError unless every type is static."""
        costs = (node.op.cost(*(self.types[v] for v in node.inputs)) for node in self.nodes)
        return sum(costs, Cost())

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """A networkx view: nodes carry `kind`, `op` and `types`, edges carry `value`, `type`."""
        from ir.view import to_networkx

        return to_networkx(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path` (.ir) and the weights beside it (.safetensors); see `ir.save`."""
        from ir.files import save

        save(self, path)

    def __str__(self) -> str:
        from ir.text import to_text

        return to_text(self)

    def __repr__(self) -> str:
        counts = f"{len(self.inputs)} inputs, {len(self.weights)} weights, {len(self.nodes)} nodes"
        outputs = textwrap.shorten(", ".join(self.outputs), 60, placeholder="...")
        return f"<Graph '{self.name}': {counts}, outputs: {outputs or 'none'}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return self._key() == other._key() and all(
            _same_bits(array, other.weights[name]) for name, array in self.weights.items()
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[type[Graph], tuple[Any, ...]]:
        parts = (dict(self.inputs), dict(self.weights), self.nodes, dict(self.outputs))
        return Graph, (self.name, *parts)

    def _extent(self, name: str, value: object) -> Dim:
        """The value given for a symbol; ShapeError unless there is one and it may be that."""
        if name not in self.symbols:
            known = ", ".join(sorted(self.symbols)) or "none"
            hint = did_you_mean(name, self.symbols) if isinstance(name, str) else ""
            message = f"graph '{self.name}' has no symbolic extent {described(name)}{hint}"
            raise ShapeError(f"{message} (there are: {known})")
        if isinstance(value, Sym):
            return value
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            hint = "give an int of 0 or more, or an extent made of symbols"
            raise ShapeError(f"graph '{self.name}': {name}={described(value)}; {hint}")
        return int(value)

    def _key(self) -> tuple[Any, ...]:
        weights = tuple((name, self.types[name]) for name in self.weights)
        inputs, outputs = tuple(self.inputs.items()), tuple(self.outputs.items())
        return self.name, inputs, weights, self.nodes, outputs

    def _check_names(self) -> None:
        defined = [*self.inputs, *self.weights, *(v for node in self.nodes for v in node.outputs)]
        check_name(self.name, "graph")
        for name in [*defined, *self.outputs]:
            check_name(name)
        seen: set[str] = set()
        for name in defined:
            if name in seen:
                raise GraphError(f"'{name}' is defined twice; give every value its own name")
            seen.add(name)
        for node in self.nodes:
            for value in node.inputs:
                if value not in seen:
                    hint = did_you_mean(value, seen)
                    raise GraphError(f"{node} reads '{value}', which nothing defines{hint}")
        for public, value in self.outputs.items():
            if value not in seen:
                hint = did_you_mean(value, seen)
                raise GraphError(f"output '{public}' is '{value}', which nothing defines{hint}")

    def _index(self) -> None:
        consumers: dict[str, dict[Node, None]] = {}
        for node in self.nodes:
            for value in node.inputs:
                consumers.setdefault(value, {})[node] = None
        producers = {value: node for node in self.nodes for value in node.outputs}
        object.__setattr__(self, "_producers", producers)
        object.__setattr__(self, "_consumers", {v: tuple(nodes) for v, nodes in consumers.items()})

    def _check_order(self) -> None:
        defined = {*self.inputs, *self.weights}
        for node in self.nodes:
            for value in node.inputs:
                if value not in defined:
                    cycle = self._cycle()
                    if cycle:
                        raise GraphError(f"the nodes form a cycle: {' -> '.join(cycle)}")
                    hint = "list nodes in topological order"
                    raise GraphError(f"{node} reads '{value}' before it is defined; {hint}")
            defined.update(node.outputs)

    def _cycle(self) -> list[str]:
        """The node names along one cycle, first one repeated, or an empty list."""
        waiting = {node.name: len(self._feeders(node)) for node in self.nodes}
        ready = [node for node in self.nodes if not waiting[node.name]]
        while ready:
            node = ready.pop()
            del waiting[node.name]
            for reader in {r for value in node.outputs for r in self._consumers.get(value, ())}:
                waiting[reader.name] -= 1
                if not waiting[reader.name]:
                    ready.append(reader)
        path: list[str] = []
        name = next(iter(waiting), None)
        while name is not None and name not in path:  # each node left waits for another one left
            path.append(name)
            name = next(f for f in self._feeders(self._producers[name]) if f in waiting)
        return [] if name is None else [name, *reversed(path[path.index(name) :])]

    def _feeders(self, node: Node) -> list[str]:
        """The names of the nodes that `node` reads, each once."""
        sources = (self._producers.get(value) for value in node.inputs)
        return list({source.name: None for source in sources if source is not None})

    def _infer(self, weights: Mapping[str, TensorType]) -> dict[str, TensorType]:
        types = {**self.inputs, **weights}
        known = self.symbols
        for node in self.nodes:
            try:
                results = node.result_types(tuple(types[value] for value in node.inputs))
            except Error as error:
                raise error.within(str(node), node.op.name) from error
            if len(results) != len(node.outputs):
                message = f"{node} names {len(node.outputs)} outputs, the op has {len(results)}"
                raise GraphError(message)
            for value, type in zip(node.outputs, results, strict=True):
                if reason := _unusable(type, known):
                    raise ShapeError(f"{node}: value '{value}' of type {type} {reason}")
                types[value] = type
        for name, type in self.inputs.items():
            if reason := _unusable(type, known):
                raise ShapeError(f"input '{name}' of type {type} {reason}")
        return types


def _unusable(type: TensorType, known: frozenset[str]) -> str | None:
    """What is wrong with the type of a value, if anything."""
    if type.is_static:
        return "is larger than 2**46 bytes" if type.static_nbytes > MAX_BYTES else None
    unknown = ", ".join(sorted(_symbols([type]) - known))
    return f"uses {unknown}, which no input defines" if unknown else None


def _symbols(types: Iterable[TensorType]) -> frozenset[str]:
    shapes: Sequence[Sequence[Dim]] = [type.shape for type in types]
    return frozenset().union(*(symbols(extent) for shape in shapes for extent in shape))


def weight_type(name: str, array: Array) -> TensorType:
    """The type of a weight; DTypeError, with its name, unless it is an array of such a type."""
    try:
        return TensorType.of(array)
    except Error as error:
        raise error.within(f"weight '{name}'") from error


def _frozen(array: Array, type: TensorType) -> Array:
    """`array` itself when nobody can write to it through it, else a read-only copy."""
    native, flags = type.dtype.numpy, array.flags
    if flags.writeable or not (flags.c_contiguous and flags.aligned) or array.dtype != native:
        array = np.array(array, dtype=native, order="C", copy=True)
        array.flags.writeable = False
    return array


def _same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()
