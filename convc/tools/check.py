"""``convc check``: every op of a model, and the whole of it, beside the interpreter in float64."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

import convc
import ir
from convc.backend.target import Target, target_named
from convc.errors import InputError
from convc.model import renamed
from convc.passes import Pass, optimised, run_passes
from convc.select import Choice, choices
from convc.settings import default_threads, usable_threads
from convc.tools import arguments
from convc.tools.accuracy import Accuracy, accuracy, magnitudes, peak, random_inputs, worst
from convc.tools.blas import one_thread
from convc.tools.labels import images_note, often, op_label
from convc.tools.options import How, add_options, how, of_graph
from convc.tools.progress import Event, Progress
from convc.tools.table import json_text, table
from convc.tuning.database import measured
from ir.errors import GradientError, GraphError, did_you_mean

Array: TypeAlias = "np.ndarray[Any, Any]"
TOLERANCES = {"f32": 1e-4, "f64": 1e-10, "i64": 0.0}
MOVED_TIMES = 1.5  # one draw of what moves shows how far, not how far at most
NUMPY_TIMES = 10.0  # a graph may be this much further from float64 than numpy is in its own type

DESCRIPTION = """\
Find out whether MODEL computes the right numbers on this machine, and which op is wrong if not.

Every op, as the passes leave it, is compiled alone and run on the values that reach it in a
float64 evaluation, image by image where the model does so; its results must be as near to float64
as its algorithm promises. Then the whole model is compiled and compared, and both once more for
the gradients of all float inputs and weights. Exit status 1, with the worst op named, when
something differs."""
EXAMPLE = "  convc check lenet.ir --sizes N=4\n  convc check lenet.ir --input x=images.npy"


@dataclass(frozen=True, kw_only=True)
class NodeCheck(Accuracy):
    """One node alone, compiled, beside the interpreter on the same inputs in float64.

    ``images``: how often it runs, where it runs for one image after the other; the worst counts.
    """

    node: str
    op: str
    algorithm: str
    type: str
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputCheck(Accuracy):
    """One output of the whole compiled graph beside the interpreter in float64."""

    output: str
    type: str


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


def check_nodes(
    graph: ir.Graph, inputs: Mapping[str, Array], *, target: str | None = None,
    threads: int | None = None, tolerance: float | None = None,
    nodes: Sequence[ir.Node] | None = None, accuracy: str = "fast",
    algorithms: Mapping[str, str] | None = None, by_image: bool = True,
    progress: Event | None = None,
) -> list[NodeCheck]:  # fmt: skip
    """Compile each of the ``nodes`` (default: all) of a static graph by itself and compare it
    with the interpreter.

    A node is given the float64 values of its operands, rounded to their types. ``tolerance``
    replaces what its algorithm promises; ``accuracy``, ``algorithms`` and ``by_image`` are as of
    ``convc.compile``; ``progress`` is told of each node.
    """
    reference = ir.values(graph, inputs, "float64")
    chosen_target = target_named(target)
    count = usable_threads(threads or default_threads())
    times = measured(chosen_target, count)  # as for the whole model
    found = choices(graph, chosen_target, accuracy, algorithms, times, by_image, count)
    wanted = {node.name for node in (graph.nodes if nodes is None else nodes)}
    made = [choice for choice in found if choice.node.name in wanted]
    checks = []
    for number, choice in enumerate(made):
        if progress is not None:
            progress(f"{choice.node.name} alone", number / len(made))
        checks.append(_check_node(choice, reference, chosen_target, threads, tolerance))
    return checks


def check_graph(
    graph: ir.Graph, inputs: Mapping[str, Array], *, target: str | None = None,
    threads: int | None = None, tolerance: float | None = None, **how: Any,
) -> list[OutputCheck]:  # fmt: skip
    """Compile a static graph, ``how`` as of ``convc.compile``, and compare its outputs with the
    interpreter.

    ``tolerance`` is relative to the largest magnitude of an output (default: ``TOLERANCES``).
    Where sums cancel, or a decision flips (which element is the largest, or positive), more is
    allowed: ``NUMPY_TIMES`` as far from float64 as numpy is in the graph's own types, and
    ``MOVED_TIMES`` as far as results move when inputs and weights do, by ``TOLERANCES`` of
    themselves.
    """
    results = convc.compile(graph, threads, target=target, **how).run(inputs)
    reference = ir.interpret(graph, inputs, "float64")
    doubt: dict[str, float] = {}
    checks = []
    for name, value in graph.outputs.items():
        type = graph.types[value]
        relative = TOLERANCES[type.dtype.value] if tolerance is None else tolerance
        bound = relative * peak(reference[name])
        found = accuracy(results[name], reference[name], bound)
        if not found.passed and tolerance is None:
            doubt = doubt or _doubt(graph, inputs, reference)
            found = accuracy(results[name], reference[name], max(bound, doubt[name]))
        checks.append(OutputCheck(output=name, type=str(type), **asdict(found)))
    return checks


def _doubt(
    graph: ir.Graph, inputs: Mapping[str, Array], reference: Mapping[str, Array]
) -> dict[str, float]:
    """How far from float64 each output may be without any fault of the code."""
    rng = np.random.default_rng(0)

    def moved(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        by = TOLERANCES[f"f{8 * array.itemsize}"]
        return (array * (1 + by * rng.standard_normal(array.shape))).astype(array.dtype)

    near = graph.replace(weights={name: moved(array) for name, array in graph.weights.items()})
    beside = ir.interpret(near, {name: moved(array) for name, array in inputs.items()}, "float64")
    own = ir.interpret(graph, inputs)
    return {
        name: max(NUMPY_TIMES * accuracy(own[name], exact, 0.0).error,
                  MOVED_TIMES * accuracy(beside[name], exact, 0.0).error)
        for name, exact in reference.items()
    }  # fmt: skip


def one_node(graph: ir.Graph, node: ir.Node) -> ir.Graph:
    """The graph of just this node; weights stay weights, other operands become inputs."""
    operands = dict.fromkeys(node.inputs)
    weights = {name: graph.weights[name] for name in operands if name in graph.weights}
    inputs = {name: graph.types[name] for name in operands if name not in weights}
    return ir.Graph("one", inputs, weights, (node,), {name: name for name in node.outputs})


def _check_node(
    choice: Choice, reference: Mapping[str, Array], target: Target, threads: int | None,
    tolerance: float | None,
) -> NodeCheck:  # fmt: skip
    node, algorithm = choice.node, choice.chosen.algorithm
    one = one_node(choice.graph, node)
    model = convc.compile(
        one, threads, algorithms={node.name: algorithm.name}, target=target.name, passes=()
    )
    if tolerance is None:
        tolerance = algorithm.tolerance(choice.site)
    checks: list[Accuracy] = []
    for image in range(choice.piece.images or 1):
        operands = _operands(one, reference, image)
        results = model.run(operands)
        wide = ir.values(one, operands, "float64")
        arrays = [wide[name] for name in node.inputs]
        scales = magnitudes(node.op, arrays, [wide[name] for name in node.outputs])
        checks += [
            accuracy(results[name], wide[name], tolerance * scale)
            for name, scale in zip(node.outputs, scales, strict=True)
        ]
    found = worst(checks)
    type = ", ".join(str(one.types[name]) for name in node.outputs)
    return NodeCheck(node=node.name, op=op_label(node.op), type=type, algorithm=algorithm.name,
                     images=choice.piece.images, **asdict(found))  # fmt: skip


def _operands(one: ir.Graph, reference: Mapping[str, Array], image: int) -> dict[str, Array]:
    """The inputs of a node; that image of them where it takes one alone."""
    found = {}
    for name, type in one.inputs.items():
        array = reference[name]
        mine = array if array.shape == type.static_shape else array[image : image + 1]
        with np.errstate(all="ignore"):
            found[name] = np.asarray(mine, type.dtype.numpy)
    return found


# ---------------------------------------------------------------- the command


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
                        help="also check gradients (default: where the model has any)")  # fmt: skip
    parser.add_argument(
        "--tolerance", metavar="X", type=float,
        help="largest error allowed for every op and output, relative to its largest magnitude "
        "(default: what the algorithm of an op promises; 1e-4 for a float32 output of the whole "
        "model, 1e-10 for float64, more where rounding alone moves it further)",
    )  # fmt: skip
    arguments.add_json(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} must not be negative")
    if args.tolerance is not None and not args.tolerance >= 0:
        what = "a number" if args.tolerance != args.tolerance else "zero or more, not negative"
        raise InputError(f"--tolerance {args.tolerance} must be {what}")
    given = arguments.read_arrays(args.input)
    graph = convc.load(args.model)
    graph = arguments.bound(graph, [_implied(graph, given), *args.sizes], 2)
    gradients, missing = _gradients(graph, args.gradients)
    chosen = how(args)
    _check_forced(chosen, [graph] if gradients is None else [graph, gradients])
    progress = Progress()
    with one_thread():
        sections = [_section("forward", graph, given, args, chosen, progress)]
        if gradients is not None:
            known = optimised(graph, chosen["passes"]).nodes
            sections.append(_section("gradients", gradients, given, args, chosen, progress, known))
    progress.done("checked")
    passed = all(check.passed for section in sections for check in section.checks)
    if args.json:
        print(json_text({"passed": passed, "sections": [_json(section) for section in sections]}))
    else:
        print("\n\n".join([*map(_text, sections), *missing, _summary(sections)]))
    return 0 if passed else 1


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


def _check_forced(chosen: How, graphs: Sequence[ir.Graph]) -> None:
    """Raise ``InputError`` for a choice for a node that no graph has."""
    found = [of_graph(chosen["algorithms"], graph, chosen["passes"]) for graph in graphs]
    for name in chosen["algorithms"].keys() - {name for each in found for name in each}:
        names = [node.name for graph in graphs for node in graph.nodes]
        raise InputError(f"--algorithm: no node '{name}'{did_you_mean(name, names)}")


def _section(
    name: str, graph: ir.Graph, given: Mapping[str, Array], args: argparse.Namespace,
    chosen: How, progress: Progress, known: Sequence[ir.Node] = (),
) -> Section:  # fmt: skip
    """Check a graph; its nodes only where they are not ``known`` to be checked already."""
    inputs = {**random_inputs(graph, args.seed), **given}
    ir.check_inputs(graph, inputs)
    passes = chosen["passes"]
    better = optimised(graph, passes)
    nodes = [node for node in better.nodes if node not in known]
    forced = of_graph(chosen["algorithms"], graph, passes)
    same: dict[str, Any] = {
        "target": args.target,
        "threads": args.threads,
        "tolerance": args.tolerance,
        "accuracy": args.accuracy,
        "by_image": args.by_image,
    }
    progress.update(f"{name}: the whole model")
    outputs = check_graph(graph, inputs, passes=passes, algorithms=forced, **same)
    right = all(check.passed for check in outputs)
    guilty = None if right else _guilty(graph, inputs, passes, outputs)
    forced = renamed(forced, graph, better)
    progress.update(f"{name}: each of {len(nodes)} ops alone")
    each = progress if progress.terminal else None
    checks = check_nodes(better, inputs, nodes=nodes, algorithms=forced, progress=each, **same)
    return Section(name, checks, outputs, guilty)


def _guilty(
    graph: ir.Graph, inputs: Mapping[str, Array], passes: Sequence[Pass],
    outputs: Sequence[OutputCheck],
) -> str | None:  # fmt: skip
    """The first pass after which the interpreter computes something else, if there is one."""
    exact = ir.interpret(graph, inputs, "float64")
    for name, after in run_passes(graph, passes):
        found = ir.interpret(after, inputs, "float64")
        for check in outputs:
            if not accuracy(found[check.output], exact[check.output], check.allowed).passed:
                return name
    return None


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
    verdict = "ok" if check.passed else f"WRONG {check.note}".rstrip()
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
