"""Timing a node as it runs in its graph: what it reads just written, its weights long unused.

Repeated on its own, a node finds all it needs in the caches. Transformed weights can be many times
larger than plain ones, so what is fastest then may be slowest in a network that does not fit in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import ir
from convc.tuning.trial import Entry

Memory: TypeAlias = npt.NDArray[np.int64]
SHORTEST = 1e-9  # seconds: what takes less than the clock can tell takes this
ENOUGH = 64 << 20  # bytes: about the caches of one processor; reading more changes nothing


def elsewhere(graph: ir.Graph, node: ir.Node) -> Memory:
    """As much memory as the rest of a static graph works on between two runs of the node."""
    own = {*node.inputs, *node.outputs}
    sizes = [t.static_nbytes for name, t in graph.types.items() if name not in own]
    return np.ones(min(sum(sizes), ENOUGH) // 8, np.int64)


def measure(
    entries: Mapping[str, Entry], others: Memory, rounds: int, seconds: float
) -> dict[str, float]:
    """The least seconds of a run of each, taken in turn, without what the call itself takes.

    Before each run ``others`` are read, then the node's operands. At least so many rounds, more as
    long as they take less than so many seconds.
    """
    least, idle = (dict.fromkeys(entries, inf) for _ in range(2))
    for entry in entries.values():
        entry.call()
    begin, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - begin < seconds:
        for name, entry in entries.items():
            for memory in (others, *entry.operands):
                memory.sum()
            entry.empty()  # the code of calling is in the caches then, for both
            idle[name] = min(idle[name], _seconds(entry.empty))
            least[name] = min(least[name], _seconds(entry.call))
        done += 1
    return {name: max(least[name] - idle[name], SHORTEST) for name in entries}


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
