"""Whole networks beside the peers, on the same weights: compile, compare, measure, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import convc
import ir
from convc import zoo
from convc.errors import InputError
from convc.tools.accuracy import random_inputs
from convc.tools.arguments import batches, bound
from convc.tools.comparison import (
    OURS,
    Comparison,
    How,
    calls_of,
    complaints,
    disturbed,
    means,
    ratio_lines,
    timed,
    wrong,
)
from convc.tools.progress import Progress
from convc.tools.table import table
from convc.tools.timing import Call, peak_of

BLOCK = 0.2  # seconds of calls per contender and round
HEADER = ("network", "contender", "ms", "min ms", "GFLOP/s", "of peak", "ratio", "loading, s")


@dataclass(frozen=True, kw_only=True)
class NetworkResult(Comparison):
    """One network; GFLOP/s count the flops of the graph, whatever the algorithms."""

    network: str
    inputs: Mapping[str, str]
    load_seconds: Mapping[str, float] = field(default_factory=dict)
    """By contender, from the graph to what can be called."""

    @property
    def title(self) -> str:
        return self.network

    def rows(self) -> list[tuple[str, ...]]:
        """A row as text for each contender, in the order of ``HEADER``."""
        return [self._row(name) for name in self.load_seconds]

    def _row(self, name: str) -> tuple[str, ...]:
        load = f"{self.load_seconds[name]:.2f}"
        if name not in self.times:
            return self.network, name, "wrong", *["-"] * 4, load
        timing = self.times[name]
        rate, ratio = self.flops / timing.median, self.over(name)
        return (
            self.network,
            name,
            f"{timing.median * 1e3:.3f}",
            f"{timing.least * 1e3:.3f}",
            f"{rate / 1e9:.1f}",
            f"{rate / self.peak:.0%}" if self.peak else "-",
            f"{ratio:.2f}" if ratio else "-",
            load,
        )


@dataclass(frozen=True)
class NetworkReport:
    """All results of a run."""

    how: How
    results: Sequence[NetworkResult]

    @property
    def failed(self) -> bool:
        """Whether convc has no correct result for a network."""
        return any(OURS in result.errors for result in self.results)

    def text(self) -> str:
        """A table, what it sums up to, and what went wrong."""
        rows = [row for result in self.results for row in result.rows()]
        peak = median(result.peak or 0.0 for result in self.results)
        return "\n".join([
            table(HEADER, rows),
            "",
            f"{self.how.target.name}, threads: {self.how.threads}, FMA peak "
            f"{peak / 1e9:.1f} GFLOP/s; ratio: time over convc's",
            *ratio_lines(self.results),
            *disturbed(self.results),
            *complaints(self.results),
        ])  # fmt: skip

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {**self.how.plain(), "geometric_mean": means(self.results),
                "results": [result.plain() for result in self.results]}  # fmt: skip


def measured(names: Sequence[str], sizes: Sequence[Mapping[str, int]], how: How) -> NetworkReport:
    """Measure networks of the zoo, or in files, showing each as soon as it is done.

    Raises ``InputError`` for a name of neither, and ``ir.Error`` for a file that is no model.
    """
    free = {name: _graph(name) for name in names}
    given = {name: size for each in sizes for name, size in each.items()}
    for name in given.keys() - {symbol for graph in free.values() for symbol in graph.symbols}:
        raise InputError(f"--sizes: no network has the symbolic extent {name!r}")
    graphs = {name: _bound(name, graph, given, how.batch) for name, graph in free.items()}
    progress, results = Progress(), []
    peak = peak_of(how.target, how.threads)
    for name, graph in graphs.items():
        if progress.terminal:
            progress.update(name)
        result = _measure(name, graph, how, peak)
        results.append(result)
        progress.done("\n".join([*map("  ".join, result.rows()), *complaints([result])]))
    return NetworkReport(how, results)


def _graph(name: str) -> ir.Graph:
    graph = zoo.build(name, "N") if name in zoo.NAMES else convc.load(name)
    if len(graph.outputs) != 1:
        raise InputError(f"{name}: bench compares one output, it has {', '.join(graph.outputs)}")
    return graph


def _bound(name: str, graph: ir.Graph, given: Mapping[str, int], batch: int | None) -> ir.Graph:
    """Symbolic extents as given; ``batch`` sets that of batches, which there must be."""
    if batch is not None:
        symbols = batches(graph)
        if not symbols:
            raise InputError(f"--batch: the batch size of {name} is fixed; leave it out")
        for symbol in symbols & given.keys():
            raise InputError(f"--batch and --sizes both say what {symbol} is; give one of them")
    own = {symbol: size for symbol, size in given.items() if symbol in graph.symbols}
    return bound(graph, [own], batch or 1)


def _measure(name: str, graph: ir.Graph, how: How, peak: tuple[Call, float]) -> NetworkResult:
    shown = {each: str(type) for each, type in graph.inputs.items()}
    result = NetworkResult(network=name, inputs=shown, flops=graph.cost().flops)
    start = time.perf_counter()
    try:
        model = convc.compile(graph, how.threads, target=how.target.name, passes=how.passes)
    except ir.Error as error:
        return replace(result, errors={OURS: str(error)})
    load = {OURS: time.perf_counter() - start}
    inputs = random_inputs(graph)
    arrays = tuple(inputs.values())
    calls, seconds = calls_of(lambda: model(*arrays), graph, inputs, how)
    (reference,) = ir.interpret(graph, inputs, "float64").values()
    errors = wrong({each: call() for each, call in calls.items()}, "float64", reference)
    return timed(replace(result, load_seconds={**load, **seconds}), calls, errors, how, BLOCK, peak)
