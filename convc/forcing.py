"""Algorithms that are asked for by the names of nodes."""

from __future__ import annotations

from collections.abc import Mapping

import ir
from convc import answers
from convc.algorithms import Site
from convc.backend.target import Target
from convc.errors import AlgorithmError
from convc.plugins import algorithms
from ir.ops.composite import Composite


def check_names(graph: ir.Graph, forced: Mapping[str, str]) -> None:
    """``AlgorithmError`` for unknown algorithms, and for nodes that a symbolic graph has not.

    The parts of composite ops depend on sizes; passes may make more nodes of a static graph.
    """
    known = [algorithm.name for algorithm in algorithms()]
    for name, algorithm in forced.items():
        if algorithm not in known:
            message = f"node {name!r}: no algorithm {algorithm!r}; one of {', '.join(known)}"
            raise AlgorithmError(message)
        if graph.symbols and not any(_may_have(node, name) for node in graph.nodes):
            names = ", ".join(node.name for node in graph.nodes)
            raise AlgorithmError(f"algorithms: no node {name!r}; nodes: {names}")


def _may_have(node: ir.Node, name: str) -> bool:
    """Whether it is the name of the node, or may be that of a part of it."""
    return name == node.name or (isinstance(node.op, Composite) and _is_part(name, node.name))


def check_choices(forced: Mapping[str, str], graph: ir.Graph, target: Target) -> None:
    """``AlgorithmError`` where parts of a composite op have to be named instead of the whole."""
    whole = [name for name in forced if _composite(graph, name)]
    if not whole:
        return
    expanded = ir.expand(graph)
    by_name = {algorithm.name: algorithm for algorithm in algorithms()}
    for name in whole:
        algorithm = by_name[forced[name]]
        reasons = {node.name: answers.supports(algorithm, Site.of(expanded, node, target))
                   for node in expanded.nodes if _is_part(node.name, name)}  # fmt: skip
        if len(reasons) < 2 or reasons.get(name) is None:
            continue
        fit = [part for part, reason in reasons.items() if reason is None]
        hint = f"name those that {algorithm.name} computes: {', '.join(fit)}"
        if not fit:
            why = [f"{part}: {r}" for part, r in reasons.items() if r != reasons[name]]
            hint = f"{algorithm.name} applies to none of them{' - ' if why else ''}{', '.join(why)}"
        raise AlgorithmError(f"node {name!r} is expanded into {', '.join(reasons)}; {hint}")


def _composite(graph: ir.Graph, name: str) -> bool:
    node = graph.producer(name)
    return node is not None and isinstance(node.op, Composite)


def _is_part(name: str, whole: str) -> bool:
    """Whether a composite op of the one name has a part of the other; the last has its own."""
    return name == whole or name.startswith(f"{whole}.")
