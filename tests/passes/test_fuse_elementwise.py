"""Connected elementwise ops become one node: which, in what order, and with the same meaning."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.passes import fuse_elementwise, optimised
from convc.passes.fuse_elementwise import MOST_BUFFERS, MOST_STEPS
from ir.ops import Elementwise, Expand
from ir.types import Array


def kinds(graph: ir.Graph) -> list[str]:
    """The names of the ops in order."""
    return [node.op.name for node in graph.nodes]


def same_meaning(graph: ir.Graph, seed: int = 0) -> ir.Graph:
    """The fused graph, after comparing its results with those of the graph, bit for bit."""
    rng = np.random.default_rng(seed)
    inputs = {
        name: np.asarray(rng.standard_normal(type.static_shape)).astype(type.dtype.numpy)
        for name, type in graph.inputs.items()
    }
    fused = fuse_elementwise(graph)
    want, got = ir.interpret(graph, inputs), ir.interpret(fused, inputs)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    return fused


def test_a_formula_with_broadcast_operands_becomes_one_node() -> None:
    b = ir.Builder("norm")
    x, mean = b.input("x", "f32[2, 17, 5]"), b.input("mean", "f32[2, 17, 1]")
    scale, offset = b.input("scale", "f32[17, 1]"), b.input("offset", "f32[17]")
    y = b.bias((x - mean) * scale, offset, name="y")
    b.output("z", b.relu(y * y + 1.0, name="z"))
    b.output("y", y)
    fused = same_meaning(b.build())
    assert (
        str(fused)
        == """\
graph norm {
  input %x: f32[2, 17, 5]
  input %mean: f32[2, 17, 1]
  input %scale: f32[17, 1]
  input %offset: f32[17]
  %y, %z = elementwise(%x, %mean, %scale, %offset) {count = 4, steps = ((sub {}, (0, 1)), \
(mul {}, (4, 2)), (bias {}, (5, 3)), (mul {}, (6, 6)), (shift {term = 1.0}, (7,)), \
(relu {}, (8,))), results = (6, 9)} : f32[2, 17, 5], f32[2, 17, 5]
  return z = %z, y = %y
}
"""
    )
    assert ir.parse(str(fused)) == fused


def test_small_operands_are_computed_once_on_their_own() -> None:
    """exp of a channel's number is not repeated for every pixel."""
    b = ir.Builder("small")
    x, s = b.input("x", "f32[3, 4, 5, 5]"), b.input("s", "f32[4, 1, 1]")
    b.output("y", b.relu(x * b.exp(b.shift(s, 1.0))))
    fused = same_meaning(b.build())
    assert [len(node.op.steps) for node in fused.nodes if isinstance(node.op, Elementwise)] == [
        2,
        2,
    ]
    assert fused.types[fused.nodes[0].name].shape == (4, 1, 1)


def test_what_depends_on_a_group_and_feeds_it_keeps_it_apart() -> None:
    """x → square → sum → … → back to x: the second half waits for the sum."""
    b = ir.Builder("around")
    x = b.input("x", "f32[3, 5]")
    twice = x * 2.0
    total = b.reshape(b.sum(b.square(twice), (1,)), (3, 1))
    b.output("y", b.relu(twice / total))
    fused = same_meaning(b.build())
    assert kinds(fused) == ["elementwise", "sum", "reshape", "elementwise"]
    assert [node.outputs for node in fused.nodes[::3]] == [("scale", "square"), ("relu",)]


def test_what_stood_between_moves_before_or_behind() -> None:
    """y reads x's group, which is complete only after it stood in the list; z does not."""
    b = ir.Builder("moved")
    x, w = b.input("x", "f32[4, 4]"), b.input("w", "f32[4, 4]")
    first = b.exp(x, name="first")
    b.output("y", b.transpose(first, (1, 0), name="y"))
    z = b.transpose(w, (1, 0), name="z")
    b.output("last", b.add(first, z, name="last"))
    fused = same_meaning(b.build())
    assert [node.name for node in fused.nodes] == ["z", "first", "y"]


def test_two_groups_that_need_each_other_stay_two() -> None:
    """Each alone could take in its sum's reader; both would wait for each other."""
    b = ir.Builder("crossed")
    x, y = b.input("x", "f32[4, 4]"), b.input("y", "f32[4, 4]")
    a1, b1 = b.exp(x), b.exp(y)
    b2 = b1 + b.transpose(a1, (1, 0))
    a2 = a1 + b.transpose(b1, (1, 0))
    b.output("a", b.relu(a2))
    b.output("b", b.relu(b2))
    same_meaning(b.build())


