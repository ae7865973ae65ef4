"""What depends on weights alone is computed once."""

import numpy as np
import pytest

import ir
from convc.passes.fold_constants import fold_constants
from ir.ops import Expand
from tests.passes.common import Draft, after, body, kinds


def test_a_chain_on_weights_becomes_one_weight():
    b = Draft()
    x = b.image(2, 3, 5, 5)
    w = b.reverse(b.weight("w", np.arange(54.0).reshape(2, 3, 3, 3)), (2, 3), name="flipped")
    b.output("y", b.conv(x, b.scale(w, 2.0, name="doubled"), name="y"))
    graph = after(b.build(), fold_constants)
    assert body(graph) == ["y = conv(x, doubled)"]
    assert list(graph.weights) == ["doubled"]
    assert (
        graph.weights["doubled"][0, 0].tolist() == (2 * np.arange(9.0)[::-1].reshape(3, 3)).tolist()
    )


def test_an_output_may_be_constant():
    b = Draft()
    b.output("y", b.sqrt(b.drawn(3), name="root"))
    graph = after(b.build(), fold_constants)
    assert not graph.nodes
    assert graph.outputs == {"y": "root"}


def test_much_is_not_made_of_little():
    b = Draft()
    x = b.image(1, 500_000)
    large = b.apply(Expand((1, 500_000)), b.drawn(1), name="large")
    b.output("y", b.add(x, large))
    assert "expand" in kinds(fold_constants(b.build()))


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs_keep_their_meaning(seed):
    b = Draft(seed)
    values = [b.image(2, 4, 3), b.drawn(2, 4, 3), b.drawn(4, 1)]
    for _ in range(12):
        left, right = (values[int(b.rng.integers(len(values)))] for _ in range(2))
        kind = b.pick("add", "mul", "sqrt", "sum")
        if kind == "sum":
            values.append(b.sum(left, -1, keepdims=True))
        elif kind == "sqrt":
            values.append(b.sqrt(b.abs(left)))
        else:
            values.append(getattr(b, kind)(left, right))
    for number, value in enumerate(values[-3:]):
        b.output(f"y{number}", value)
    graph = after(ir.dead_code(b.build()), fold_constants)
    for node in graph.nodes:
        assert any(name not in graph.weights for name in node.inputs)
