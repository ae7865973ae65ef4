"""The algorithm for every node: the cheapest by its own prediction, or a forced one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

import ir
from convc.algorithms import ALGORITHMS, Algorithm, Site
from convc.backend.target import Target
from convc.errors import AlgorithmError

ACCURACIES = ("fast", "exact")


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
    return {
        node.name: _choose(Site.of(graph, node, target), accuracy, forced.get(node.name))
        for node in graph.nodes
    }


def _choose(site: Site, accuracy: str, forced: str | None) -> Algorithm:
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
    return min(applicable, key=lambda candidate: candidate.seconds).algorithm
