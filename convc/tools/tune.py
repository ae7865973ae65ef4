"""``convc tune``: measure the algorithms of a model's ops, and remember which are fastest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import convc
import ir
from convc.backend.target import available
from convc.errors import InputError, TargetError
from convc.images import pieces
from convc.model import Options, renamed
from convc.passes import optimised
from convc.select import Choice, choices
from convc.tools import arguments
from convc.tools.compile import with_gradients
from convc.tools.labels import images_note, often, op_label
from convc.tools.options import add_options, options_of
from convc.tools.progress import Progress
from convc.tools.table import json_text, seconds, table
from convc.tuning import BUDGET
from convc.tuning.database import Database, database, measured
from convc.tuning.records import Context, read_lines, signature, to_lines
from convc.tuning.tuner import Outcome, tune
from ir.names import printable

DESCRIPTION = """\
Measure how long each algorithm takes for each op of MODEL that leaves a choice: alone, on random
inputs, without the call itself, with as much else read between two runs as the rest of MODEL works
on. The times are kept in this machine's database (convc doctor says where it is).
From then on every compilation goes by them, for the same op, types, target, number of threads,
version of convc and source of the algorithm. What is known is not measured again, but for --again;
an interrupt loses nothing.

The results of the algorithms are compared first; one that computes wrong numbers is never chosen.
Exit status 1 when there is one, or one that fails; the others are measured all the same.
Without MODEL, only --import and --export are done."""
EXAMPLE = """\
  convc tune resnet.ir --sizes N=8 --budget 120
  convc tune lenet.ir --gradients --export lenet.jsonl
  convc tune --import lenet.jsonl"""
HEADER = ("node", "op", "before", "after", "predicted", "measured", "speed-up")


@dataclass(frozen=True)
class Line:
    """One node: the algorithm chosen by prediction alone, and the one chosen now.

    ``predicted`` and ``measured`` are seconds of the latter, ``speedup`` compares measured ones.
    ``images``: how often it runs, where it runs for one image after the other, which times are of.
    """

    node: str
    op: str
    before: str
    after: str
    predicted: float
    measured: float | None
    measured_before: float | None
    images: int | None = None

    @property
    def speedup(self) -> float | None:
        if self.measured is None or self.measured_before is None:
            return None
        return self.measured_before / self.measured

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        taken = "-" if self.measured is None else seconds(self.measured)
        gain = "-" if self.speedup is None else f"{self.speedup:.2f}x"
        op = often(self.op, self.images)
        return (self.node, op, self.before, self.after, seconds(self.predicted), taken, gain)


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "tune", "measure which algorithm is fastest for each op", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser, optional=True)
    arguments.add_sizes(parser, 1)
    add_budget(parser)
    arguments.add_gradients(parser)
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    parser.add_argument("--export", metavar="FILE", type=Path,
                        help="then write the times of MODEL's ops, of all if none is given, as "
                        "lines of JSON, for convc.compile(..., tuning=FILE)")  # fmt: skip
    parser.add_argument("--import", metavar="FILE", type=Path, dest="imported",
                        help="first read times that --export wrote")  # fmt: skip
    arguments.add_json(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """``--budget SECONDS``."""
    parser.add_argument("--budget", metavar="S", type=_seconds, default=BUDGET,
                        help=f"seconds that measuring may take (default: {BUDGET:g})")  # fmt: skip


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    if args.model is None and args.imported is None and args.export is None:
        raise InputError("give a MODEL to measure, or --import or --export")
    if args.export is not None and not args.export.parent.is_dir():
        raise InputError(f"--export {args.export}: there is no folder {args.export.parent}")
    store = database()
    if args.imported is not None:
        store.add(read_lines(args.imported))
    if args.model is None:
        _export(args, store, None)
        print(json_text({"database": str(store)}) if args.json else f"database {store}")
        return 0
    graph = prepared(args)
    options = options_of(args)
    check_measurable(options)
    progress = Progress()
    try:
        outcome = tune(graph, options, args.budget, progress, again=args.again, store=store)
    except KeyboardInterrupt:
        progress.done("what has been measured is kept")
        raise
    progress.done(f"{outcome.measured} measurement{'s' * (outcome.measured != 1)}")
    better = optimised(graph, options.passes)
    _export(args, store, better)
    forced = renamed(dict(options.algorithms), graph, better)
    lines = list(_lines(better, options, forced))
    print(_json(lines, outcome, store, options) if args.json else _text(lines, outcome, store))
    return 1 if outcome.wrong or outcome.broken else 0


def prepared(args: argparse.Namespace) -> ir.Graph:
    """The static graph that the arguments ask for, with gradients if they do."""
    graph = convc.load(args.model)
    if args.gradients:
        graph = with_gradients(graph)
    return arguments.bound(graph, args.sizes, 1)


def check_measurable(options: Options) -> None:
    """Raise ``TargetError`` where code for the target does not run."""
    if options.target.name not in available():
        raise TargetError(f"code for {options.target.name} cannot be measured here; targets here: "
                          f"{', '.join(available())}")  # fmt: skip


def _export(args: argparse.Namespace, store: Database, graph: ir.Graph | None) -> None:
    """The times of an optimised graph's ops, on whatever machine they were taken."""
    if args.export is None:
        return
    rows = store.rows()
    if graph is not None:
        parts = pieces(graph, args.by_image)
        wanted = {signature(part.graph, node) for part in parts for node in part.graph.nodes}
        rows = [row for row in rows if row.signature in wanted]
    args.export.write_text(to_lines(rows), encoding="utf-8")


