"""``convc show``: a model at every stage of its compilation, as text."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import convc
import ir
from convc.algorithms import Site
from convc.backend import jit
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target, target_named
from convc.errors import InputError
from convc.images import pieces
from convc.model import Options, Stages, renamed, stages
from convc.plan import Placed, Plan
from convc.pooling import Pool
from convc.program import Step
from convc.select import candidates
from convc.tools import arguments, plotting, show_ops, show_passes, show_plot
from convc.tools.compile import with_gradients
from convc.tools.labels import images_note, often, op_label, steps_notes, unknown_node
from convc.tools.options import add_options, options_of
from convc.tools.table import nbytes, pairs, seconds, table
from ir.loops import Kernel, to_text
from ir.names import printable

DESCRIPTION = """\
Print what MODEL becomes at one stage of its compilation, as text on standard output:

  graph       the model itself
  passes      what each pass over the graph changes: nodes, flops, bytes, predicted time
  algorithms  how each node is computed, and why not in another way
  loops       the loops of each kernel
  plan        the steps in the order they run, and where every buffer lies in memory
  llvm        LLVM's assembly of each kernel
  asm         the machine's assembly of each kernel

With --ops and no MODEL: the ops of the language, their formulas, gradients and algorithms."""
EXAMPLE = """\
  convc show lenet.ir --at plan --sizes N=1
  convc show zoo:resnet50 --at passes --no-diff --passes default,mine.py:my_pass
  convc show zoo:unet --at plan --plot unet.png
  convc show lenet.ir --at asm --node conv1 --target avx2
  convc show --ops conv max_pool"""


LISTED = 4  # nodes, where many share a line
CONVERTED = re.compile(r"\.NC(\d+c)?(\+[\d:x]+)?$")  # the name of a slot in another layout


@dataclass(frozen=True)
class View:
    """What is asked for: a graph, static beyond ``--at graph``, and of it, what."""

    graph: ir.Graph
    options: Options
    node: str | None
    diff: bool

    @cached_property
    def stages(self) -> Stages:
        """All stages of the graph."""
        return stages(self.graph, self.options)

    def check_node(self) -> None:
        """Raise ``InputError`` where the node asked for does not exist."""
        if self.node is not None:
            _ = self.wanted

    def shows(self, name: str) -> bool:
        """Whether to show a node of the optimised graph."""
        return self.node is None or self.wanted == name

    @cached_property
    def wanted(self) -> str:
        """The node asked for, or the one that the passes have merged it into.

        Raises ``InputError`` where there is neither.
        """
        better = self.stages.optimised
        (name,) = renamed({str(self.node): ""}, self.graph, better)
        if all(node.name != name for node in better.nodes):
            raise InputError(f"--node: {unknown_node(str(self.node), self.graph, better)}")
        return name

    @cached_property
    def idle(self) -> bool:
        """Whether the node asked for has no step."""
        steps = self.stages.plan.numbered()
        return self.node is not None and all(step.node != self.wanted for _, step in steps)


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "show", "print a model at one stage of its compilation", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser, optional=True)
    parser.add_argument("--ops", metavar="NAME", nargs="*",
                        help="no model, but these ops (default: all)")  # fmt: skip
    parser.add_argument("--at", metavar="STAGE", choices=tuple(STAGES), default="graph",
                        help=f"{', '.join(STAGES)} (default: graph)")  # fmt: skip
    parser.add_argument("--node", metavar="NAME",
                        help="only this node (not with --at graph, passes)")  # fmt: skip
    arguments.add_sizes(parser, 1)
    arguments.add_gradients(parser)
    parser.add_argument("--diff", action=argparse.BooleanOptionalAction, default=True,
                        help="print what a pass changed (default: yes)")  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", type=Path,
                        help="with --at plan: draw the memory (needs matplotlib)")  # fmt: skip
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    if args.ops is not None or args.model is None:
        if args.ops is None or args.model is not None:
            raise InputError("show takes a MODEL, or --ops; give one of them")
        for text in show_ops.described(args.ops, target_named(args.target)):
            print(text)
        return 0
    if args.node is not None and args.at in ("graph", "passes"):
        raise InputError(f"--node has no meaning with --at {args.at}; leave it out")
    if args.plot is not None:
        if args.at != "plan" or args.node is not None:
            raise InputError("--plot draws the whole plan: it goes with --at plan, without --node")
        plotting.check(args.plot)
    graph = convc.load(args.model)
    if args.gradients:
        graph = with_gradients(graph)
    if args.sizes or args.at != "graph":
        graph = arguments.bound(graph, args.sizes, 1)
    view = View(graph, options_of(args), args.node, args.diff)
    view.check_node()  # before anything is printed
    for text in STAGES[args.at](view):
        print(text.rstrip("\n"))
    if args.plot is not None:
        show_plot.draw(view.stages.plan, _title(view), args.plot)
    return 0


# ---------------------------------------------------------------- graphs


def _graph(view: View) -> Iterator[str]:
    yield ir.to_text(view.graph)


def _passes(view: View) -> Iterator[str]:
    yield from show_passes.described(view.graph, view.options, view.diff)


# ---------------------------------------------------------------- algorithms


def _algorithms(view: View) -> Iterator[str]:
    made = view.stages
    rows = []
    others: dict[tuple[str, str, str], list[str]] = {}
    parts = pieces(made.optimised, view.options.by_image)
    busy = {step.node for _, step in made.plan.numbered()}
    for part in parts:
        for node in part.graph.nodes:
            if not view.shows(node.name):
                continue
            site = Site.of(part.graph, node, made.target)
            chosen = made.algorithms[node.name]
            time = seconds(chosen.seconds(site))
            types = ", ".join(str(part.graph.types[name]) for name in node.outputs)
            label = often(op_label(node.op), part.images)
            rows.append((node.name, label, types, chosen.name, time if node.name in busy else "-"))
            for other in candidates(site, view.options.accuracy):
                if other.algorithm.name != chosen.name:
                    why = other.reason or "expected to be slower"
                    time = "" if other.reason else seconds(other.seconds)
                    others.setdefault((other.algorithm.name, time, why), []).append(node.name)
    yield table(("node", "op", "type", "algorithm", "predicted"), rows)
    yield ("\npredicted: time on one thread; -: no step of its own, as the result lies where the "
           "operands\ndo, or is made as these are stored")  # fmt: skip
    yield from images_note((part.images for part in parts), "times are of one image")
    yield "\nNot chosen:\n"
    yield table(
        ("algorithm", "predicted", "reason", "nodes"),
        [(*key, _listed(nodes, len(rows))) for key, nodes in others.items()],
    )


def _listed(names: list[str], total: int) -> str:
    if len(names) == total > 1:
        return f"all {total}"
    more = f", ... ({len(names)})" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


# ---------------------------------------------------------------- kernels


def _kernels(view: View, text: Callable[[Kernel, Target], str], mark: str) -> Iterator[str]:
    """Each distinct kernel once, under a line that says which steps run it."""
    made = view.stages
    if view.idle:
        yield from (f"{mark} {line}" for line in _idle(view))
        return
    found: dict[str, list[tuple[str, Step]]] = {}
    for place, step in made.plan.numbered():
        if view.shows(step.node):
            found.setdefault(jit.digest(step.kernel), []).append((place, step))
    places = (place for uses in found.values() for place, _ in uses)
    yield from (f"{mark} {note}" for note in steps_notes(made.plan, places))
    for uses in found.values():
        kernel = uses[0][1].kernel
        served = ", ".join(f"{place} {step.node} ({step.algorithm})" for place, step in uses)
        yield f"{mark} {kernel.name}: {printable(served)}"
        yield text(kernel, made.target)
        yield ""
    if not found:
        yield f"{mark} no kernels: nothing is left to compute"


# ---------------------------------------------------------------- the plan


def _plan(view: View) -> Iterator[str]:
    made = view.stages
    if view.idle:
        yield from _idle(view)
        return
    yield "steps (slots: read -> written):\n"
    images = made.plan.program.images
    shown = [(place, step) for place, step in made.plan.numbered() if view.shows(step.node)]
    yield table(
        ("step", "node", "algorithm", "kernel", "tasks", "parallel", "slots"),
        [_step(place, step) for place, step in shown],
    )
    notes = steps_notes(made.plan, (place for place, _ in shown))
    if notes:
        yield "\n".join(["", *notes])
    yield "\nmemory (bytes; life: from step to step):\n"
    bound = images.bound if images is not None else {}
    rows = [
        row
        for part in made.plan.parts
        for row in (_memory(view, part) if part is made.plan else _memory(view, part, "i", bound))
    ]
    yield table(("slot", "name", "role", "bytes", "offset", "life"), rows)
    if any(CONVERTED.search(str(name)) for _, name, *_ in rows):
        yield "\nx.NC16c+1:2: x converted, to blocks of 16 channels with 1 zero before, 2 behind"
    yield "\n" + _totals(made)


def _idle(view: View) -> Iterator[str]:
    """Why a node has no step: where its result lies, and what is written there by which node."""
    (node,) = (node for node in view.stages.optimised.nodes if node.name == view.wanted)
    how = "it lies in its operand"
    if isinstance(node.op, ir.ops.Concat):
        how = "its parts are written where it lies"
    elif isinstance(node.op, Pool):
        how = "it is made as its operand is stored"
    yield f"{printable(node.name)} ({op_label(node.op)}) has no step of its own: {how}, by"
    yield from pairs(_writers(view, node)).splitlines()


def _writers(view: View, node: ir.Node) -> Iterator[tuple[str, str]]:
    """What computes the operands of a node, through those that have no step either."""
    graph, plan = view.stages.optimised, view.stages.plan
    for value in dict.fromkeys(node.inputs):
        producer = graph.producer(value)
        if producer is None:
            yield value, "an input" if value in graph.inputs else "a weight"
            continue
        places = [place for place, step in plan.numbered() if step.node == producer.name]
        if places:
            yield producer.name, f"{op_label(producer.op)}, step {places[-1]}"
        else:
            yield from _writers(view, producer)


def _step(place: str, step: Step) -> tuple[object, ...]:
    mark = "i" if place.startswith("i") else ""
    reads, writes = (
        " ".join(f"{mark}{slot}" for slot in slots) for slots in (step.reads, step.writes)
    )
    parallel = "yes" if step.parallel else "no"
    return (place, step.node, step.algorithm, step.kernel.name, step.kernel.tasks, parallel,
            f"{reads} -> {writes}".strip())  # fmt: skip


def _memory(
    view: View, plan: Plan, mark: str = "", bound: Mapping[int, int] | None = None
) -> Iterator[tuple[object, ...]]:
    """The slots of a plan; where it is that of an image, what is ``bound`` lies in others."""
    steps = (step for step in (*plan.prepare, *plan.steps) if view.shows(step.node))
    numbers = {slot for step in steps for slot in step.slots} if view.node else None
    for slot in plan.program.slots:
        placed = plan.constants.get(slot.number) or plan.temporaries.get(slot.number)
        outside = slot.role in ("input", "output")
        if (placed or outside) and (numbers is None or slot.number in numbers):
            role = "constant" if slot.number in plan.constants else slot.role
            size = placed.nbytes if placed else slot.size * ir.DType(slot.dtype).itemsize
            where = _place(placed, role)
            if bound and slot.number in bound:
                where = "-", f"in slot {bound[slot.number]}"
            yield f"{mark}{slot.number}", slot.name, role, size, *where


def _place(placed: Placed | None, role: str) -> tuple[object, str]:
    if placed is None:
        return "-", "caller's"
    if placed.in_place:
        return "as given", "always"
    return placed.offset, "always" if role == "constant" else f"{placed.first}..{placed.last}"


def _totals(made: Stages) -> str:
    plan, graph = made.plan, made.optimised
    outside = [graph.types[name] for name in (*graph.inputs, *graph.outputs.values())]
    steps = [step for part in plan.parts for step in part.steps]
    scratch = max((scratch_bytes(step.kernel) for step in steps), default=0)
    peak = plan.resident_bytes + scratch
    figures = {
        "constants": sum(part.constant_bytes for part in plan.parts),
        "constants as given": sum(part.given_bytes for part in plan.parts),
        "more while they are packed": max(part.passing_bytes for part in plan.parts),
        "arena": plan.arena_bytes,
        **({"arena for an image, of each thread": plan.images.arena_bytes} if plan.images else {}),
        "most alive at one step": plan.live_bytes,
        "scratch of each thread": scratch,
        "peak on one thread": peak,
        "caller's inputs and outputs": sum(
            prod(t.static_shape) * t.dtype.itemsize for t in outside
        ),
    }
    return pairs((f"{k}:", f"{v:>12,} bytes = {nbytes(v)}") for k, v in figures.items())


def _title(view: View) -> str:
    shown = ", ".join(f"{name}: {type}" for name, type in view.graph.inputs.items())
    return f"{view.graph.name} on {shown}; {view.stages.target.name}"


STAGES: dict[str, Callable[[View], Iterator[str]]] = {
    "graph": _graph,
    "passes": _passes,
    "algorithms": _algorithms,
    "loops": lambda view: _kernels(view, lambda kernel, _: to_text(kernel), "#"),
    "plan": _plan,
    "llvm": lambda view: _kernels(view, jit.llvm_text, ";"),
    "asm": lambda view: _kernels(view, jit.assembly, "#"),
}
