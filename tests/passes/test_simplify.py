"""Canonical forms."""

import numpy as np
import pytest

import ir
from convc.passes.simplify import simplify
from tests.passes.common import Draft, after, body, kinds


def drafted(emit, *shape):
    b = Draft()
    x = b.image(*shape)
    b.output("y", emit(b, x))
    return after(b.build(), simplify)


NOTHING = {
    "reshape": lambda b, x: b.reshape(x, (2, 3, 4)),
    "two reshapes": lambda b, x: b.reshape(b.flatten(x), (2, 3, 4)),
    "transpose": lambda b, x: b.transpose(x, (0, 1, 2)),
    "two transposes": lambda b, x: b.transpose(b.transpose(x, (2, 0, 1)), (1, 2, 0)),
    "expand": lambda b, x: b.expand(x, (2, 3, 4)),
    "identity": lambda b, x: b.identity(x),
    "slice": lambda b, x: b.slice(x, {1: (0, 3)}),
    "pad": lambda b, x: b.pad(x, {1: 0}),
    "concat": lambda b, x: b.concat([x]),
    "concat with nothing": lambda b, x: b.concat([x, b.weight("w", np.zeros((2, 0, 4)))]),
    "reverse": lambda b, x: b.reverse(x, ()),
    "sum over nothing": lambda b, x: b.sum(x, ()),
    "scale by 1": lambda b, x: b.scale(x, 1.0),
    "add 0": lambda b, x: b.shift(x, 0.0),
    "times ones": lambda b, x: b.mul(b.weight("w", np.ones((3, 1))), x),
    "plus zeros": lambda b, x: b.add(b.weight("w", np.zeros(4)), x),
    "minus 0": lambda b, x: b.sub(x, b.weight("w", np.zeros(()))),
    "divided by ones": lambda b, x: b.div(x, b.weight("w", np.ones(4))),
    "bias of zeros": lambda b, x: b.bias(x, b.weight("w", np.zeros(3))),
}


@pytest.mark.parametrize("emit", NOTHING.values(), ids=NOTHING)
def test_what_does_nothing_goes(emit):
    graph = drafted(emit, 2, 3, 4)
    assert not graph.nodes
    assert graph.outputs == {"y": "x"}
    assert not graph.weights


SIMPLER = {
    "three reshapes": (lambda b, x: b.flatten(b.flatten(b.reshape(x, (1, 24)))), ["reshape"]),
    "three transposes": (
        lambda b, x: b.transpose(b.transpose(b.transpose(x, (2, 0, 1)), (2, 0, 1)), (0, 2, 1)),
        ["transpose"],
    ),
    "plus a number": (lambda b, x: b.add(x, b.weight("w", np.full(4, 3.0))), ["shift"]),
    "minus a number": (lambda b, x: b.sub(x, b.weight("w", np.array(3.0))), ["shift"]),
    "times a number": (lambda b, x: b.mul(b.weight("w", np.full((3, 4), 3.0)), x), ["scale"]),
    "divided by 4": (lambda b, x: b.div(x, 4.0), ["scale"]),
    "divided by 3": (lambda b, x: b.div(x, 3.0), ["constant", "div"]),
    "plus channels": (lambda b, x: b.add(b.drawn(3, 1), x), ["bias"]),
    "minus channels": (lambda b, x: b.sub(x, b.drawn(1, 3, 1)), ["bias"]),
    "channels minus": (lambda b, x: b.sub(b.drawn(3, 1), x), ["sub"]),
    "plus columns": (lambda b, x: b.add(x, b.drawn(4)), ["add"]),
    "wider": (lambda b, x: b.add(x, b.weight("w", np.zeros((5, 2, 3, 4)))), ["add"]),
    "not a number": (lambda b, x: b.mul(x, b.weight("w", np.full(4, np.nan))), ["mul"]),
}


@pytest.mark.parametrize(("emit", "wanted"), SIMPLER.values(), ids=SIMPLER)
def test_what_can_be_said_more_simply(emit, wanted):
    assert kinds(drafted(emit, 2, 3, 4)) == wanted


def test_moving_extents_of_1_moves_nothing():
    graph = drafted(lambda b, x: b.flatten(b.transpose(x, (0, 3, 2, 1))), 2, 1, 5, 1)
    assert body(graph) == ["reshape = reshape(x)"]
    assert kinds(drafted(lambda b, x: b.sum(x, (1, 3)), 2, 1, 5, 1)) == ["reshape"]


def test_values_that_others_read_stay():
    b = Draft()
    x = b.image(2, 12)
    first = b.reshape(x, (2, 3, 4), name="first")
    b.output("first", b.relu(first, name="relu"))
    b.output("second", b.reshape(first, (4, 6), name="second"))
    graph = after(b.build(), simplify)
    assert body(graph) == ["first = reshape(x)", "relu = relu(first)", "second = reshape(x)"]


def test_the_golden_text():
    b = Draft()
    x = b.image(2, 3, 4)
    y = b.transpose(b.scale(b.transpose(x, (0, 2, 1)), 1.0), (0, 2, 1))
    b.output("y", b.add(y, b.weight("w", np.arange(3.0).reshape(3, 1)), name="sum"))
    assert (
        ir.to_text(simplify(b.build()))
        == """\
graph draft {
  input %x: f64[2, 3, 4]
  weight %sum.bias: f64[3]
  %sum = bias(%x, %sum.bias) : f64[2, 3, 4]
  return y = %sum
}
"""
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_keep_their_meaning(seed):
    b = Draft(seed)
    value = b.image(2, 3, 4)
    for _ in range(10):
        kind = b.pick("reshape", "transpose", "scale", "add", "slice", "sub", "sum")
        if kind == "reshape":
            value = b.reshape(value, b.pick((-1, 1, 2), (2, -1), (1, -1, 2)))
        elif kind == "transpose":
            value = b.transpose(value, tuple(b.rng.permutation(value.type.rank).tolist()))
        elif kind == "scale":
            value = b.scale(value, b.pick(1.0, 2.0))
        elif kind == "slice":
            value = b.slice(value, {0: (0, None)})
        elif kind == "sum":
            value = b.concat([b.sum(value, (), keepdims=True), value], 0)
        else:
            channel = (value.shape[1], *(1,) * (value.type.rank - 2))
            value = getattr(b, kind)(value, b.pick(b.drawn(), b.drawn(*channel)))
    b.output("y", value)
    before = b.build()
    graph = after(before, simplify)
    assert len(graph.nodes) <= len(before.nodes)
    assert simplify(graph) is graph
