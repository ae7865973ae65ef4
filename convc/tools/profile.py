"""``convc profile``: where the time of a model goes, step by step."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import convc
import ir
from convc.backend.target import Target, target_named
from convc.model import Model, Stages
from convc.program import Step
from convc.tools import arguments
from convc.tools.accuracy import random_inputs
from convc.tools.compile import with_gradients
from convc.tools.labels import images_note, often, op_label, pools
from convc.tools.options import add_options, how
from convc.tools.table import json_text, nbytes, seconds, table
from convc.tools.timing import measure, peak_rate
from convc.tools.traffic import moved_bytes
from ir.names import printable

DESCRIPTION = """\
Run MODEL on random inputs and print what each step of it takes on one thread: the median over the
runs, its share of all steps, the bytes that it reads and writes, each counted once (from the
caches where they are there), and for what an op computes (not conversions between layouts, and the
like) its rate. A rate counts the flops of the direct sum, whatever the algorithm: it may pass the
peak of multiply-adds, which is measured too. Steps of one node share its flops and have one rate.
'8 x' marks steps, i0, i1, ..., that run for one image of a batch after the other; what is printed
is of all images. --threads is for calls of the whole model, which are measured beside."""
EXAMPLE = """\
  convc profile zoo:resnet50
  convc profile lenet.ir --sizes N=8 --gradients --trace lenet.json"""
HEADER = ("step", "node", "op", "algorithm", "time", "share", "GFLOP/s", "of peak", "bytes",
          "GB/s")  # fmt: skip
Span = tuple[float, float]
"""When a step starts, counted from the start of its run, and what it takes, in seconds."""
Timeline = list[tuple[int, Span]]
"""A run: the numbers of the steps in the order they ran in, and when they did."""


@dataclass(frozen=True)
class Profiled:
    """One step; ``seconds`` is the median over the runs, ``rate`` in flops a second.

    Both, and ``bytes``, are of all its ``times`` in a run: once, or once for each image. ``step``
    is as ``Plan.numbered`` has it.
    """

    step: str
    node: str
    op: str
    algorithm: str
    kernel: str
    seconds: float
    share: float
    bytes: int
    rate: float | None
    share_of_peak: float | None
    times: int = 1

    @property
    def flops(self) -> int | None:
        """Its part of the flops of its node, which the node's steps share by their times."""
        return None if self.rate is None else round(self.rate * self.seconds)

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        return (
            self.step,
            self.node,
            often(self.op, self.times),
            self.algorithm,
            seconds(self.seconds),
            f"{self.share:.1%}",
            "-" if self.rate is None else f"{self.rate / 1e9:.1f}",
            "-" if self.share_of_peak is None else f"{self.share_of_peak:.0%}",
            nbytes(self.bytes),
            f"{self.bytes / self.seconds / 1e9:.1f}" if self.seconds else "-",
        )


@dataclass(frozen=True)
class Profile:
    """All steps of a model; times in seconds, ``peak`` in flops a second.

    Steps are of one thread, ``whole`` is a call on ``threads``; ``peak`` and ``whole_peak`` are
    their limits.
    """

    model: str
    inputs: dict[str, str]
    target: str
    threads: int
    runs: int
    flops: int
    peak: float
    whole: float
    whole_peak: float
    steps: list[Profiled]

    @property
    def total(self) -> float:
        return sum(step.seconds for step in self.steps)

    def text(self) -> str:
        """A table, and sums."""
        rate = self.flops / self.whole
        shown = ", ".join(f"{name}: {type}" for name, type in self.inputs.items())
        return "\n".join([
            table(HEADER, [step.cells() for step in self.steps]),
            "",
            printable(f"{self.model} on {shown}; {self.target}, "
                      f"steps on one thread, {self.runs} runs"),
            *images_note((step.times for step in self.steps), "times and bytes are of all of them"),
            f"all steps {seconds(self.total)}; a call, threads: {self.threads}, "
            f"{seconds(self.whole)}, {self.flops / 1e9:.3g} Gflop, {rate / 1e9:.1f} GFLOP/s, "
            f"{rate / self.whole_peak:.0%} of the FMA peak, {self.whole_peak / 1e9:.1f} GFLOP/s",
        ])  # fmt: skip


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "profile", "measure every step of a model", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser)
    arguments.add_sizes(parser, 1)
    arguments.add_gradients(parser)
    parser.add_argument("--runs", metavar="N", type=arguments.positive, default=20,
                        help="how often the model is run (default: 20)")  # fmt: skip
    parser.add_argument("--trace", metavar="FILE", type=Path,
                        help="write the run of median length as a trace that Chrome "
                        "(chrome://tracing) and Perfetto show")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=arguments.positive, default=1,
                        help="of calls of the whole model (default: 1)")  # fmt: skip
    arguments.add_json(parser)
    add_options(parser, threads=False)
    parser.set_defaults(run=run, native=True)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    graph = convc.load(args.model)
    if args.gradients:
        graph = with_gradients(graph)
    graph = arguments.bound(graph, args.sizes, 1)
    target = target_named(args.target)
    model = convc.compile(graph, args.threads, **how(args))
    profile, timeline = profiled(model, target, args.runs)
    if args.trace is not None:
        args.trace.write_text(json.dumps(trace(profile, timeline), indent=1), encoding="utf-8")
    plain = {**asdict(profile), "total": profile.total}
    print(json_text(plain) if args.json else profile.text())
    return 0