def _lines(graph: ir.Graph, options: Options, forced: Mapping[str, str]) -> Iterator[Line]:
    """The nodes that leave a choice."""
    times = measured(options.target, options.threads)
    how = graph, options.target, options.accuracy, forced
    cut = options.by_image, options.threads
    before, after = choices(*how, None, *cut), choices(*how, times, *cut)
    for old, new in zip(before, after, strict=True):
        if len(new.applicable) > 1:
            chosen = new.chosen
            yield Line(
                new.node.name, op_label(new.node.op), old.chosen.algorithm.name,
                chosen.algorithm.name, chosen.seconds, chosen.measured,
                _measured(new, old.chosen.algorithm.name), new.piece.images,
            )  # fmt: skip


def _measured(choice: Choice, algorithm: str) -> float | None:
    """The time of an algorithm, if it was taken and its numbers are right."""
    found = next(c for c in choice.considered if c.algorithm.name == algorithm)
    return None if found.refused else found.measured


def _json(lines: Sequence[Line], outcome: Outcome, store: Database, options: Options) -> str:
    context = asdict(Context.of(options.target, options.threads))
    nodes = [{**asdict(line), "speedup": line.speedup} for line in lines]
    wrong = [{"node": node, "algorithm": name} for node, name in outcome.wrong]
    broken = [{"node": node, "algorithm": name, "error": error}
              for node, name, error in outcome.broken]  # fmt: skip
    return json_text({"database": str(store), **context, "measured": outcome.measured,
                      "nodes": nodes, "wrong": wrong, "broken": broken,
                      "left": outcome.left})  # fmt: skip


def _text(lines: Sequence[Line], outcome: Outcome, store: Database) -> str:
    parts = [
        table(HEADER, [line.cells() for line in lines]),
        "",
        "before: by prediction alone, which is for one thread. measured: the op alone, without "
        "conversions\nof layouts, which count in the choice; so a speed-up can be below 1.",
    ]
    parts += images_note((line.images for line in lines), "times are of one image, the sum of all")
    parts.append(_total(lines))
    if outcome.left:
        names = printable(", ".join(outcome.left))
        parts.append(f"no time left for: {names} (run again, or --budget)")
    parts += [f"WRONG: node '{printable(node)}': {name} differs from float64 by more than it "
              "promises" for node, name in outcome.wrong]  # fmt: skip
    parts += [f"BROKEN: node '{printable(node)}': {name} cannot be measured: {printable(error)}"
              for node, name, error in outcome.broken]  # fmt: skip
    return "\n".join([*parts, f"database {store}"])


def _total(lines: Sequence[Line]) -> str:
    known = [
        (line.measured_before * (line.images or 1), line.measured * (line.images or 1))
        for line in lines
        if line.measured_before is not None and line.measured is not None
    ]
    old, new = (sum(times) for times in zip(*known, strict=True)) if known else (0.0, 0.0)
    gain = f", {old / new:.2f}x" if new else ""
    return f"together: {seconds(old)} before, {seconds(new)} after{gain}"
