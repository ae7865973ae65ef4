"""Native code beside the interpreter in float64: each node alone, and whole graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

import convc
import ir
from convc import answers
from convc.backend.target import Target, target_named
from convc.passes import Pass, run_passes
from convc.select import Choice, choices
from convc.settings import default_threads, usable_threads
from convc.tools.accuracy import (
    Accuracy,
    accuracy,
    judged,
    judging,
    leaps,
    magnitudes,
    peak,
    worst,
)
from convc.tools.labels import op_label
from convc.tools.progress import Event
from convc.tuning.database import measured

Array: TypeAlias = "np.ndarray[Any, Any]"
TOLERANCES = {"f32": 1e-4, "f64": 1e-10, "i64": 0.0}
MOVED_TIMES = 1.5  # one draw of what moves shows how far, not how far at most
NUMPY_TIMES = 10.0  # a graph may be this much further from float64 than numpy is in its own type


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
    chosen_target = target_named(target)
    count = usable_threads(threads or default_threads())
    times = measured(chosen_target, count)  # as for the whole model
    found = choices(graph, chosen_target, accuracy, algorithms, times, by_image, count)
    wanted = {node.name for node in (graph.nodes if nodes is None else nodes)}
    made = {choice.node.name: choice for choice in found if choice.node.name in wanted}
    checks: list[NodeCheck] = []
    for node, reference in ir.evaluations(graph, inputs, "float64"):
        if node.name in made:
            if progress is not None:
                progress(f"{node.name} alone", len(checks) / len(made))
            checks.append(
                _check_node(made[node.name], reference, chosen_target, threads, tolerance)
            )
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
    themselves. Elements that overflow in numpy too are not compared.
    """
    results = convc.compile(graph, threads, target=target, **how).run(inputs)
    reference = ir.interpret(graph, inputs, "float64")
    doubt: dict[str, tuple[float, Array]] = {}
    checks = []
    for name, value in graph.outputs.items():
        type = graph.types[value]
        relative = TOLERANCES[type.dtype.value] if tolerance is None else tolerance
        bound = relative * peak(reference[name])
        found = accuracy(results[name], reference[name], bound)
        if not found.passed and tolerance is None:
            doubt = doubt or _doubt(graph, inputs, reference)
            distance, where = doubt[name]
            found = judged(results[name], reference[name], max(bound, distance), where)
        checks.append(OutputCheck(output=name, type=str(type), **asdict(found)))
    return checks


def _doubt(
    graph: ir.Graph, inputs: Mapping[str, Array], reference: Mapping[str, Array]
) -> dict[str, tuple[float, Array]]:
    """How far from float64 each output may be without any fault of the code, and where it can be
    judged."""
    rng = np.random.default_rng(0)

    def moved(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        by = TOLERANCES[f"f{8 * array.itemsize}"]
        return (array * (1 + by * rng.standard_normal(array.shape))).astype(array.dtype)

    near = graph.replace(weights={name: moved(array) for name, array in graph.weights.items()})
    beside = ir.interpret(near, {name: moved(array) for name, array in inputs.items()}, "float64")
    own = ir.interpret(graph, inputs)
    found = {}
    for name, exact in reference.items():
        where = judging(own[name], exact)
        numpy, other = (judged(each[name], exact, 0.0, where).error for each in (own, beside))
        found[name] = max(NUMPY_TIMES * numpy, MOVED_TIMES * other), where
    return found


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
        tolerance = answers.tolerance(algorithm, choice.site)
    checks: list[Accuracy] = []
    for image in range(choice.piece.images or 1):
        operands = _operands(one, reference, image)
        results = model.run(operands)
        wide = ir.values(one, operands, "float64")
        arrays = [wide[name] for name in node.inputs]
        scales = magnitudes(node.op, arrays, [wide[name] for name in node.outputs])
        for name, scale in zip(node.outputs, scales, strict=True):
            found = accuracy(results[name], wide[name], tolerance * scale)
            if not found.passed:
                found = _judged(one, operands, wide, results[name], tolerance * scale, name)
            checks.append(found)
    found = worst(checks)
    type = ", ".join(str(one.types[name]) for name in node.outputs)
    return NodeCheck(node=node.name, op=op_label(node.op), type=type, algorithm=algorithm.name,
                     images=choice.piece.images, **asdict(found))  # fmt: skip


def _judged(
    one: ir.Graph, operands: Mapping[str, Array], wide: Mapping[str, Array], result: Array,
    bound: float, name: str,
) -> Accuracy:  # fmt: skip
    """A result that is further from float64 than ``bound``, where numpy is not, and where what the
    root of a fused op may be off does not lead to another step."""
    (node,), reference = one.nodes, wide[name]
    own = ir.values(one, operands)[name]
    reach = leaps(node.op, [wide[each] for each in node.inputs], reference, bound)
    with np.errstate(all="ignore"):
        near = abs(result - reference) <= reach + bound
    where = judging(own, reference, bound) & ~((reach > bound) & near)
    return judged(result, reference, bound, where)


def _operands(one: ir.Graph, reference: Mapping[str, Array], image: int) -> dict[str, Array]:
    """The inputs of a node; that image of them where it takes one alone."""
    found = {}
    for name, type in one.inputs.items():
        array = reference[name]
        mine = array if array.shape == type.static_shape else array[image : image + 1]
        with np.errstate(all="ignore"):
            found[name] = np.asarray(mine, type.dtype.numpy)
    return found


def guilty_pass(
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
