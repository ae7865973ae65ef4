"""Batches image by image: the part of a graph that is better run for one image after the other.

Where ops run over whole batches, what one of them writes has left the caches when the next one
reads it. Run for one image at a time it is still there, and each thread can have an image of its
own, with nothing to wait for; but weights are read again for every image, which is why the last,
dense part of a network is better run over the whole batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import ir
from convc.cost import L2
from convc.program import Images, Program, Role, Slot

MOST_BOUND = 30  # values that come in and go out for each image: the runtime passes 32 addresses
STREAMED = 0.25  # what reading a byte of weights costs, as prefetched, beside one of a value


@dataclass(frozen=True)
class Piece:
    """A part of a graph that is compiled by itself, and run for so many images, one by one.

    Its graph is that for one image. Without a number it runs once, over whole batches. ``alone``:
    whether each image runs on one of several threads.
    """

    graph: ir.Graph
    images: int | None = None
    alone: bool = False


Pieces = tuple[Piece, ...]


def pieces(graph: ir.Graph, by_image: bool = True, threads: int = 1) -> Pieces:
    """A static graph in the pieces that are run one after the other: mostly itself alone.

    Where it pays: first the nodes up to some place, for each image of the batch, then the others.
    The images are those of the inputs that the first node reads. An input of another leading extent
    is the same for all of them, and nodes that make something of images of its own are no more
    among the first.
    """
    front = _front(graph) if by_image else None
    return _cut(graph, front, front.best(), threads) if front else (Piece(graph),)


def smaller_pieces(graph: ir.Graph, by_image: bool, threads: int) -> Iterator[Pieces]:
    """Other ways than ``pieces`` that may take less memory: whole, and cut where the fewest bytes
    are alive at once."""
    front = _front(graph) if by_image else None
    if front:
        best, least = front.best(), front.least(threads)
        yield from (_cut(graph, front, cut, threads) for cut in {0, least} - {best})


def _front(graph: ir.Graph) -> _Front | None:
    """The first nodes, those that can run for one image after the other, if there are any."""
    extents = dict.fromkeys(type.static_shape[0] for type in graph.inputs.values() if type.rank)
    fronts = (_Front(graph, count) for count in extents if count > 1)
    return next((front for front in fronts if front.nodes), None)


def _cut(graph: ir.Graph, front: _Front, cut: int, threads: int) -> Pieces:
    """A graph in pieces: so many nodes for each image, the others."""
    if not cut:
        return (Piece(graph),)
    count, singles = front.count, front.nodes[:cut]
    crossing = _crossing(graph, cut)
    given = {name: _of_image(type, count) for name, type in graph.inputs.items()}
    first = _part(graph, singles, given, {value: value for value in crossing})
    made = {value for node in singles for value in node.outputs}
    kept = {public: value for public, value in graph.outputs.items() if value not in made}
    read = {value: graph.types[value] for value, again in crossing.items() if again}
    tail = _part(graph, graph.nodes[cut:], {**graph.inputs, **read}, kept)
    return Piece(first, count, 1 < threads <= count), Piece(tail)


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

    def least(self, threads: int) -> int:
        """How many nodes to run by image so that the fewest bytes are alive at once; 0 for none."""
        sizes = {name: type.static_nbytes for name, type in self.graph.types.items()}
        nodes, public = self.graph.nodes, set(self.graph.outputs.values())
        own = threads if threads <= self.count else 1  # images at a time
        found, fewest = 0, _most_alive(nodes, sizes, (), public)
        for cut in range(1, len(self.nodes) + 1):
            crossing = _crossing(self.graph, cut)
            front = own * _most_alive(nodes[:cut], sizes, (), crossing) // self.count
            here = front + _most_alive(nodes[cut:], sizes, crossing, public)
            if here < fewest and self._legal(crossing):
                found, fewest = cut, here
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


def _most_alive(
    nodes: Sequence[ir.Node], sizes: Mapping[str, int], early: Collection[str],
    elsewhere: Collection[str],
) -> int:  # fmt: skip
    """The most bytes of values that nodes make, and of ``early`` ones, alive at any node; without
    those that lie elsewhere."""
    made = {value for node in nodes for value in node.outputs}
    mine = {*made, *early} - {*elsewhere}
    last = {value: n for n, node in enumerate(nodes) for value in (*node.inputs, *node.outputs)}
    ends = defaultdict[int, int](int)
    for value in mine:
        ends[last.get(value, 0)] += sizes[value]
    most = alive = sum(sizes[value] for value in mine - made)
    for number, node in enumerate(nodes):
        alive += sum(sizes[value] for value in node.outputs if value in mine)
        most = max(most, alive)
        alive -= ends[number]
    return most


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
