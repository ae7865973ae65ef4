"""Concatenation in place: operands that are written where the result will lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import ir
from convc.backend.target import Target
from convc.layout import Layout
from ir.ops import Concat, Reshape


@dataclass(frozen=True)
class Part:
    """Where a value lies in another: so many channels from its start.

    ``blocks``: whether all parts but the last end with a block of so many channels.
    """

    whole: str
    channels: int
    blocks: int

    def fits(self, layout: Layout) -> bool:
        """Whether parts in this layout, one after the other, are the whole in this layout."""
        return layout.block in (1, self.blocks)


def delivered(graph: ir.Graph) -> dict[str, str]:
    """Values that their producer may write straight into an output of the graph, with the name of
    that: the output itself, or what that is a reshape of."""
    given = {*graph.inputs, *graph.weights}
    names = {value: name for name, value in reversed(list(graph.outputs.items()))}
    for value, name in list(names.items()):
        producer = graph.producer(value)
        while producer is not None and isinstance(producer.op, Reshape):
            (value,) = producer.inputs
            if value in names:
                break
            names[value] = name
            producer = graph.producer(value)
    return {value: name for value, name in names.items() if value not in given}


def apart(graph: ir.Graph) -> set[str]:
    """Values that cannot be parts of others: they lie in the caller's memory, or are weights or
    computed from weights alone."""
    known = set(graph.weights)
    for node in graph.nodes:
        if known.issuperset(node.inputs):
            known.update(node.outputs)
    return {*delivered(graph), *known}


def parts(graph: ir.Graph, apart: Collection[str], target: Target) -> dict[str, Part]:
    """The values that may be written as parts of a concatenation of channels.

    Those of one image are contiguous there. ``apart``: values that lie elsewhere.
    """
    found: dict[str, Part] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Concat) or node.op.axis != 1 or node.name in apart:
            continue
        batch, _, *spatial = graph.types[node.name].static_shape
        if batch == 1 and spatial:
            for value, part in _operands(graph, node, target):
                if value not in apart and value not in found:
                    found[value] = part
    return found


def _operands(graph: ir.Graph, node: ir.Node, target: Target) -> Iterator[tuple[str, Part]]:
    """The operands that occur once and are computed."""
    channels = [graph.types[value].static_shape[1] for value in node.inputs]
    width = target.lanes(graph.types[node.name].dtype.value)
    blocks = 1 if any(count % width for count in channels[:-1]) else width
    for number, value in enumerate(node.inputs):
        if graph.producer(value) is not None and node.inputs.count(value) == 1:
            yield value, Part(node.name, sum(channels[:number]), blocks)


def together(found: Mapping[str, Part]) -> dict[str, Sequence[str]]:
    """For each value that is a part or has parts, all that lie in the same memory."""
    groups: dict[str, list[str]] = {}
    for value in found:
        root = value
        while root in found:
            root = found[root].whole
        groups.setdefault(root, [root]).append(value)
    return {value: group for group in groups.values() for value in group}
