"""The algorithm for every node: the cheapest by its own prediction, or a forced one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

import ir
from convc.algorithms import ALGORITHMS, Algorithm, Site, Wish
from convc.backend.target import Target
from convc.cost import stream_bytes
from convc.errors import AlgorithmError
from ir.ops import Dense, Expand, Reshape, Softmax, Transpose

ACCURACIES = ("fast", "exact")
PLAIN_READERS = (Dense, Expand, Reshape, Softmax, Transpose)


@dataclass(frozen=True)
class Candidate:
    """One algorithm considered for one node; ``reason`` says why it does not apply, if so."""

    algorithm: Algorithm
    seconds: float
    reason: str | None


@cache
def algorithms() -> tuple[Algorithm, ...]:
    """The built-in algorithms and those of installed plug-ins (group ``convc.algorithms``)."""
    plugged = tuple(point.load()() for point in entry_points(group="convc.algorithms"))
    return ALGORITHMS + plugged


def candidates(site: Site, accuracy: str = "fast") -> Iterator[Candidate]:
    """Every algorithm, applicable or not; ``accuracy="exact"`` allows reordered sums only."""
    for algorithm in algorithms():
        reason = algorithm.supports(site)
        if reason is None and accuracy == "exact" and not algorithm.reorders_only:
            reason = 'changes rounding beyond the order of sums (accuracy="exact")'
        yield Candidate(algorithm, algorithm.seconds(site) if reason is None else 0.0, reason)


def select(
    graph: ir.Graph, target: Target, accuracy: str = "fast", forced: Mapping[str, str] | None = None
) -> dict[str, Algorithm]:
    """An algorithm for each node of a static graph, by node name.

    ``forced`` maps node names to algorithm names. Raises ``AlgorithmError`` for an unknown name,
    for one that does not apply, and for an op that no algorithm computes.
    """
    forced = dict(forced or {})
    if accuracy not in ACCURACIES:
        raise AlgorithmError(f"accuracy={accuracy!r} is unknown; one of {', '.join(ACCURACIES)}")
    unknown = forced.keys() - {node.name for node in graph.nodes}
    if unknown:
        names = ", ".join(node.name for node in graph.nodes)
        raise AlgorithmError(f"algorithms: no node {sorted(unknown)[0]!r}; nodes: {names}")
    chosen: dict[str, Algorithm] = {}
    blocks = dict.fromkeys((*graph.inputs, *graph.weights), 1)
    for node in graph.nodes:
        site = Site.of(graph, node, target)
        place = _Place(graph, node, blocks)
        algorithm = chosen[node.name] = _choose(site, place, accuracy, forced.get(node.name))
        given = [blocks[name] for name in node.inputs]
        blocks |= dict.fromkeys(node.outputs, algorithm.block(site, given))
    return chosen


@dataclass(frozen=True)
class _Place:
    """What surrounds a node: the blocks of what it reads, and who reads what it writes."""

    graph: ir.Graph
    node: ir.Node
    blocks: Mapping[str, int]

    def conversions(self, site: Site, algorithm: Algorithm) -> float:
        """Predicted seconds of bringing operands, and the result, into the layouts needed."""
        wishes = algorithm.wishes(site)
        seconds = sum(
            conversion_seconds(self.graph.types[name])
            for name, wish in zip(self.node.inputs, wishes, strict=True)
            if name not in self.graph.weights and not self._suits(name, wish)
        )
        given = [self.blocks[name] for name in self.node.inputs]
        value = self.node.outputs[0]
        if algorithm.block(site, given) > 1 and self._plain_wanted(value):
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
    """Reading and writing every element once."""
    nbytes = 2 * int(type.nbytes)  # type: ignore[arg-type]
    return nbytes / stream_bytes(nbytes)


def _choose(
    site: Site, place: _Place, accuracy: str, forced: str | None
) -> Algorithm:
    considered = list(candidates(site, accuracy))
    if forced is not None:
        named = [c for c in considered if c.algorithm.name == forced]
        if not named:
            names = ", ".join(c.algorithm.name for c in considered)
            raise AlgorithmError(f"node {site.name!r}: no algorithm {forced!r}; one of {names}")
        if named[0].reason:
            raise AlgorithmError(f"node {site.name!r}: {forced} does not apply: {named[0].reason}")
        return named[0].algorithm
    applicable = [c for c in considered if c.reason is None]
    if not applicable:
        reasons = "; ".join(f"{c.algorithm.name}: {c.reason}" for c in considered)
        node = f"node {site.name!r} ({site.op.name})"
        raise AlgorithmError(f"{node}: no algorithm computes it ({reasons})")
    if len(applicable) == 1:
        return applicable[0].algorithm
    costs = [c.seconds + place.conversions(site, c.algorithm) for c in applicable]
    return applicable[costs.index(min(costs))].algorithm
