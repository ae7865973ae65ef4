"""convc beside the peers: who computes the same numbers, in what time, and how the ratio is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

import ir
from convc.backend.target import Target
from convc.passes import PIPELINE, Pass, name_of
from convc.tools import peers
from convc.tools.timing import Call, Timing, measure, pause_for

Array: TypeAlias = npt.NDArray[Any]
OURS, PEAK = "convc", "FMA peak"
TOLERANCE = 1e-3  # of the largest magnitude; Winograd and FFT stay far below
UNREST = 1.15  # above it a result is not to be trusted


@dataclass(frozen=True)
class How:
    """What is the same for all that a run measures."""

    target: Target
    threads: int = 1
    rounds: int = 10
    vs: tuple[str, ...] = ()
    batch: int | None = None
    algorithm: str | None = None
    passes: tuple[Pass, ...] = PIPELINE

    def plain(self) -> dict[str, object]:
        """For JSON."""
        named = {"target": self.target.name, "passes": [name_of(each) for each in self.passes]}
        return {**asdict(self), **named}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One thing that several contenders compute; ``times`` and ``errors`` by contender.

    A contender that is wrong, or cannot be compiled, has an error and no time.
    """

    flops: int
    times: Mapping[str, Timing] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    peak: float | None = None
    """Flops a second of multiply-adds alone, the most that the same rounds saw."""
    unrest: float = 1.0
    """Their median time over the least: far above 1, something else used the processor."""

    @property
    def title(self) -> str:
        """What it is called where something is to be said about it."""
        raise NotImplementedError

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
        return None if self.best is None else self.over(self.best)

    @property
    def least_ratio(self) -> float | None:
        """The same of the minima."""
        rivals = [timing.least for name, timing in self.times.items() if name != OURS]
        return min(rivals) / self.times[OURS].least if rivals and OURS in self.times else None

    def over(self, contender: str) -> float | None:
        """A contender's median over convc's."""
        if OURS not in self.times:
            return None
        return self.times[contender].median / self.times[OURS].median

    def plain(self) -> dict[str, object]:
        """For JSON: seconds and flops a second."""
        derived = {"rate": self.rate, "share_of_peak": self.share, "best_peer": self.best,
                   "ratio": self.ratio, "ratio_of_least": self.least_ratio}  # fmt: skip
        return {**asdict(self), **derived}


Compared = TypeVar("Compared", bound=Comparison)


def difference(result: object, reference: object) -> float:
    """The largest difference, relative to the largest magnitude of the reference."""
    got, want = np.asarray(result), np.asarray(reference)
    largest = float(np.abs(want).max(initial=0.0))
    return float(np.abs(got - want).max(initial=0.0)) / (largest or 1.0)


def calls_of(
    ours: Call, graph: ir.Graph, inputs: Mapping[str, Array], how: How
) -> tuple[dict[str, Call], dict[str, float]]:
    """convc's call and those of the peers that can do it; what making these took, in seconds."""
    calls, seconds = {OURS: ours}, dict[str, float]()
    for peer in how.vs:
        start = time.perf_counter()
        call = peers.contender(peer, graph, inputs, how.threads)
        if call is not None:
            calls[peer], seconds[peer] = call, time.perf_counter() - start
    return calls, seconds


def wrong(results: Mapping[str, object], who: str, reference: object) -> dict[str, str]:
    """By contender: how far its result is from the reference of ``who``, where that is too far."""
    found = {name: difference(result, reference) for name, result in results.items()}
    return {
        name: f"differs from {who} by {error:.1e} of the largest"
        for name, error in found.items()
        if not error < TOLERANCE
    }


def timed(
    result: Compared, calls: Mapping[str, Call], errors: Mapping[str, str], how: How, block: float,
    peak: tuple[Call, float],
) -> Compared:  # fmt: skip
    """The result with times of those without errors; ``peak`` is a call and the flops it does."""
    right = {name: call for name, call in calls.items() if name not in errors}
    times = measure({**right, PEAK: peak[0]}, how.rounds, block, pause_for(how.threads))
    limit = times.pop(PEAK)
    return replace(result, times=times, errors=errors, peak=peak[1] / limit.least,
                   unrest=limit.median / limit.least)  # fmt: skip


# ---------------------------------------------------------------- what several sum up to


def means(results: Sequence[Comparison]) -> dict[str, float | None]:
    """The geometric means of the ratios, of medians and of minima."""
    return {what: statistics.geometric_mean(r) if r else None for what, r in _ratios(results)}


def ratio_lines(results: Sequence[Comparison]) -> list[str]:
    """The same as text."""
    return [
        f"best peer / convc, {what}: geometric mean {statistics.geometric_mean(ratios):.3f}, "
        f"convc ahead in {sum(r > 1 for r in ratios)} of {len(ratios)}"
        for what, ratios in _ratios(results)
        if ratios
    ]


def disturbed(results: Sequence[Comparison]) -> list[str]:
    """A line that names the results that something else on the machine has spoilt, if any."""
    names = [result.title for result in results if result.unrest > UNREST]
    return [f"the machine was busy, measure again: {', '.join(names)}"] if names else []


def complaints(results: Sequence[Comparison]) -> list[str]:
    """A line per error."""
    return [
        f"{result.title}: {name}: {' '.join(error.split())}"
        for result in results
        for name, error in result.errors.items()
    ]


def _ratios(results: Sequence[Comparison]) -> list[tuple[str, list[float]]]:
    return [
        ("medians", [r.ratio for r in results if r.ratio]),
        ("minima", [r.least_ratio for r in results if r.least_ratio]),
    ]
