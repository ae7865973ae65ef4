"""``convc check``: every op of a model, and the whole of it, beside the interpreter in float64."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import convc
import ir
from convc.backend.target import target_named
from convc.errors import CapacityError, InputError
from convc.images import pieces
from convc.model import renamed
from convc.passes import optimised
from convc.select import choices
from convc.settings import default_threads, usable_threads
from convc.tools import arguments, memory
from convc.tools.accuracy import Accuracy, random_inputs
from convc.tools.arguments import Array
from convc.tools.blas import one_thread
from convc.tools.labels import images_note, often
from convc.tools.options import How, add_options, how, of_graph
from convc.tools.progress import Progress
from convc.tools.slopes import Slopes, check_slopes
from convc.tools.table import json_text, nbytes, table
from convc.tools.verification import NodeCheck, OutputCheck, check_graph, check_nodes, guilty_pass
from ir.errors import GradientError, GraphError, did_you_mean

DESCRIPTION = """\
Find out whether MODEL computes the right numbers on this machine, and which op is wrong if not.

Every op, as the passes leave it, is compiled alone and run on the values that reach it in a
float64 evaluation, image by image where the model does so; its results must be as near to float64
as its algorithm promises. Then the whole model is compiled and compared, and both once more for
the gradients of all float inputs and weights; those of the interpreter are compared with finite
differences. Exit status 1, with the worst op named, when something differs."""
EXAMPLE = "  convc check lenet.ir --sizes N=4\n  convc check lenet.ir --input x=images.npy"


@dataclass(frozen=True)
class Task:
    """A graph to check, as it is and as the passes leave it; of the latter, which nodes; and the
    algorithms that are forced in the former."""

    name: str
    graph: ir.Graph
    better: ir.Graph
    nodes: list[ir.Node]
    forced: dict[str, str]


@dataclass(frozen=True)
class Section:
    """The checks of one graph: ``forward`` or ``gradients``.

    ``guilty`` is the first pass that changes what the graph computes, looked for where outputs are
    wrong.
    """

    name: str
    nodes: list[NodeCheck]
    outputs: list[OutputCheck]
    guilty: str | None

    @property
    def checks(self) -> list[Accuracy]:
        return [*self.nodes, *self.outputs]


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "check", "compare every op with a float64 interpreter", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser)
    arguments.add_inputs(parser, "inputs not given are random")
    parser.add_argument("--seed", metavar="N", type=int, default=0,
                        help="of the random inputs (default: 0)")  # fmt: skip
    arguments.add_sizes(parser, 2)
    parser.add_argument("--gradients", action=argparse.BooleanOptionalAction,
                        help="check the gradients of all float inputs and weights too "
                        "(default: where the model has any)")  # fmt: skip
    parser.add_argument(
        "--tolerance", metavar="X", type=float,
        help="largest error allowed for every op and output, relative to its largest magnitude "
        "(default: what the algorithm of an op promises; 1e-4 for a float32 output of the whole "
        "model, 1e-10 for float64, more where rounding alone moves it further)",
    )  # fmt: skip
    arguments.add_json(parser)
    add_options(parser)
    parser.set_defaults(run=run, native=True)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} must not be negative")
    if args.tolerance is not None and not args.tolerance >= 0:
        what = "a number" if args.tolerance != args.tolerance else "zero or more, not negative"
        raise InputError(f"--tolerance {args.tolerance} must be {what}")
    loaded = convc.load(args.model)
    given = arguments.read_arrays(args.input, loaded.inputs)
    graph = arguments.bound(loaded, [_implied(loaded, given), *args.sizes], 2)
    gradients, missing = _gradients(graph, args.gradients)
    chosen = how(args)
    graphs = {"forward": graph} | ({} if gradients is None else {"gradients": gradients})
    tasks = list(_tasks(graphs, chosen))
    threads = usable_threads(args.threads or default_threads())
    _check_forced(tasks, chosen, threads)
    _check_memory(tasks, chosen, threads, arguments.batches(loaded))
    progress = Progress()
    with one_thread():
        sections = [_section(task, given, args, chosen, progress) for task in tasks]
        slopes = _slopes(graph, gradients, given, args, progress)
    progress.done("checked")
    passed = all(check.passed for section in sections for check in section.checks)
    told = _summary(sections)
    if slopes is not None and slopes.wrong is not None and passed:
        passed = False
        told = "WRONG: gradients, as ops give them, though native code agrees with the interpreter"
    if args.json:
        print(json_text({"passed": passed, "sections": [_json(section) for section in sections],
                         "slopes": slopes and asdict(slopes)}))  # fmt: skip
    else:
        more = [] if slopes is None else [str(slopes)]
        print("\n\n".join([*map(_text, sections), *missing, *more, told]))
    return 0 if passed else 1


def _slopes(
    graph: ir.Graph, back: ir.Graph | None, given: Mapping[str, Array], args: argparse.Namespace,
    progress: Progress,
) -> Slopes | None:  # fmt: skip
    if back is None:
        return None
    progress.update("gradients: finite differences")
    inputs = {**random_inputs(graph, args.seed), **given}
    return check_slopes(graph, back, inputs, arguments.gradient_names(graph))


def _implied(graph: ir.Graph, given: Mapping[str, Array]) -> dict[str, int]:
    """Values of the symbols that stand alone in the shapes of given arrays."""
    found: dict[str, int] = {}
    for name in given.keys() & graph.inputs.keys():
        for extent, size in zip(graph.inputs[name].shape, given[name].shape, strict=False):
            if str(extent) in graph.symbols:
                found.setdefault(str(extent), size)
    return found


def _gradients(graph: ir.Graph, wanted: bool | None) -> tuple[ir.Graph | None, list[str]]:
    """The graph of all gradients, or why there is none; an error where they were asked for."""
    wrt = arguments.gradient_names(graph)
    floats = any(graph.types[value].dtype.is_float for value in graph.outputs.values())
    if wanted is False or (wanted is None and not (wrt and floats)):
        return None, []
    try:
        return ir.vjp(graph, wrt), []
    except (GradientError, GraphError) as error:
        if wanted:
            raise
        return None, [f"no gradients checked: {error}"]


def _check_forced(tasks: Sequence[Task], chosen: How, threads: int) -> None:
    """Raise ``InputError`` for a choice for a node that no graph has, ``AlgorithmError`` for one
    that cannot be."""
    for name in chosen["algorithms"].keys() - {name for task in tasks for name in task.forced}:
        names = [node.name for task in tasks for node in task.graph.nodes]
        raise InputError(f"--algorithm: no node '{name}'{did_you_mean(name, names)}")
    target, how = target_named(chosen["target"]), chosen["accuracy"]
    for task in tasks:
        if task.forced:
            forced = renamed(task.forced, task.graph, task.better)
            for _ in choices(task.better, target, how, forced, None, chosen["by_image"], threads):
                pass


def _tasks(graphs: Mapping[str, ir.Graph], chosen: How) -> Iterator[Task]:
    """Each graph; its nodes only where they are not checked in one before it already."""
    known: list[ir.Node] = []
    for name, graph in graphs.items():
        better = optimised(graph, chosen["passes"])
        forced = of_graph(chosen["algorithms"], graph, chosen["passes"])
        nodes = [node for node in better.nodes if node not in known]
        yield Task(name, graph, better, nodes, forced)
        known += better.nodes


def _check_memory(
    tasks: Sequence[Task], chosen: How, threads: int, batches: Collection[str]
) -> None:
    """Raise ``CapacityError`` where a check would take more memory than there is."""
    have = memory.available_bytes()
    for task in tasks:
        parts = pieces(task.better, chosen["by_image"], threads)
        need = max(memory.comparing_bytes(ir.expand(task.graph)),
                   memory.checking_bytes(task.better, parts))  # fmt: skip
        if need > have:
            fewer = ",".join(f"{name}=1" for name in sorted(batches))
            others = [f"--sizes {fewer}"] if fewer else []
            others += ["--no-gradients"] if task is not tasks[0] else []
            raise CapacityError(
                f"checking {task.name} of graph '{task.graph.name}' takes about {nbytes(need)} of "
                f"memory, with values in float64, and {nbytes(have)} are free\n"
                f"try {' or '.join([*others, 'a machine with more'])}"
            )


def _section(
    task: Task, given: Mapping[str, Array], args: argparse.Namespace, chosen: How,
    progress: Progress,
) -> Section:  # fmt: skip
    name, graph, better = task.name, task.graph, task.better
    inputs = {**random_inputs(graph, args.seed), **given}
    ir.check_inputs(graph, inputs)
    passes = chosen["passes"]
    same: dict[str, Any] = {
        "target": args.target,
        "threads": args.threads,
        "tolerance": args.tolerance,
        "accuracy": args.accuracy,
        "by_image": args.by_image,
    }
    progress.update(f"{name}: the whole model")
    outputs = check_graph(graph, inputs, passes=passes, algorithms=task.forced, **same)
    right = all(check.passed for check in outputs)
    guilty = None if right else guilty_pass(graph, inputs, passes, outputs)
    forced = renamed(task.forced, graph, better)
    progress.update(f"{name}: each of {len(task.nodes)} ops alone")
    each = progress if progress.terminal else None
    checks = check_nodes(better, inputs, nodes=task.nodes, algorithms=forced, progress=each, **same)
    return Section(name, checks, outputs, guilty)


def _json(section: Section) -> dict[str, object]:
    nodes, outputs = (
        [{**asdict(check), "passed": check.passed} for check in checks]
        for checks in (section.nodes, section.outputs)
    )
    return {"name": section.name, "nodes": nodes, "outputs": outputs, "guilty": section.guilty}


def _text(section: Section) -> str:
    errors = ("max error", "allowed", "relative", "verdict")
    checks, outputs = section.nodes, [(c.output, c.type, *_numbers(c)) for c in section.outputs]
    nodes = [(c.node, often(c.op, c.images), c.algorithm, c.type, *_numbers(c)) for c in checks]
    return "\n\n".join([
        f"{section.name}: each op alone",
        "\n".join([table(("node", "op", "algorithm", "type", *errors), nodes),
                   *images_note((c.images for c in checks), "the worst image counts")]),
        f"{section.name}: the whole model",
        table(("output", "type", *errors), outputs),
    ])  # fmt: skip


def _numbers(check: Accuracy) -> tuple[str, str, str, str]:
    verdict = f"{'ok' if check.passed else 'WRONG'} {check.note}".rstrip()
    return f"{check.error:.2e}", f"{check.allowed:.2e}", f"{check.relative:.2e}", verdict


def _summary(sections: Sequence[Section]) -> str:
    nodes = [check for section in sections for check in section.nodes]
    outputs = [check for section in sections for check in section.outputs]
    wrong = [check for check in nodes if not check.passed]
    if wrong:
        bad = max(wrong, key=lambda check: check.excess)
        return (
            f"WRONG: {len(wrong)} of {len(nodes)} ops; the worst is node '{bad.node}' "
            f"({bad.op}, {bad.algorithm}): {bad.note or f'{bad.excess:.3g} times what is allowed'}"
        )
    if not all(check.passed for check in outputs):
        bad_output = max(outputs, key=lambda check: check.excess)
        text = f"WRONG: output '{bad_output.output}', though every op alone is right: "
        guilty = next((section.guilty for section in sections if section.guilty), None)
        if guilty is not None:
            return f"{text}pass {guilty} changes the meaning (convc show MODEL --at passes)"
        return f"{text}no pass changes it; look at the conversions (convc show MODEL --at plan)"
    counts = (f"{len(of)} {what}{'s' * (len(of) != 1)}"
              for of, what in ((nodes, "op"), (outputs, "output")))  # fmt: skip
    return f"ok: {' and '.join(counts)} agree with float64"
