"""``convc why``: for each op, every algorithm that was considered, and what speaks for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from textwrap import shorten

import ir
from convc import answers
from convc.algorithms import Algorithm
from convc.errors import InputError
from convc.lowering import Lowering
from convc.model import Options, renamed
from convc.passes import optimised
from convc.plan import plan
from convc.select import Candidate, Choice, choices
from convc.tools import arguments
from convc.tools.labels import images_note, often, op_label, unknown_node
from convc.tools.options import add_options, options_of
from convc.tools.progress import Progress
from convc.tools.table import json_text, nbytes, seconds, table
from convc.tools.timing import peak_rate
from convc.tools.tune import add_budget, prepared
from convc.tools.verification import one_node
from convc.tuning.database import Database
from convc.tuning.records import REFUSED, Context, Times
from convc.tuning.trial import workspace_bytes
from convc.tuning.tuner import HOPELESS, tune
from ir.names import printable

DESCRIPTION = """\
For each op of MODEL, as the passes leave it, or for one NODE and the parts that a composite op
consists of, print every algorithm: why it does not apply, or what it is predicted to take on one
thread, what bringing its operands and result into other layouts adds, what it took when measured
(by convc tune, or now with --measure; without the call itself), the memory it needs beside
operands and results, the error it promises, and the rate: flops of the direct sum, by the time
measured, or predicted where none is. '>' marks the one chosen. '8 x' marks ops that run for one
image of a batch after the other: all this is of one image."""
EXAMPLE = """\
  convc why lenet.ir conv1 --measure
  convc why resnet.ir --sizes N=8 --gradients --accuracy exact"""
HEADER = ("", "algorithm", "predicted", "conversions", "measured", "workspace", "tolerance",
          "GFLOP/s", "of peak", "remark")  # fmt: skip
OTHER = "for other ops"


@dataclass(frozen=True)
class Weighed:
    """One algorithm for one node; times in seconds, ``rate`` in flops a second."""

    algorithm: str
    applicable: bool
    chosen: bool
    remark: str
    predicted: float | None = None
    conversions: float | None = None
    measured: float | None = None
    workspace: int | None = None
    tolerance: float | None = None
    rate: float | None = None
    share_of_peak: float | None = None

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        times = (self.predicted, self.conversions, self.measured)
        return (
            ">" if self.chosen else "",
            self.algorithm,
            *("-" if time is None else _time(time) for time in times),
            "-" if self.workspace is None else nbytes(self.workspace),
            "-" if self.tolerance is None else f"{self.tolerance:.0e}",
            "-" if self.rate is None else f"{self.rate / 1e9:.1f}",
            "-" if self.share_of_peak is None else f"{self.share_of_peak:.0%}",
            self.remark,
        )


def _time(value: float) -> str:
    return f"{value:.0f}" if value in (0, inf) else seconds(value)


@dataclass(frozen=True)
class Explained:
    """One node and all that was considered; ``measured_best`` by the times shown, if another.

    ``images``: how often it runs, where it runs for one image after the other.
    """

    node: str
    op: str
    type: str
    flops: int
    algorithms: tuple[Weighed, ...]
    measured_best: str | None
    images: int | None = None

    def text(self) -> str:
        """A heading, a table, and the reasons of those that do not apply."""
        reasons: dict[str, list[str]] = {}
        for each in self.algorithms:
            if not each.applicable:
                other = each.remark.startswith("only for ")  # another kind of op
                reasons.setdefault(OTHER if other else each.remark, []).append(each.algorithm)
        rows = [each.cells() for each in self.algorithms if each.applicable]
        heading = f"{self.node}: {often(self.op, self.images)} {self.type}, {self.flops:,} flops"
        lines = [printable(heading), table(HEADER, rows)]
        lines += [f"   not {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        if self.measured_best:
            lines.append(f"   by these times {self.measured_best} would be chosen: convc tune")
        return "\n".join(lines)


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "why", "explain which algorithm computes each op", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser)
    parser.add_argument("node", metavar="NODE", nargs="?", help="only this node, or its parts")
    arguments.add_sizes(parser, 1)
    arguments.add_gradients(parser)
    parser.add_argument("--measure", action="store_true",
                        help="measure the algorithms now, and this machine's limit; the database "
                        "stays as it is")  # fmt: skip
    add_budget(parser)
    arguments.add_json(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    graph = prepared(args)
    options = options_of(args)
    better = optimised(graph, options.passes)
    nodes = better.nodes if args.node is None else _wanted(args.node, graph, better)
    fresh = _measured(better, nodes, options, args.budget) if args.measure else {}
    peak = peak_rate(options.target, options.threads) if args.measure else None
    forced = renamed(dict(options.algorithms), graph, better)
    explained = list(_explained(better, nodes, options, forced, fresh, peak))
    context = Context.of(options.target, options.threads)
    if args.json:
        print(json_text({**asdict(context), "accuracy": options.accuracy, "peak": peak,
                         "nodes": [asdict(each) for each in explained]}))  # fmt: skip
        return 0
    limit = "" if peak is None else f", FMA peak {peak / 1e9:.1f} GFLOP/s"
    notes = images_note((each.images for each in explained), "all figures are of one image")
    print("\n\n".join([*(each.text() for each in explained),
                       "\n".join([*notes, f"{context}{limit}"])]))  # fmt: skip
    return 0


def _wanted(name: str, graph: ir.Graph, better: ir.Graph) -> tuple[ir.Node, ...]:
    """What the passes have left of a node: itself, its parts, what these are merged into, and what
    the passes have added to them, under names that begin with theirs."""
    mine = (name, *_parts(name, graph))
    merged = renamed(dict.fromkeys(mine, ""), graph, better)
    known = {node.name for node in (*graph.nodes, *ir.expand(graph).nodes)}
    found = tuple(
        node
        for node in better.nodes
        if node.name in merged or (node.name not in known and _owner(node.name, known) in mine)
    )
    if not found:
        raise InputError(unknown_node(name, graph, better))
    return found


def _parts(name: str, graph: ir.Graph) -> Iterator[str]:
    """The nodes that a composite op expands to, but for the last, which keeps its name."""
    known = {node.name for node in graph.nodes}
    for part in ir.expand(graph).nodes:
        if part.name not in known and _owner(part.name, known) == name:
            yield part.name


def _owner(part: str, names: Iterable[str]) -> str | None:
    """The longest of the names that another one begins with."""
    owners = (name for name in names if part.startswith(f"{name}."))
    return max(owners, key=len, default=None)


def _measured(graph: ir.Graph, nodes: Sequence[ir.Node], options: Options, budget: float) -> Times:
    """Times taken now, of all algorithms, also where there is no choice; nothing is kept."""
    store = Database(None)
    progress = Progress()
    free = replace(options, algorithms=(), passes=())
    only = {node.name for node in nodes}
    outcome = tune(graph, free, budget, progress, again=True, only=only, store=store)
    left = f", no time left for {', '.join(outcome.left)}" if outcome.left else ""
    progress.done(f"{outcome.measured} measurements{left}")
    return store.times(Context.of(options.target, options.threads))


def _explained(
    graph: ir.Graph, nodes: Sequence[ir.Node], options: Options, forced: Mapping[str, str],
    fresh: Times, peak: float | None,
) -> Iterator[Explained]:  # fmt: skip
    """The nodes asked for; ``fresh`` times stand before those of the database."""
    wanted = {node.name for node in nodes}
    how = (graph, options.target, options.accuracy, forced)
    known = options.times()
    both = {name: {**known.get(name, {}), **fresh.get(name, {})} for name in {*known, *fresh}}
    rooms: dict[tuple[str, str], int | str] = {}
    cut = options.by_image, options.threads
    each_way = (choices(*how, times, *cut) for times in (known, both))
    for choice, other in zip(*each_way, strict=True):
        if choice.node.name not in wanted:
            continue
        name = choice.signature
        for each in choice.applicable:
            if (name, each.algorithm.name) not in rooms:
                rooms[name, each.algorithm.name] = _room(options, choice, each.algorithm)
        types = [choice.graph.types[name] for name in choice.node.inputs]
        flops = choice.node.op.cost(*types).flops
        limit = _limit(choice, options, peak)
        weighed = tuple(
            _weighed(choice, shown, flops, limit, rooms.get((name, shown.algorithm.name)))
            for shown in other.considered
        )
        best = other.chosen.algorithm
        yield Explained(
            choice.node.name, op_label(choice.node.op), name.rpartition(" : ")[2],
            flops, weighed, None if best is choice.chosen.algorithm else best.name,
            choice.piece.images,
        )  # fmt: skip


def _limit(choice: Choice, options: Options, peak: float | None) -> float | None:
    """The peak in the type of the node."""
    dtype = choice.site.outputs[0].dtype
    if peak is None or not dtype.is_float:
        return None
    return peak * options.target.lanes(dtype.value) / options.target.lanes("f32")


def _weighed(
    choice: Choice, candidate: Candidate, flops: int, peak: float | None, room: int | str | None
) -> Weighed:
    algorithm, chosen = candidate.algorithm, candidate.algorithm is choice.chosen.algorithm
    if candidate.reason is not None:
        return Weighed(algorithm.name, False, False, candidate.reason)
    measured = None if candidate.refused else candidate.measured
    time = candidate.seconds if measured is None else measured
    rate = flops / time if flops and 0 < time < inf else None
    remark = room if isinstance(room, str) else _remark(choice, candidate, chosen)
    return Weighed(
        algorithm.name, True, chosen, remark, candidate.seconds, candidate.conversions, measured,
        None if isinstance(room, str) else room, answers.tolerance(algorithm, choice.site), rate,
        rate / peak if rate and peak and measured else None,
    )  # fmt: skip


def _remark(choice: Choice, candidate: Candidate, chosen: bool) -> str:
    """What the numbers do not say."""
    if chosen and choice.forced:
        return "forced"
    if candidate.measured == REFUSED:
        return "computed WRONG numbers when measured (mended? convc tune --again)"
    if candidate.seconds == inf:
        return "only on request"
    known = [c.measured for c in choice.applicable if c.measured is not None]
    if known and candidate.measured is None:
        hopeless = candidate.seconds > HOPELESS * min(known)
        why = f"predicted over {HOPELESS:g} times the best" if hopeless else "convc tune does it"
        return f"not in the running: not measured, {why}"
    return "" if len(choice.applicable) > 1 else "the only one"


def _room(options: Options, choice: Choice, algorithm: Algorithm) -> int | str:
    """Bytes of workspace; why there are none, where the algorithm fails."""
    one = one_node(choice.graph, choice.node)
    try:
        program = Lowering(one, {choice.node.name: algorithm}, options.target).program()
        return workspace_bytes(plan(program))
    except Exception as error:  # whatever is wrong with it, there are others to explain
        return shorten(f"cannot be lowered: {type(error).__name__}: {error}", 300)
