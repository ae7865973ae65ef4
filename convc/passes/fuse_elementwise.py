"""Run connected elementwise ops in one loop, so that what they pass on stays in registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ir
from ir.ops import Bias, Elementwise, Expand, Uniform
from ir.ops.elementwise import FUSIBLE
from ir.ops.pointwise import Broadcasting
from ir.rewrite import dead_code, substitute

MOST_BUFFERS, MOST_STEPS = 16, 64  # what a kernel takes: addresses, and registers between steps


def fuse_elementwise(graph: ir.Graph) -> ir.Graph:
    """Each group of connected elementwise ops of one type as one node with one or more results.

    Every op stays in one group, so nothing is computed twice; what others read is a result.
    """
    graph = dead_code(_without_expansions(graph))
    groups = _Groups(graph)
    for node in graph.nodes:
        for name in node.inputs:
            groups.join(graph.producer(name), node)
    return groups.fused() if groups.found else graph


def _without_expansions(graph: ir.Graph) -> ir.Graph:
    """Ops that broadcast read what was expanded before it was, where their shape stays."""
    changed: dict[str, list[ir.Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Broadcasting):
            inputs = list(node.inputs)
            for number, name in enumerate(inputs):
                producer = graph.producer(name)
                if producer is not None and isinstance(producer.op, Expand):
                    shorter = [*inputs[:number], producer.inputs[0], *inputs[number + 1 :]]
                    types = node.op.infer(*(graph.types[value] for value in shorter))
                    inputs = shorter if types == (graph.types[node.name],) else inputs
            if inputs != list(node.inputs):
                changed[node.name] = [replace(node, inputs=tuple(inputs))]
    return substitute(graph, changed) if changed else graph


class _Groups:
    """Nodes to be fused. Sets of nodes are the bits of integers, by position in the graph.

    ``order`` holds the groups so that each stands after all that it reads, with empty places.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.position = {node.name: at for at, node in enumerate(graph.nodes)}
        self.groups = [1 << at for at in range(len(graph.nodes))]
        self.order = list(self.groups)
        self.place = {group: at for at, group in enumerate(self.groups)}
        self.outputs = set(graph.outputs.values())
        self.found = False

    def join(self, first: ir.Node | None, second: ir.Node) -> None:
        """Make one group of those of two nodes, if a kernel can run it and no cycle comes of it."""
        if first is None or not self._alike(first, second):
            return
        source, reader = (self.groups[self.position[node.name]] for node in (first, second))
        if source == reader or not self._fits(source | reader):
            return
        before = self._between(source, reader)
        if source in before:
            return
        self.found = True
        self._merge(source, reader, before)

    def _merge(self, source: int, reader: int, before: set[int]) -> None:
        """What the reader depends on moves before the two, what else stood between them behind."""
        union, start, stop = source | reader, self.place[source], self.place[reader] + 1
        between = self.order[start + 1 : stop - 1]
        first, last = ([g for g in between if (g in before) == early] for early in (True, False))
        self.order[start:stop] = [*first, union, *last, 0]
        for at in range(start, stop):
            self.place[self.order[at]] = at
        for at in _bits(union):
            self.groups[at] = union

    def _between(self, source: int, reader: int) -> set[int]:
        """The groups after the one on which the other depends, not counting that it reads the one;
        with the one among them if they depend on it."""
        start, found = self.place[source], set[int]()
        waiting = self._read_by(reader) - {source, reader}
        while waiting:
            group = waiting.pop()
            if group not in found and self.place[group] >= start:
                found.add(group)
                waiting |= self._read_by(group) - {group}
        return found

    def _read_by(self, group: int) -> set[int]:
        """The groups that this one gets its operands from, itself too if it is one of several."""
        names = (name for at in _bits(group) for name in self.nodes[at].inputs)
        producers = (self.graph.producer(name) for name in names)
        return {self.groups[self.position[node.name]] for node in producers if node is not None}

    def _alike(self, *nodes: ir.Node) -> bool:
        """Whether both compute one type by elementwise ops, from floats of that type."""
        types = self.graph.types
        wanted = types[nodes[0].name]
        return all(
            isinstance(node.op, FUSIBLE)
            and types[node.name] == wanted
            and (isinstance(node.op, Uniform)
                 or all(types[name].dtype is wanted.dtype for name in node.inputs))
            for node in nodes
        )  # fmt: skip

    def _fits(self, group: int) -> bool:
        members = [self.nodes[at] for at in _bits(group)]
        buffers = len(self._operands(members)) + len(self._results(members))
        return buffers <= MOST_BUFFERS and len(members) <= MOST_STEPS

    def _operands(self, members: list[ir.Node]) -> list[tuple[str, bool]]:
        """The values that come from outside, and whether they are added to axis 1."""
        inner = {node.name for node in members}
        used = ((node, name, number) for node in members for number, name in enumerate(node.inputs))
        found = {(name, _is_bias(node, number)): None for node, name, number in used
                 if name not in inner}  # fmt: skip
        return list(found)

    def _results(self, members: list[ir.Node]) -> list[str]:
        """The values that are read outside."""
        names = {node.name for node in members}
        return [
            node.name
            for node in members
            if node.name in self.outputs
            or any(reader.name not in names for reader in self.graph.consumers(node.name))
        ]

    def fused(self) -> ir.Graph:
        """The graph with a node for each group."""
        return self.graph.replace(nodes=tuple(self._node(group) for group in self.order if group))

    def _node(self, group: int) -> ir.Node:
        members = [self.nodes[at] for at in _bits(group)]
        if len(members) == 1:
            return members[0]
        operands, results = self._operands(members), self._results(members)
        numbers = {operand: number for number, operand in enumerate(operands)}
        steps = []
        for node in members:
            args = ((name, _is_bias(node, i)) for i, name in enumerate(node.inputs))
            steps.append((node.op, tuple(numbers[arg] for arg in args)))
            numbers[node.name, False] = len(operands) + len(steps) - 1
        given = tuple(numbers[name, False] for name in results)
        op = Elementwise(len(operands), tuple(steps), given)
        return ir.Node(op, tuple(name for name, _ in operands), tuple(results))


def _is_bias(node: ir.Node, operand: int) -> bool:
    return isinstance(node.op, Bias) and operand == 1


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
