"""Single layers beside the peers: compile, compare, measure, report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import ir
from convc.model import Model, compile
from convc.tools import layers
from convc.tools.comparison import (
    OURS,
    Array,
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
from convc.tools.layers import Direction, Layer
from convc.tools.progress import Progress
from convc.tools.table import table
from convc.tools.timing import Call, measure, pause_for, peak_of, stream_call

INTERPRETED = 1e9  # flops up to which the float64 interpreter is the reference
BLOCK = 0.03  # seconds of calls per contender and round
HEADER = ("layer", "dir", "algorithm", "ms", "min ms", "GFLOP/s", "of peak",
          "best peer", "its ms", "ratio", "of min")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result(Comparison):
    """One layer in one direction."""

    layer: str
    direction: Direction
    batch: int
    nbytes: int
    algorithm: str = ""
    compile_seconds: float = 0.0
    kernel_seconds: Mapping[str, float] = field(default_factory=dict)
    """What compiling each kernel took, in processor time."""

    @property
    def title(self) -> str:
        return f"{self.layer} {self.direction}"

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        ours = self.times.get(OURS)
        best = self.times[self.best] if self.best else None
        return (
            self.layer,
            self.direction,
            self.algorithm or "-",
            f"{ours.median * 1e3:.3f}" if ours else "-",
            f"{ours.least * 1e3:.3f}" if ours else "-",
            f"{self.rate / 1e9:.1f}" if self.rate else "-",
            f"{self.share:.0%}" if self.share else "-",
            self.best or "-",
            f"{best.median * 1e3:.3f}" if best else "-",
            f"{self.ratio:.2f}" if self.ratio else "-",
            f"{self.least_ratio:.2f}" if self.least_ratio else "-",
        )


@dataclass(frozen=True)
class Report:
    """All results of a run, and the limits of the machine: flops and bytes a second."""

    how: How
    results: Sequence[Result]
    peak: float
    stream: float

    @property
    def failed(self) -> bool:
        """Whether convc has no correct result for a layer."""
        return any(OURS in result.errors for result in self.results)

    def text(self) -> str:
        """A table, what it sums up to, and what went wrong."""
        lines = [
            table(HEADER, [result.cells() for result in self.results]),
            "",
            f"{self.how.target.name}, threads: {self.how.threads}, FMA peak "
            f"{self.peak / 1e9:.1f} GFLOP/s, memory {self.stream / 1e9:.1f} GB/s",
        ]
        lines += ratio_lines(self.results)
        lines += self._compile_times()
        return "\n".join([*lines, *disturbed(self.results), *complaints(self.results)])

    def _compile_times(self) -> list[str]:
        kernels = [
            (seconds, f"{name} of {r.layer} {r.direction}")
            for r in self.results
            for name, seconds in r.kernel_seconds.items()
            if seconds
        ]
        if not kernels:
            return ["all code came from the cache"]
        middle = statistics.median(seconds for seconds, _ in kernels)
        most, which = max(kernels)
        return [f"compile time of a kernel: median {middle:.3f} s, most {most:.2f} s ({which})"]

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {**self.how.plain(), "peak": self.peak, "stream": self.stream,
                "geometric_mean": means(self.results),
                "results": [result.plain() for result in self.results]}  # fmt: skip


def measured(patterns: Sequence[str], directions: Sequence[Direction], how: How) -> Report:
    """Measure layers, showing each as soon as it is done. Raises ``InputError`` for a name."""
    chosen = [replace(x, batch=how.batch or x.batch) for x in layers.named(patterns)]
    progress, results = Progress(), []
    peak_call, peak_flops = peak_of(how.target, how.threads)
    for layer in chosen:
        for direction in directions:
            if progress.terminal:
                progress.update(f"{layer.name} {direction}")
            result = _measure(layer, direction, how, (peak_call, peak_flops))
            results.append(result)
            progress.done("  ".join([*result.cells(), *complaints([result])]))
    stream_of, nbytes = stream_call(how.threads)
    limits = {"peak": peak_call, "stream": stream_of}
    times = measure(limits, how.rounds, BLOCK, pause_for(how.threads))
    peaks = [result.peak for result in results if result.peak]
    peak = statistics.median([*peaks, peak_flops / times["peak"].least])
    return Report(how, results, peak, nbytes / times["stream"].least)


def _measure(layer: Layer, direction: Direction, how: How, peak: tuple[Call, float]) -> Result:
    """Everything about one layer; ``peak`` is a call and the flops it does."""
    graph = layers.graph(layer, direction)
    cost = graph.cost()
    result = Result(layer=layer.name, direction=direction, batch=layer.batch,
                    flops=cost.flops, nbytes=cost.bytes)  # fmt: skip
    try:
        model, result = _compiled(graph, how, result)
    except ir.Error as error:
        return replace(result, errors={OURS: str(error)})
    inputs = _inputs(graph)
    arrays = tuple(inputs.values())
    calls, _ = calls_of(lambda: model(*arrays), graph, inputs, how)
    errors = _errors(graph, inputs, calls)
    return timed(result, calls, errors, how, BLOCK, peak)


def _compiled(graph: ir.Graph, how: How, result: Result) -> tuple[Model, Result]:
    forced = {"y": how.algorithm} if how.algorithm else None
    start = time.perf_counter()
    model = compile(
        graph, how.threads, algorithms=forced, target=how.target.name, passes=how.passes
    )
    took = time.perf_counter() - start
    chosen = ", ".join(algorithm.name for algorithm in model.stages().algorithms.values())
    kernels = model.executable().compiled
    return model, replace(result, compile_seconds=took, kernel_seconds=kernels, algorithm=chosen)


def _inputs(graph: ir.Graph) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    types = graph.inputs.items()
    return {name: rng.standard_normal(type.static_shape, np.float32) for name, type in types}


def _errors(
    graph: ir.Graph, inputs: Mapping[str, Array], calls: Mapping[str, Call]
) -> dict[str, str]:
    """By contender: how far its output is from the reference, where that is too far.

    The reference is the interpreter in float64, or for large layers the first peer.
    """
    results = {name: call() for name, call in calls.items()}
    rivals = [name for name in results if name != OURS]
    if graph.cost().flops <= INTERPRETED or not rivals:
        who, reference = "float64", ir.interpret(graph, inputs, "float64")["y"]
    else:
        who, reference = rivals[0], np.asarray(results[rivals[0]])
    return wrong(results, who, reference)
