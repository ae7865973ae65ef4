"""What checking a graph takes of the machine's memory, and what of that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import ir
from convc.images import Piece
from convc.plan import total_bytes

EVALUATING = 2.0
"""What an op of the interpreter has beside its operands, in units of these and its results."""
CHECKING = 4.0
"""The same of checking a node: operands in its types and in float64, native code, magnitudes."""
COMPILING = 128 << 20
"""The code generator, whatever it compiles."""
CGROUP = Path("/sys/fs/cgroup")


def comparing_bytes(graph: ir.Graph) -> int:
    """About the most that compiling a static graph and ``ir.interpret`` in float64 take at once,
    beside the graph itself; native code alone takes less."""
    return _most(graph, lambda node: EVALUATING)


def checking_bytes(graph: ir.Graph, parts: Iterable[Piece]) -> int:
    """The same of ``check_nodes``; ``parts`` are the pieces that it takes the graph in."""
    images = {node.name: part.images or 1 for part in parts for node in part.graph.nodes}
    return _most(graph, lambda node: max(EVALUATING, CHECKING / images[node.name]))


def _most(graph: ir.Graph, times: Callable[[ir.Node], float]) -> int:
    """Over all nodes: what is alive in float64, and so many times what the node works on."""
    sizes = {name: 8 * prod(type.static_shape) for name, type in graph.types.items()}
    alive = most = COMPILING + sum(sizes[name] for name in (*graph.inputs, *graph.weights))
    for node in graph.nodes:
        worked_on = sum(sizes[name] for name in {*node.inputs, *node.outputs})
        most = max(most, alive + int(times(node) * worked_on))
        alive += sum(sizes[name] for name in node.outputs)
        alive -= sum(sizes[n] for n in ir.dead_after(graph, node) if n not in graph.weights)
    return most


def limit_bytes() -> int | None:
    """What the control group grants; None if it sets no limit."""
    return _number(CGROUP / "memory.max")


def available_bytes() -> int:
    """What can still be had without taking it from other programs."""
    found = [_available_here()]
    limit = limit_bytes()
    if limit is not None:
        found.append(limit - _taken())
    return max(0, min(found))


def _available_here() -> int:
    """Of the machine, with what the kernel only keeps as caches."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return total_bytes()


def _taken() -> int:
    """By the control group, without files in caches."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("anon "))
    except (OSError, ValueError, StopIteration):
        return _number(CGROUP / "memory.current") or 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None
