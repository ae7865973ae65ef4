"""Measuring which algorithm is fastest, for every op of a graph that leaves a choice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isfinite

import ir
from convc.algorithms import Site
from convc.answers import tolerance
from convc.errors import CapacityError
from convc.images import pieces
from convc.model import Options, renamed
from convc.passes import optimised
from convc.plugins import origin
from convc.select import Candidate, choices_in
from convc.tools.progress import Event
from convc.tuning import BUDGET
from convc.tuning.database import Database, database
from convc.tuning.records import REFUSED, Context, signature
from convc.tuning.referee import Referee
from convc.tuning.stopwatch import elsewhere, measure
from convc.tuning.trial import Entry, Trial

LOG = logging.getLogger("convc")
HOPELESS = 5.0  # times the best measured: who is predicted to take longer is not measured
CLOSE = 1.5  # times the best measured: who is within is measured again, in turn with the best
QUICK = 4, 0.02  # rounds, and seconds if that is longer, of a first measurement
CAREFUL = 12, 0.1  # and of a second one
Clock = Callable[[], float]
Share = Callable[[Candidate], float]  # of all that is done, before one is measured


@dataclass(frozen=True)
class Job:
    """An op that leaves a choice: its first node, and who to measure, in that order.

    ``threads``: one, where it so runs for one image while others have others.

    The one that predictions choose comes first, so that what is measured in part never moves a
    choice away from it; then by prediction.
    """

    key: str
    graph: ir.Graph
    node: ir.Node
    site: Site
    rivals: tuple[Candidate, ...]
    threads: int

    @property
    def signature(self) -> str:
        """What times are kept under."""
        return signature(self.graph, self.node)

    def missing(self, known: Mapping[str, float]) -> Iterator[Candidate]:
        """Who is to be measured, as long as nobody measured, now or before, is far faster."""
        for rival in self.rivals:
            hopeless = rival.seconds > HOPELESS * min(known.values(), default=inf)
            if rival.algorithm.name not in known and not hopeless:
                yield rival


@dataclass
class Outcome:
    """What tuning did.

    ``wrong`` are pairs of a node and an algorithm that computes wrong numbers, ``broken`` those
    of one that fails, with its error; ``left`` nodes that the budget did not reach, or not with all
    candidates.
    """

    measured: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def tune(
    graph: ir.Graph, options: Options, budget_seconds: float = BUDGET,
    progress: Event | None = None, *, again: bool = False, only: Container[str] | None = None,
    store: Database | None = None, clock: Clock = time.monotonic,
) -> Outcome:  # fmt: skip
    """Measure the algorithms of every op of a static graph that leaves a choice.

    What the database ``store`` knows already is not measured, unless ``again`` is set. ``only``
    names nodes to measure, also those that leave none. Each time is kept as soon as it is taken, so
    an interrupt loses none. Past the budget nothing new is begun.
    """
    store = store or database()
    improved = optimised(graph, options.passes)
    deadline = clock() + budget_seconds
    tuner = _Tuner(options, store, progress, lambda: clock() >= deadline)
    known = {} if again else store.times(Context.of(options.target, options.threads))
    todo = jobs(improved, options, renamed(dict(options.algorithms), graph, improved), only)
    for number, job in enumerate(todo):
        times = dict(known.get(job.key, {}))
        done = partial(_share, job, number, len(todo))
        if any(job.missing(times)) and not tuner.finish(job, times, done):
            tuner.outcome.left.append(job.node.name)
        elif again:  # what was known of others is older
            store.replace(tuner.context(job), job.signature, times)
    return tuner.outcome


def _share(job: Job, number: int, count: int, rival: Candidate) -> float:
    """What is done before a rival of a job is measured, the job being one of so many."""
    return (number + job.rivals.index(rival) / len(job.rivals)) / count


def jobs(
    graph: ir.Graph, options: Options, forced: Mapping[str, str],
    only: Container[str] | None = None,
) -> list[Job]:  # fmt: skip
    """One for each distinct op of an optimised graph, the longest first."""
    found: dict[str, Job] = {}
    cut = pieces(graph, options.by_image, options.threads)
    for choice in choices_in(cut, options.target, options.accuracy, forced):
        name = choice.signature
        rivals = [c for c in choice.applicable if isfinite(c.seconds)]
        wanted = len(rivals) > 1 if only is None else choice.node.name in only
        if wanted and rivals and not choice.forced and name not in found:
            first = choice.chosen.algorithm.name
            rivals.sort(key=lambda c: (c.algorithm.name != first, c.seconds))
            threads = 1 if choice.piece.alone else options.threads
            node, site = choice.node, choice.site
            found[name] = Job(name, choice.graph, node, site, tuple(rivals), threads)
    return sorted(found.values(), key=lambda job: -job.rivals[0].seconds)


class _Tuner:
    """Measures one job after the other."""

    def __init__(
        self, options: Options, store: Database, progress: Event | None, late: Callable[[], bool]
    ) -> None:
        self.options, self.store = options, store
        self.progress, self.late = progress, late
        self.outcome = Outcome()

    def context(self, job: Job) -> Context:
        """What the times of a job are kept under."""
        return Context.of(self.options.target, job.threads)

    def finish(self, job: Job, known: dict[str, float], done: Share) -> bool:
        """Measure who is missing in ``known``; False where time did not suffice."""
        if self.late():
            return False
        options = replace(self.options, threads=job.threads)
        contest = _Contest(job, Trial(job.graph, job.node, options), self.outcome)
        others = elsewhere(job.graph, job.node)
        entries: dict[str, Entry] = {}
        for rival in job.missing(known):
            if self.late():
                return False
            name = rival.algorithm.name
            if self.progress is not None:
                self.progress(f"{job.node.name}: {name}", done(rival))
            entry = contest.entry(rival)
            found = {wrong: REFUSED for wrong in contest.wrong if known.get(wrong) != REFUSED}
            if entry is not None:
                entries[name] = entry
                found |= measure({name: entry}, others, *QUICK)
                self.outcome.measured += 1
            self._keep(job, known, found)
        limit = CLOSE * min(known.values(), default=inf)
        close = {n: entry for n, entry in entries.items() if known[n] <= limit < inf}
        if len(close) > 1 and not self.late():  # once more, in turn
            self._keep(job, known, measure(close, others, *CAREFUL))
        return True

    def _keep(self, job: Job, known: dict[str, float], found: Mapping[str, float]) -> None:
        known.update(found)
        self.store.record(self.context(job), job.signature, found)
        for rival in job.rivals:
            name = rival.algorithm.name
            if found.get(name) == REFUSED:
                self.outcome.wrong.append((job.node.name, name))
                LOG.warning("%s: %s computes wrong numbers and will not be chosen; it is %s",
                            job.node.name, name, origin(rival.algorithm))  # fmt: skip


class _Contest:
    """The contenders of one job, compiled and compared before any is timed."""

    def __init__(self, job: Job, trial: Trial, outcome: Outcome) -> None:
        self.job, self.trial, self.outcome = job, trial, outcome
        self.referee = Referee(trial.graph, job.site, trial.inputs)
        self.wrong: set[str] = set()
        self._entries: dict[str, Entry | None] = {}

    def entry(self, rival: Candidate) -> Entry | None:
        """What to time; None where the contender fails or is wrong.

        The first one is compared with another one before, for there may be no third.
        """
        self._enter(rival)
        for other in self.job.rivals:
            if sum(entry is not None for entry in self._entries.values()) > 1:
                break
            self._enter(other)
        name = rival.algorithm.name
        return None if name in self.wrong else self._entries[name]

    def _enter(self, rival: Candidate) -> None:
        name = rival.algorithm.name
        if name in self._entries:
            return
        self._entries[name] = None
        try:
            entry = self.trial.entry(name)
            tolerance(rival.algorithm, self.job.site)  # which the referee goes by
        except Exception as error:  # whatever is wrong with it, others may be right
            why = f"{type(error).__name__}: {error}"
            LOG.warning("%s: %s cannot be measured: %s", self.job.node.name, name, why)
            if not isinstance(error, CapacityError | MemoryError):
                self.outcome.broken.append((self.job.node.name, name, why))
                LOG.warning("%s is %s", name, origin(rival.algorithm))
            return
        self._entries[name] = entry
        self.wrong |= self.referee.wrong(rival.algorithm, entry.results)