def profiled(model: Model, target: Target, runs: int) -> tuple[Profile, Timeline]:
    """What the steps of a static model take, and the run whose length is the median."""
    inputs = random_inputs(model.graph)
    arrays = tuple(inputs.values())
    executed, timelines = _timed(model, arrays, runs)
    steps = list({id(step): step for step in executed}.values())
    rows = {id(step): row for row, step in enumerate(steps)}
    order = [rows[id(step)] for step in executed]
    threads = model.options.threads
    peak, whole_peak = peak_rate(target, 1), peak_rate(target, threads)
    whole = measure({"whole": lambda: model(*arrays)}, runs)["whole"].median
    sums = [[0.0] * len(steps) for _ in timelines]
    for own, run in zip(sums, timelines, strict=True):
        for row, (_, length) in zip(order, run, strict=True):
            own[row] += length
    medians = [statistics.median(lengths) for lengths in zip(*sums, strict=True)]
    shown = {name: str(type) for name, type in model.graph.inputs.items()}
    labels = {id(step): label for label, step in model.executable().plan.numbered()}
    counted = [(labels[id(step)], order.count(row), step) for row, step in enumerate(steps)]
    profile = Profile(
        model.graph.name, shown, target.name, threads, runs, model.graph.cost().flops, peak,
        whole, whole_peak, _described(model.stages(), counted, medians, peak),
    )  # fmt: skip
    ordered = sorted(timelines, key=lambda run: sum(length for _, length in run))
    middle = ordered[len(ordered) // 2]
    return profile, list(zip(order, middle, strict=True))


def _timed(
    model: Model, arrays: Sequence[arguments.Array], runs: int
) -> tuple[list[Step], list[list[Span]]]:
    """The steps in order, and for each run when they start and what they take."""
    executable = model.executable()
    results = executable.allocate()
    addresses = [[a.ctypes.data for a in group] for group in (arrays, results)]
    steps = list(executable.step_calls(*addresses))
    calls = [call for _, call in steps]
    empty = [replace(cast(Any, call), tasks=0) for call in calls]
    _spans(calls)  # what is run for the first time is slower
    overhead = min((took for _ in range(20) for _, took in _spans(empty)), default=0.0)
    timelines = [_spans(calls) for _ in range(runs)]
    exact = [[(start, max(took - overhead, 0.0)) for start, took in run] for run in timelines]
    return [step for step, _ in steps], exact


def _spans(calls: Sequence[Callable[[], None]]) -> list[Span]:
    marks = [time.perf_counter()]
    for call in calls:
        call()
        marks.append(time.perf_counter())
    return [(start - marks[0], stop - start) for start, stop in pairwise(marks)]


def _described(
    made: Stages, steps: Sequence[tuple[str, int, Step]], medians: Sequence[float], peak: float
) -> list[Profiled]:
    """A row for each step, given how it is called and how often it ran."""
    nodes = {node.name: node for node in made.optimised.nodes}
    labels = {name: op_label(node.op) for name, node in nodes.items()}
    for name, pool in pools(made.optimised, made.plan).items():
        labels[name] += f"+{op_label(pool.op)}"
    total, spent = sum(medians), dict[str, float]()
    for (_, _, step), took in zip(steps, medians, strict=True):
        if _computes(made, step):
            spent[step.node] = spent.get(step.node, 0.0) + took
    rows = []
    for (number, times, step), took in zip(steps, medians, strict=True):
        rate = _rate(made, nodes[step.node], spent) if _computes(made, step) else None
        label = labels.get(step.node, "")
        rows.append(Profiled(
            number, step.node, label, step.algorithm, step.kernel.name, took,
            took / total if total else 0.0, moved_bytes(step) * times, rate,
            rate / (peak * _lanes(made, step)) if rate else None, times,
        ))  # fmt: skip
    return rows


def _computes(made: Stages, step: Step) -> bool:
    """Whether a step is part of a node's algorithm, and no conversion or copy."""
    return step.node in made.algorithms and step.algorithm == made.algorithms[step.node].name


def _rate(made: Stages, node: ir.Node, spent: Mapping[str, float]) -> float | None:
    """The flops of a node by the time that all its steps take."""
    flops = node.op.cost(*(made.optimised.types[name] for name in node.inputs)).flops
    return flops / spent[node.name] if flops and spent[node.name] else None


def _lanes(made: Stages, step: Step) -> float:
    """The elements of a step's type in a vector, over those of float32, which the peak is of."""
    dtype = made.optimised.types[step.node].dtype
    name = dtype.value if dtype.is_float else "f32"
    return made.target.lanes(name) / made.target.lanes("f32")


def trace(profile: Profile, timeline: Timeline) -> dict[str, object]:
    """One run in the trace event format of Chrome; microseconds."""
    place = {"pid": 1, "tid": 1}
    events = [
        {
            "name": f"{step.node} {step.algorithm}".strip(),
            "cat": step.algorithm,
            "ph": "X",
            **place,
            "ts": start * 1e6,
            "dur": length * 1e6,
            "args": _counted(step, length),
        }
        for number, (start, length) in timeline
        for step in [profile.steps[number]]
    ]
    names = {"process_name": profile.model, "thread_name": f"steps, {profile.target}"}
    named = [{"name": k, "ph": "M", **place, "args": {"name": v}} for k, v in names.items()]
    return {"traceEvents": [*named, *events], "displayTimeUnit": "ns"}


def _counted(step: Profiled, length: float) -> dict[str, object]:
    """What a trace says of a step: what it computes, how much, and how fast in this run."""
    flops = None if step.flops is None else step.flops // step.times
    counts = {"flops": flops, "bytes": step.bytes // step.times}
    rates = {f"G{unit}/s": count / length / 1e9
             for unit, count in (("FLOP", flops), ("B", counts["bytes"]))
             if count is not None and length}  # fmt: skip
    known = {name: count for name, count in counts.items() if count is not None}
    return {"step": step.step, "op": step.op, "kernel": step.kernel, **known, **rates}
