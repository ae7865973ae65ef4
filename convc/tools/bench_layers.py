"""Single layers beside the peers: compile, compare, measure, report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import ir
from convc.backend.target import Target
from convc.model import Model, compile
from convc.tools import layers, peers
from convc.tools.bench_cases import difference
from convc.tools.layers import Direction, Layer
from convc.tools.progress import Progress
from convc.tools.table import table
from convc.tools.timing import Call, Timing, measure, pause_for, peak_of, stream_call

Array: TypeAlias = npt.NDArray[Any]
OURS, PEAK = "convc", "FMA peak"
TOLERANCE = 1e-3  # of the largest magnitude; Winograd and FFT stay far below
INTERPRETED = 1e9  # flops up to which the float64 interpreter is the reference
UNREST = 1.15  # above it a result is not to be trusted
BLOCK = 0.03  # seconds of calls per contender and round
HEADER = ("layer", "dir", "algorithm", "ms", "min ms", "GFLOP/s", "of peak",
          "best peer", "its ms", "ratio", "of min")  # fmt: skip


@dataclass(frozen=True)
class How:
    """What is the same for all layers of a run."""

    target: Target
    threads: int = 1
    rounds: int = 10
    vs: tuple[str, ...] = ()
    batch: int | None = None
    algorithm: str | None = None


@dataclass(frozen=True)
class Result:
    """One layer in one direction; ``times`` and ``errors`` by contender.

    A contender that is wrong, or cannot be compiled, has an error and no time.
    """

    layer: str
    direction: Direction
    batch: int
    flops: int
    nbytes: int
    algorithm: str = ""
    compile_seconds: float = 0.0
    kernel_seconds: Mapping[str, float] = field(default_factory=dict)
    """What compiling each kernel took, in processor time."""
    times: Mapping[str, Timing] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    peak: float | None = None
    """Flops a second of multiply-adds alone, the most that the same rounds saw."""
    unrest: float = 1.0
    """Their median time over the least: far above 1, something else used the processor."""

    @property
    def rate(self) -> float | None:
        """Effective flops a second of convc."""
        return self.flops / self.times[OURS].median if OURS in self.times else None

    @property
    def share(self) -> float | None:
        return self.rate / self.peak if self.rate and self.peak else None

    @property
    def best(self) -> str | None:
        """The peer with the least median."""
        rivals = [name for name in self.times if name != OURS]
        return min(rivals, key=lambda name: self.times[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """The best peer's median over convc's: above 1, convc is faster."""
        if self.best is None or OURS not in self.times:
            return None
        return self.times[self.best].median / self.times[OURS].median

    @property
    def least_ratio(self) -> float | None:
        """The same of the minima."""
        rivals = [timing.least for name, timing in self.times.items() if name != OURS]
        return min(rivals) / self.times[OURS].least if rivals and OURS in self.times else None

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

    def plain(self) -> dict[str, object]:
        """For JSON: seconds and flops a second."""
        derived = {"rate": self.rate, "share_of_peak": self.share, "best_peer": self.best,
                   "ratio": self.ratio, "ratio_of_least": self.least_ratio}  # fmt: skip
        return {**asdict(self), **derived}


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
        for what, ratios in self._ratios().items():
            if ratios:
                mean, ahead = statistics.geometric_mean(ratios), sum(r > 1 for r in ratios)
                lines.append(f"best peer / convc, {what}: geometric mean {mean:.3f}, "
                             f"convc ahead in {ahead} of {len(ratios)}")  # fmt: skip
        lines += self._compile_times()
        disturbed = [f"{r.layer} {r.direction}" for r in self.results if r.unrest > UNREST]
        if disturbed:
            lines.append(f"the machine was busy, measure again: {', '.join(disturbed)}")
        return "\n".join([*lines, *_complaints(self.results)])

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
        how = {**asdict(self.how), "target": self.how.target.name}
        means = {
            what: statistics.geometric_mean(ratios) if ratios else None
            for what, ratios in self._ratios().items()
        }
        return {**how, "peak": self.peak, "stream": self.stream, "geometric_mean": means,
                "results": [result.plain() for result in self.results]}  # fmt: skip

    def _ratios(self) -> dict[str, list[float]]:
        return {
            "medians": [r.ratio for r in self.results if r.ratio],
            "minima": [r.least_ratio for r in self.results if r.least_ratio],
        }


def _complaints(results: Sequence[Result]) -> list[str]:
    return [
        f"{result.layer} {result.direction}: {name}: {' '.join(error.split())}"
        for result in results
        for name, error in result.errors.items()
    ]


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
            progress.done("  ".join([*result.cells(), *_complaints([result])]))
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
    result = Result(layer.name, direction, layer.batch, cost.flops, cost.bytes)
    try:
        model, result = _compiled(graph, how, result)
    except ir.Error as error:
        return replace(result, errors={OURS: str(error)})
    inputs = _inputs(graph)
    arrays = tuple(inputs.values())
    calls: dict[str, Call] = {OURS: lambda: model(*arrays)}
    for peer in how.vs:
        call = peers.contender(peer, graph, inputs, how.threads)
        if call is not None:
            calls[peer] = call
    errors = _errors(graph, inputs, calls)
    calls = {name: call for name, call in calls.items() if name not in errors}
    times = measure({**calls, PEAK: peak[0]}, how.rounds, BLOCK, pause_for(how.threads))
    limit = times.pop(PEAK)
    return replace(result, times=times, errors=errors, peak=peak[1] / limit.least,
                   unrest=limit.median / limit.least)  # fmt: skip


def _compiled(graph: ir.Graph, how: How, result: Result) -> tuple[Model, Result]:
    forced = {"y": how.algorithm} if how.algorithm else None
    start = time.perf_counter()
    model = compile(graph, how.threads, algorithms=forced, target=how.target.name)
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
    found = {name: difference(result, reference) for name, result in results.items()}
    return {
        name: f"differs from {who} by {error:.1e} of the largest"
        for name, error in found.items()
        if not error < TOLERANCE
    }
