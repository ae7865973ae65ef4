"""The algorithm for every node: the cheapest by prediction or measurement, or a forced one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TypeAlias

import ir
from convc import answers
from convc.algorithms import Algorithm, Site, Wish
from convc.backend.target import Target
from convc.cost import L3, stream_bytes
from convc.errors import AlgorithmError
from convc.images import Piece, pieces
from convc.joining import Part, apart, parts
from convc.layout import Layout
from convc.plugins import algorithms
from convc.tuning.records import REFUSED, Times, key_of, signature
from ir.ops import Concat, Expand, MatMul, Reshape, Softmax, Transpose
from ir.ops.composite import Composite
from ir.ops.index import Finding, Indexing
from ir.types import described

ACCURACIES = ("fast", "exact")
PLAIN_READERS = (Expand, Finding, Indexing, MatMul, Reshape, Softmax, Transpose)


@dataclass(frozen=True)
class Candidate:
    """One algorithm considered for one node; ``reason`` says why it does not apply, if so.

    ``seconds`` are predicted, for one thread, and infinite where it has to be asked for;
    ``measured`` ones are infinite where it gave wrong numbers.
    """

    algorithm: Algorithm
    seconds: float
    reason: str | None
    conversions: float = 0.0
    measured: float | None = None

    @property
    def cost(self) -> float:
        """What is compared: seconds, measured if they are, with those of the conversions."""
        return (self.seconds if self.measured is None else self.measured) + self.conversions

    @property
    def refused(self) -> bool:
        """Whether it was seen to compute wrong numbers."""
        return self.measured == REFUSED


Asked: TypeAlias = "dict[tuple[Site, int], tuple[Candidate, ...]]"
"""The candidates of sites, among weights of so many bytes."""


@dataclass(frozen=True)
class Choice:
    """All that was considered for a node, and what was chosen.

    ``piece``: the part of the graph (see ``convc.images``) that the node is compiled in.
    """

    piece: Piece
    node: ir.Node
    site: Site
    considered: tuple[Candidate, ...]
    chosen: Candidate
    forced: bool

    @property
    def graph(self) -> ir.Graph:
        """What the node is compiled in."""
        return self.piece.graph

    @property
    def applicable(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.considered if c.reason is None)

    @property
    def signature(self) -> str:
        """What its measured times stand under in ``Times``."""
        return _key(self.piece, self.node)


def _key(piece: Piece, node: ir.Node) -> str:
    return key_of(signature(piece.graph, node), piece.alone)


def check_accuracy(accuracy: object) -> None:
    """AlgorithmError unless it is one of ``ACCURACIES``."""
    if accuracy not in ACCURACIES:
        known = ", ".join(ACCURACIES)
        raise AlgorithmError(f"accuracy={described(accuracy)} is unknown; one of {known}")


def candidates(site: Site, accuracy: str = "fast") -> Iterator[Candidate]:
    """Every algorithm, applicable or not; ``accuracy="exact"`` allows reordered sums only.

    Raises ``AlgorithmError`` where one answers what it must not.
    """
    for algorithm in algorithms():
        reason = answers.supports(algorithm, site)
        if reason is None and accuracy == "exact" and not algorithm.reorders_only:
            reason = 'changes rounding beyond the order of sums (accuracy="exact")'
        seconds = answers.seconds(algorithm, site) if reason is None else 0.0
        yield Candidate(algorithm, seconds, reason)


def choices(
    graph: ir.Graph, target: Target, accuracy: str = "fast",
    forced: Mapping[str, str] | None = None, measured: Times | None = None,
    by_image: bool = True, threads: int = 1,
) -> Iterator[Choice]:  # fmt: skip
    """The algorithm for each node of a static graph that is run on so many threads, in order;
    ``by_image``: as of ``convc.compile``. See ``choices_in``."""
    cut = pieces(graph, by_image, threads)
    return choices_in(cut, target, accuracy, forced, measured)


def choices_in(
    pieces: Sequence[Piece], target: Target, accuracy: str = "fast",
    forced: Mapping[str, str] | None = None, measured: Times | None = None,
    given_up: Collection[tuple[str, str]] = (), asked: Asked | None = None,
) -> Iterator[Choice]:  # fmt: skip
    """The algorithm for each node of a graph in pieces, in order.

    ``forced`` maps node names to algorithm names; ``measured`` are times that take the place of
    predictions; ``given_up``: nodes with algorithms that they are not to use, if they can do
    without; ``asked``: what was answered before for the same graph, and will be again. Raises
    ``AlgorithmError`` for an unknown name, for one that does not apply, and for an op that no
    algorithm computes.
    """
    forced, measured = forced or {}, measured or {}
    asked = {} if asked is None else asked
    check_accuracy(accuracy)
    names = [node.name for piece in pieces for node in piece.graph.nodes]
    unknown = sorted(forced.keys() - set(names))
    if unknown:
        raise AlgorithmError(f"algorithms: no node {unknown[0]!r}; nodes: {', '.join(names)}")
    for piece in pieces:
        yield from _choices(piece, target, accuracy, forced, measured, given_up, asked)


def _choices(
    piece: Piece, target: Target, accuracy: str, forced: Mapping[str, str], measured: Times,
    given_up: Collection[tuple[str, str]], asked: Asked,
) -> Iterator[Choice]:  # fmt: skip
    graph = piece.graph
    joined = parts(graph, apart(graph), target)
    blocks = dict.fromkeys((*graph.inputs, *graph.weights), 1)
    for node in graph.nodes:
        site = Site.of(graph, node, target)
        place = _Place(graph, node, blocks, joined)
        times = measured.get(_key(piece, node), {}) if measured else {}
        if (site, site.resident) not in asked:
            asked[site, site.resident] = tuple(candidates(site, accuracy))
        known = asked[site, site.resident]
        found = (_unless_given_up(c, node, given_up) for c in known)
        considered = _comparable([_priced(c, site, place, times) for c in found])
        name = forced.get(node.name)
        chosen = _choose(site, considered) if name is None else _forced(site, considered, name)
        yield Choice(piece, node, site, considered, chosen, name is not None)
        given = [blocks[name] for name in node.inputs]
        blocks |= dict.fromkeys(node.outputs, answers.block(chosen.algorithm, site, given))


@dataclass(frozen=True)
class _Place:
    """What surrounds a node: the blocks of what it reads, what is ``joined`` in place, and who
    reads what it writes."""

    graph: ir.Graph
    node: ir.Node
    blocks: Mapping[str, int]
    joined: Mapping[str, Part]

    def copied(self, site: Site, algorithm: Algorithm) -> float:
        """The share of the operands that is not written where the result of a concatenation lies;
        1 for any other op."""
        if not isinstance(site.op, Concat):
            return 1.0
        given = [self.blocks[name] for name in self.node.inputs]
        layout = Layout(answers.block(algorithm, site, given))
        sizes = {name: self.graph.types[name].static_nbytes for name in self.node.inputs}
        rest = (sizes[name] for name in self.node.inputs if not self._lies(name, layout))
        total = sum(sizes[name] for name in self.node.inputs)
        return sum(rest) / total if total else 0.0

    def _lies(self, name: str, layout: Layout) -> bool:
        """Whether an operand is a part of the result where both lie in a layout."""
        part = self.joined.get(name)
        mine = part is not None and part.whole == self.node.name and part.fits(layout)
        return mine and self.blocks[name] == layout.block

    def conversions(self, site: Site, algorithm: Algorithm) -> float:
        """Predicted seconds of bringing operands, and the result, into the layouts needed."""
        wishes = answers.wishes(algorithm, site)
        seconds = sum(
            conversion_seconds(self.graph.types[name])
            for name, wish in zip(self.node.inputs, wishes, strict=True)
            if name not in self.graph.weights and not self._suits(name, wish)
        )
        given = [self.blocks[name] for name in self.node.inputs]
        value = self.node.outputs[0]
        if answers.block(algorithm, site, given) > 1 and self._plain_wanted(value):
            seconds += conversion_seconds(self.graph.types[value])
        return seconds

    def _suits(self, name: str, wish: Wish) -> bool:
        """Whether an operand will lie as wished; its producer sees to the halo, if it has one."""
        block = self.blocks[name]
        halo = self.graph.producer(name) is None and any(map(any, wish.halo))
        return block in (wish.blocks[:1] if wish.exact else wish.blocks) and not halo

    def _plain_wanted(self, value: str) -> bool:
        """Whether the value leaves the graph, or somebody cannot read it in blocks."""
        if value in self.graph.outputs.values():
            return True
        return any(isinstance(node.op, PLAIN_READERS) for node in self.graph.consumers(value))


def conversion_seconds(type: ir.TensorType) -> float:
    """Reading and writing every element once; in caches, writes overlap with reads."""
    nbytes = 2 * type.static_nbytes
    return nbytes / ((1.7 if nbytes < L3 else 1.15) * stream_bytes(nbytes))


def _unless_given_up(
    candidate: Candidate, node: ir.Node, given_up: Collection[tuple[str, str]]
) -> Candidate:
    if candidate.reason is None and (node.name, candidate.algorithm.name) in given_up:
        return replace(candidate, reason="takes too much of memory=")
    return candidate


def _priced(
    candidate: Candidate, site: Site, place: _Place, times: Mapping[str, float]
) -> Candidate:
    if candidate.reason is not None:
        return candidate
    algorithm = candidate.algorithm
    seconds, measured = candidate.seconds, times.get(algorithm.name)
    share = place.copied(site, algorithm)
    if share < 1:
        seconds *= share
        measured = measured if measured in (None, REFUSED) else share * measured
    conversions = place.conversions(site, algorithm)
    return replace(candidate, seconds=seconds, conversions=conversions, measured=measured)


def _comparable(considered: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Without the measured seconds where the one that predictions choose has none: it is measured
    first, but may have changed since, and a prediction cannot be compared with a measurement."""
    offered = [c for c in considered if c.reason is None and isfinite(c.seconds)]
    usual = min(offered, key=lambda c: c.seconds + c.conversions, default=None)
    if usual is None or usual.measured is not None:
        return tuple(considered)
    return tuple(c if c.refused else replace(c, measured=None) for c in considered)


def _forced(site: Site, considered: Sequence[Candidate], name: str) -> Candidate:
    named = [c for c in considered if c.algorithm.name == name]
    if not named:
        names = ", ".join(c.algorithm.name for c in considered)
        raise AlgorithmError(f"node {site.name!r}: no algorithm {name!r}; one of {names}")
    if named[0].reason:
        raise AlgorithmError(f"node {site.name!r}: {name} does not apply: {named[0].reason}")
    return named[0]


def _choose(site: Site, considered: Sequence[Candidate]) -> Candidate:
    """The cheapest; where some have been measured, the others are not in the running."""
    applicable = [c for c in considered if c.reason is None]
    if not applicable:
        node = f"node {site.name!r}: no algorithm computes {site.op.name}"
        hint = "add an algorithm (convc/algorithms), or run it with ir.interpret"
        if isinstance(site.op, Composite):
            hint = "it is made of other ops: have expand_composites among the passes"
        raise AlgorithmError(f"{node}({', '.join(map(str, site.inputs))}); {hint}")
    offered = [c for c in applicable if isfinite(c.seconds)] or applicable
    right = [c for c in offered if not c.refused] or offered
    running = [c for c in right if c.measured is not None] or right
    return min(running, key=lambda c: c.cost)
