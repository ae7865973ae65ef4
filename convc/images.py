"""Batches image by image: the part of a graph that is better run for one image after the other.

Where ops run over whole batches, what one of them writes has left the caches when the next one
reads it. Run for one image at a time it is still there, and each thread can have an image of its
own, with nothing to wait for; but weights are read again for every image, which is why the last,
dense part of a network is better run over the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import ir
from convc.cost import L2
from convc.program import Images, Program, Role, Slot

MOST_BOUND = 30  # values that come in and go out for each image: the runtime passes 32 addresses
STREAMED = 0.25  # what reading a byte of weights costs, as prefetched, beside one of a value


@dataclass(frozen=True)
class Piece:
    """A part of a graph that is compiled by itself, and run for so many images, one by one.

    Its graph is that for one image. Without a number it runs once, over whole batches.
    """

    graph: ir.Graph
    images: int | None = None


def pieces(graph: ir.Graph, by_image: bool = True) -> tuple[Piece, ...]:
    """A static graph in the pieces that are run one after the other: mostly itself alone.

    Where it pays: first the nodes up to some place, for each image of the batch, then the others.
    """
    count = next((type.static_shape[0] for type in graph.inputs.values() if type.rank), 1)
    if not by_image or count < 2:
        return (Piece(graph),)
    candidate = _Front(graph, count)
    cut = candidate.best()
    if not cut:
        return (Piece(graph),)
    singles = candidate.nodes[:cut]
    crossing = _crossing(graph, cut)
    given = {name: _of_image(type, count) for name, type in graph.inputs.items()}
    front = _part(graph, singles, given, {value: value for value in crossing})
    made = {value for node in singles for value in node.outputs}
    kept = {public: value for public, value in graph.outputs.items() if value not in made}
    read = {value: graph.types[value] for value, again in crossing.items() if again}
    tail = _part(graph, graph.nodes[cut:], {**graph.inputs, **read}, kept)
    return Piece(front, count), Piece(tail)


def linked(graph: ir.Graph, found: Iterable[tuple[Piece, Program]]) -> Program:
    """The program of a graph, from those of its pieces."""
    *fronts, (_, tail) = found
    if not fronts:
        return tail
    ((piece, front),) = fronts
    assert piece.images is not None
    public = {value: name for name, value in graph.outputs.items()}
    slots, outputs = list(tail.slots), dict(tail.outputs)
    bound = {number: tail.inputs[name] for name, number in front.inputs.items()}
    for value, number in front.outputs.items():
        own = front.slots[number]
        place = tail.inputs.get(value, len(slots))
        role: Role = "output" if value in public else "temporary"
        whole = Slot(place, public.get(value, value), own.dtype, own.size * piece.images, role)
        slots[place : place + 1] = [whole]
        bound[number] = place
        if value in public:
            outputs[public[value]] = place
    inputs = {name: tail.inputs[name] for name in graph.inputs}
    ordered = {name: outputs[name] for name in graph.outputs}
    return Program(tuple(slots), tail.steps, inputs, ordered, Images(front, piece.images, bound))


class _Front:
    """The bytes that the first nodes of a graph need not move if they are run by image."""

    def __init__(self, graph: ir.Graph, count: int) -> None:
        self.graph, self.count = graph, count
        self.nodes = _singles(graph, count)
        sizes = sum(self._weights(node) for node in self.nodes)
        self.streamed = STREAMED if sizes > L2 // 2 else 0.0  # else they stay in the cache

    def best(self) -> int:
        """How many nodes to run by image; 0 where none pays."""
        gain, most, found = 0.0, 0.0, 0
        for number, node in enumerate(self.nodes, 1):
            gain -= (self.count - 1) * self._again(node)
            gain += sum(map(self._moved, node.outputs))
            crossing = _crossing(self.graph, number)
            again = sum(self._moved(value) for value, read in crossing.items() if read)
            here = gain - sum(map(self._moved, crossing)) - again  # for another layout
            if here > most and self._legal(crossing):
                most, found = here, number
        return found

    def _again(self, node: ir.Node) -> float:
        """The bytes moved for each further image of what is the same for all: weights as they are
        read, inputs as they are brought into the form in which weights are read."""
        types = self.graph.inputs
        given = [types[name] for name in types.keys() & node.inputs]
        packed = sum(type.static_nbytes for type in given if type.shape[:1] != (self.count,))
        return self.streamed * self._weights(node) + 2 * packed

    def _weights(self, node: ir.Node) -> int:
        values = self.graph.weights.keys() & node.inputs
        return sum(self.graph.types[value].static_nbytes for value in values)

    def _moved(self, value: str) -> int:
        """The bytes written and read where all images of a value do not fit in the cache."""
        size = self.graph.types[value].static_nbytes
        return 2 * size if size > L2 else 0

    def _legal(self, crossing: Iterable[str]) -> bool:
        """Whether the runtime can hand these values over, each under one name."""
        values = set(crossing)
        public = [value for value in self.graph.outputs.values() if value in values]
        images = all(self.graph.types[value].shape[:1] == (self.count,) for value in values)
        few = len(values) + len(self.graph.inputs) <= MOST_BOUND
        return images and few and len(set(public)) == len(public)


def _singles(graph: ir.Graph, count: int) -> list[ir.Node]:
    """The first nodes, as far as each makes of an image what depends on no other, for one image."""
    images = {name: type.shape[:1] == (count,) for name, type in graph.inputs.items()}
    images |= dict.fromkeys(graph.weights, False)
    found: list[ir.Node] = []
    for node in graph.nodes:
        own = [images[value] for value in node.inputs]
        types = [graph.types[value] for value in node.inputs]
        op = node.op.for_image(types, own) if any(own) else None
        if op is None:
            break
        found.append(replace(node, op=op))
        images |= dict.fromkeys(node.outputs, True)
    return found


def _crossing(graph: ir.Graph, cut: int) -> dict[str, bool]:
    """The values made by the first nodes that leave the graph or are read by later nodes; whether
    those read them."""
    read = {value for node in graph.nodes[cut:] for value in node.inputs}
    leave = {*read, *graph.outputs.values()}
    made = (value for node in graph.nodes[:cut] for value in node.outputs)
    return {value: value in read for value in made if value in leave}


def _of_image(type: ir.TensorType, count: int) -> ir.TensorType:
    batched = type.shape[:1] == (count,)
    return type.with_shape(1, *type.shape[1:]) if batched else type


def _part(
    graph: ir.Graph, nodes: Iterable[ir.Node], inputs: Mapping[str, ir.TensorType],
    outputs: Mapping[str, str],
) -> ir.Graph:  # fmt: skip
    chosen = tuple(nodes)
    read = {value for node in chosen for value in node.inputs} | {*outputs.values()}
    weights = {name: array for name, array in graph.weights.items() if name in read}
    return graph.replace(nodes=chosen, inputs=inputs, weights=weights, outputs=outputs)