def test_a_kernel_has_only_so_many_buffers_and_steps() -> None:
    b = ir.Builder("wide")
    total = b.input("x", "f32[7]")
    for number in range(2 * MOST_BUFFERS):
        total = total + b.input(f"x{number}", "f32[7]")
    for _ in range(2 * MOST_STEPS):
        total = b.shift(total, 1.0)
    b.output("y", total)
    fused = same_meaning(b.build())
    assert 5 <= len(fused.nodes) <= 9
    for node in fused.nodes:
        assert isinstance(node.op, Elementwise)
        assert len(node.inputs) + len(node.outputs) <= MOST_BUFFERS
        assert len(node.op.steps) <= MOST_STEPS


def test_types_are_not_mixed_and_integers_left_alone() -> None:
    b = ir.Builder("types")
    x = b.input("x", "f32[3, 5]")
    wide = b.cast(b.relu(x), "f64")
    b.output("y", b.exp(b.shift(wide, 1.0)))
    b.output("z", b.where(b.step(x), b.cast(x, "i64"), b.cast(b.square(x), "i64")))
    fused = same_meaning(b.build())
    assert kinds(fused).count("cast") == 3 and kinds(fused).count("elementwise") == 1


def test_what_broadcasts_anyway_is_not_expanded_first() -> None:
    b = ir.Builder("expanded")
    x, s = b.input("x", "f32[3, 5, 4, 4]"), b.input("s", "f32[5, 1, 1]")
    wide = b.apply(Expand((3, 5, 4, 4)), s)
    b.output("y", x * wide)
    b.output("both", wide + wide)
    fused = same_meaning(b.build())
    assert sorted(kinds(fused)) == ["elementwise", "mul"]
    assert next(node for node in fused.nodes if node.name == "mul").inputs == ("x", "s")


def test_a_convolution_takes_what_finishes_it_first() -> None:
    b = ir.Builder("first")
    x = b.input("x", "f32[1, 3, 8, 8]")
    w = b.weight("w", np.ones((4, 3, 3, 3), np.float32))
    y = b.relu(b.bias(b.conv(x, w), b.weight("b", np.ones(4, np.float32))))
    b.output("y", b.tanh(y) * y)
    assert kinds(optimised(b.build())) == ["fused", "elementwise"]


def test_nothing_to_fuse_is_the_same_graph() -> None:
    b = ir.Builder("alone")
    b.output("y", b.softmax(b.relu(b.input("x", "f32[3, 5]"))))
    graph = b.build()
    assert fuse_elementwise(graph) == graph


class Drawn:
    """A random graph of elementwise ops, sums and transposes on matrices."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = ir.Builder("random")
        self.values = [self.b.input(f"x{i}", "f64[5, 5]") for i in range(3)]
        for _ in range(int(self.rng.integers(3, 25))):
            self.values.append(self.step())
        for number in range(int(self.rng.integers(1, 4))):
            self.b.output(f"y{number}", self.value())
        self.b.output("last", self.values[-1])

    def value(self) -> ir.Value:
        return self.values[int(self.rng.integers(len(self.values)))]

    def step(self) -> ir.Value:
        b, x = self.b, self.value()
        row = b.reshape(b.sum(self.value(), (int(self.rng.integers(2)),)), (5, 1))
        makers = [
            lambda: x + self.value(), lambda: x * self.value(), lambda: x - row * 0.5,
            lambda: b.tanh(x), lambda: b.maximum(x, self.value()), lambda: b.transpose(x, (1, 0)),
            lambda: b.apply(Expand((5, 5)), row), lambda: b.bias(x, b.reshape(row, (5,))),
            lambda: b.where(b.step(x), self.value(), x),
        ]  # fmt: skip
        return makers[int(self.rng.integers(len(makers)))]()


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_meaning(seed: int) -> None:
    graph = Drawn(seed).b.build()
    fused = same_meaning(graph, seed)
    groups = [node.op for node in fused.nodes if isinstance(node.op, Elementwise)]
    steps = sum(len(op.steps) for op in groups) + len(fused.nodes) - len(groups)
    assert steps <= len(graph.nodes)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_run_natively(seed: int) -> None:
    graph = Drawn(seed).b.build()
    rng = np.random.default_rng(seed)
    inputs: dict[str, Array] = {n: rng.standard_normal((5, 5)) for n in graph.inputs}
    model = convc.compile(graph, 1, target=available()[seed % len(available())])
    got, want = model.run(inputs), ir.interpret(graph, inputs)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
