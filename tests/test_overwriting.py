"""Results written over operands: the same bits, and only where nobody needs the operand later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.algorithms import Site
from convc.algorithms.bodies import BODIES
from convc.backend.target import available, target_named
from convc.lowering import Lowering
from convc.passes import optimised
from convc.plan import Plan, plan
from convc.program import Program
from convc.select import candidates
from ir.loops import Kernel, KernelBuilder, interpret, overwriting, verify
from ir.ops import Elementwise, Expand, Fused
from tests.examples import select
from tests.loops_runner import natively, run

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((2, 20, 9, 11), (20, 20, 3, 3), {"pad": 1}),
    "1x1": ((1, 33, 7, 7), (17, 33, 1, 1), {}),
    "strided": ((1, 5, 9, 9), (16, 5, 3, 3), {"stride": 2}),
    "groups": ((2, 32, 6, 5), (48, 16, 3, 3), {"pad": 1, "groups": 2}),
    "depthwise": ((1, 20, 13, 13), (20, 1, 3, 3), {"pad": 1, "groups": 20}),
    "1-D": ((3, 4, 40), (6, 4, 9), {"pad": 4}),
    "3-D": ((1, 3, 5, 6, 7), (18, 3, 3, 3, 3), {"pad": 1}),
}
TARGETS = pytest.mark.parametrize("target", available())


def between(example: ir.Example) -> ir.Graph:
    """The example in a graph where its operands are computed, and its results read again."""
    b = ir.Builder("between")
    values = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    moved = [-value if value.type.dtype.is_float else value for value in values]
    node = b.apply(example.op, *moved, name="y")
    for number, each in enumerate(node if isinstance(node, tuple) else (node,)):
        b.output(f"out{number}", -each)
    return b.build()


def shortcut(shape: str, transposed: bool) -> ir.Graph:
    """A convolution that adds a tensor as it stores, with what follows."""
    x, w, how = SHAPES[shape]
    b = ir.Builder("shortcut")
    weights = b.input("w", f"f32[{', '.join(map(str, w))}]")
    if transposed:
        x = (x[0], w[0], *x[2:])
    image = b.input("x", f"f32[{', '.join(map(str, x))}]")
    y = (b.conv_transpose if transposed else b.conv)(image, weights, name="y", **how)
    added = b.exp(b.input("r", y.type))
    b.output("z", b.sum(b.relu(y + added), (1,)))
    return optimised(b.build())


def inputs_of(graph: ir.Graph) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        if type.dtype.is_float
        else rng.integers(0, 3, type.static_shape)
        for name, type in graph.inputs.items()
    }


def lowered(graph: ir.Graph, target: str, forced: dict[str, str]) -> Program:
    machine = target_named(target)
    return Lowering(graph, select(graph, machine, forced=forced), machine).program()


def same_bits(program: Program, graph: ir.Graph, target: str) -> Plan:
    """The plan of a program that computes what it computes apart, the tasks in any order."""
    inputs, made = inputs_of(graph), plan(program)
    apart = run(plan(program, overwriting=False), inputs, natively(target_named(target)))
    for order in (None, lambda tasks: reversed(range(tasks))):
        over = run(made, inputs, natively(target_named(target), order))
        for name, want in apart.items():
            np.testing.assert_array_equal(over[name], want, err_msg=name)
    return made


def overwritten(made: Plan) -> list[str]:
    """The nodes whose steps write over an operand."""
    steps = (step for step in made.program.steps if step not in made.prepare)
    pairs = zip(steps, made.steps, strict=True)
    return [step.node for step, own in pairs if len(own.slots) < len(step.slots)]


def of_the_results_type(example: ir.Example) -> bool:
    results = example.op.infer(*example.inputs)
    return results[0].size != 0 and results[0] in example.inputs


ELEMENTWISE = [
    pytest.param(example, id=f"{op.name}-{example.name}")
    for op in ir.OPS
    for example in op.examples()
    if op is Elementwise or (op in BODIES and op is not Expand and of_the_results_type(example))
]


@TARGETS
@pytest.mark.parametrize("example", ELEMENTWISE)
def test_elementwise_results_lie_where_an_operand_lay(example: ir.Example, target: str) -> None:
    graph = between(example)
    made = same_bits(lowered(graph, target, {}), graph, target)
    assert "y" in overwritten(made) or not of_the_results_type(example)


@TARGETS
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_writes_over_what_it_adds(shape: str, transposed: bool, target: str) -> None:
    """Whichever algorithm says that it may; at least direct and Winograd do."""
    graph = shortcut(shape, transposed)
    (node,) = (node for node in graph.nodes if isinstance(node.op, Fused))
    site, done = Site.of(graph, node, target_named(target)), set()
    for candidate in candidates(site):
        if candidate.reason is None:
            name = candidate.algorithm.name
            made = same_bits(lowered(graph, target, {node.name: name}), graph, target)
            if node.name in overwritten(made):
                done.add(name)
    assert "direct" in done
    assert done & {"winograd2", "winograd4"} or shape not in ("3x3", "3-D")


def fused_into(build: Any) -> list[str]:
    """The nodes that overwrite, of a graph of elementwise ops on x: f32[5, 7]."""
    b = ir.Builder("chain")
    x = b.exp(b.input("x", "f32[5, 7]"))
    b.output("y", -build(b, x))
    graph = b.build()
    target = target_named(None).name
    return overwritten(same_bits(lowered(graph, target, {}), graph, target))


def test_only_an_operand_that_nobody_reads_later_is_written_over() -> None:
    assert fused_into(lambda b, x: b.relu(x, name="r")) == ["r"]
    assert fused_into(lambda b, x: b.add(b.relu(x, name="r"), x, name="s")) == ["s"]
    assert fused_into(lambda b, x: b.tanh(b.relu(x, name="r"), name="s")) == ["r", "s"]


def test_an_operand_that_is_read_twice_or_broadcast_stays() -> None:
    assert fused_into(lambda b, x: b.mul(x, x, name="m")) == []
    assert fused_into(lambda b, x: b.add(b.input("z", "f32[3, 5, 7]"), x, name="m")) == []


def test_weights_and_what_is_prepared_from_them_are_never_written_over() -> None:
    b = ir.Builder("constant")
    w = b.exp(b.weight("w", np.ones((5, 7), np.float32)))
    b.output("y", -b.add(w, b.exp(b.input("x", "f32[5, 7]")), name="sum"))
    model = convc.compile(b.build(), 1, passes=())
    x = np.zeros((5, 7), np.float32)
    first = model.run({"x": x})["y"]
    np.testing.assert_array_equal(model.run({"x": x})["y"], first)
    np.testing.assert_allclose(first, -1 - np.e, rtol=1e-6)


def axpy() -> Kernel:
    k = KernelBuilder("axpy")
    x, y = k.read("x", "f32", (6,)), k.read("y", "f32", (6,))
    z = k.write("z", "f32", (6,))
    with k.loop("i", 3) as i, k.loop("v", 2, "vector") as v:
        k.store(z[i * 2 + v], x[i * 2 + v] + y[i * 2 + v])
    return k.build()


def test_the_kernel_that_overwrites_is_one_like_any_other() -> None:
    kernel = overwriting(axpy(), {"y": "z"})
    verify(kernel)
    assert [param.name for param in kernel.params] == ["x", "z"]
    x, z = np.arange(6, dtype=np.float32), np.ones(6, np.float32)
    interpret(kernel, [x, z])
    np.testing.assert_array_equal(z, np.arange(6) + 1)


def test_a_result_that_is_given_twice_is_computed_once() -> None:
    b = ir.Builder("twice")
    x = b.tanh(b.input("x", "f32[4, 8]"))
    op = Elementwise(1, ((ir.ops.Exp(), (0,)),), (1, 1))
    for number, y in enumerate(b.emit(op, (x,))):
        b.output(f"y{number}", -y)
    graph = b.build()
    program = lowered(graph, target_named(None).name, {})
    assert overwritten(same_bits(program, graph, target_named(None).name)) == ["elementwise"]
    found = convc.compile(graph, 1, passes=()).run(inputs_of(graph))
    want = ir.interpret(graph, inputs_of(graph), "float64")
    for name, array in found.items():
        np.testing.assert_allclose(array, want[name], rtol=1e-6)
