"""Transposes and reshapes that go down the graph."""

import pytest

from convc.passes import optimised
from convc.passes.move_transposes import move_transposes
from ir.ops import ReduceMax, ReduceMin
from tests.passes.common import Draft, after, body, kinds

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # channels


def moved(b):
    return after(b.build(), move_transposes)


def test_a_network_with_channels_last_loses_the_transposes_between():
    b = Draft()
    x = b.transpose(b.image(2, 5, 6, 3), FIRST)
    for outer, inner in ((4, 3), (5, 4)):
        y = b.transpose(b.conv(x, b.whole(outer, inner, 3, 3), pad=1), LAST)
        x = b.transpose(b.relu(y + b.whole(outer)), FIRST)
    b.output("y", b.transpose(x, LAST))
    graph = b.build()
    assert kinds(after(graph, move_transposes)) == [
        "transpose", "conv", "add", "relu", "conv", "add", "relu", "transpose"]  # fmt: skip
    assert kinds(optimised(graph)) == ["transpose", "fused", "fused", "transpose"]


def test_a_reshape_lets_the_convolution_finish_its_result():
    b = Draft()
    y = b.conv(b.image(2, 3, 4, 4), b.whole(5, 3, 1, 1))
    b.output("y", b.relu(b.reshape(y, (2, 80)), name="r"))
    assert body(moved(b)) == ["conv = conv(x, w)", "r = relu(conv)", "r.reshape = reshape(r)"]
    assert kinds(optimised(b.build())) == ["fused", "reshape"]


def test_moves_of_both_kinds_one_in_the_other():
    b = Draft()
    y = b.transpose(b.image(2, 3, 4, 5), LAST)
    y = b.reshape(b.relu(b.reshape(y, (2, 60))), (2, 4, 5, 3))
    b.output("y", -b.transpose(y, FIRST))
    assert kinds(moved(b)) == ["relu", "scale"]


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda b, x: b.sum(x, (1, 2)), ["sum"]),
        (lambda b, x: b.apply(ReduceMax((3,)), x), ["reduce_max"]),
        (lambda b, x: b.apply(ReduceMin((0, 2)), x), ["reduce_min", "transpose"]),
        (lambda b, x: b.softmax(x, 3), ["softmax", "transpose"]),
        (lambda b, x: b.log_softmax(x, 1), ["log_softmax", "transpose"]),
        (lambda b, x: b.pad(x, {1: (-1, 2), 2: -2, 3: (1, 0)}, 1.5), ["pad", "transpose"]),
        (lambda b, x: b.slice(x, {1: (1, None), 2: (0, None, 2)}), ["slice", "transpose"]),
        (lambda b, x: b.concat([b.transpose(b.image(2, 3, 1, 5), LAST), x], 1),
         ["concat", "transpose"]),
        (lambda b, x: b.where(x, x * 2.0, 0.5), 
         ["scale", "constant", "where", "transpose"]),
        (lambda b, x: x + b.whole(5, 1), ["add", "transpose"]),
        (lambda b, x: x * b.whole(1, 1, 1, 1), ["mul", "transpose"]),
        (lambda b, x: b.whole(4, 1, 3) - x, ["sub", "transpose"]),
    ],
)  # fmt: skip
def test_ops_that_can_be_passed(build, left):
    b = Draft()
    b.output("y", build(b, b.transpose(b.image(2, 3, 4, 5), LAST)))
    assert kinds(moved(b)) == left


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: b.image(2, 4, 5, 3) + x,
        lambda b, x: b.whole(1, 2, 4, 5, 3) + x,
        lambda b, x: b.whole(1, 1, 1, 1, 1) + x,
        lambda b, x: b.matmul(x, b.whole(3, 2)),
        lambda b, x: b.reverse(x, (1,)),
        lambda b, x: b.concat([x, b.image(2, 4, 5, 1)], 3),
    ],
    ids=["another operand", "more axes", "more axes of 1", "matmul", "reverse", "concat"],
)
def test_what_cannot_be_passed_stays(build):
    b = Draft()
    b.output("y", build(b, b.transpose(b.image(2, 3, 4, 5), LAST)))
    graph = b.build()
    assert after(graph, move_transposes) is graph


def test_a_value_that_is_needed_as_it_is_is_not_computed_from_another():
    b = Draft()
    x = b.transpose(b.image(2, 3, 4, 5), LAST)
    b.output("x", x)
    b.output("y", b.relu(x))
    graph = b.build()
    assert after(graph, move_transposes) is graph


def test_not_where_more_would_be_transposed():
    b = Draft()
    x = b.transpose(b.image(2, 3, 4, 5), LAST)
    for number, y in enumerate((b.relu(x), b.exp(x))):
        b.output(f"y{number}", b.matmul(y, b.whole(3, 2)))
    graph = b.build()
    assert after(graph, move_transposes) is graph


def test_what_does_not_pay_somewhere_does_not_hinder_it_elsewhere():
    b = Draft()
    x = b.transpose(b.image(2, 30, 40, 50), LAST)
    for number, y in enumerate((b.relu(x), b.exp(x))):
        b.output(f"y{number}", b.matmul(y, b.whole(30, 2)))
    y = b.transpose(b.conv(b.image(2, 3, 4, 4), b.whole(5, 3, 1, 1)), LAST)
    b.output("z", b.conv(b.transpose(b.relu(y), FIRST), b.whole(2, 5, 1, 1)))
    assert kinds(moved(b)).count("transpose") == 1


def test_a_weight_of_many_readers_is_moved_once():
    b = Draft()
    w = b.whole(3)
    for number in range(4):
        b.output(f"y{number}", b.transpose(b.image(2, 3, 4, 5), LAST) * w)
    better = moved(b)
    assert kinds(better).count("transpose") == 4
    assert len(better.weights) == 1


def test_reshapes_of_different_values_do_not_meet():
    b = Draft()
    x = b.reshape(b.image(2, 12), (2, 3, 4)) + b.reshape(b.image(4, 6), (2, 3, 4))
    b.output("y", x)
    assert kinds(moved(b)) == ["reshape", "reshape", "add"]


def test_random_numbers_keep_their_places():
    b = Draft()
    x = b.transpose(b.image(2, 3, 4, 5), LAST)
    b.output("y", b.dropout(b.relu(x), 0.5, b.input("seed", "i64[]")))
    moved(b)


@pytest.mark.parametrize("seed", range(20))
def test_random_chains_keep_their_meaning(seed):
    b = Draft(seed)
    values = [b.image(2, 3, 4, 5)]
    for _ in range(12):
        x = values[-b.pick(*range(1, min(len(values), 3) + 1))]
        kind = b.pick("transpose", "transpose", "reshape", "relu", "weight", "add", "sum", "back")
        if kind == "transpose" or kind == "back":
            x = b.transpose(x, tuple(b.rng.permutation(x.type.rank).tolist()))
        elif kind == "reshape":
            whole = x.type.size
            x = b.reshape(x, b.pick((whole,), (2, whole // 2), (whole // 2, 1, 2)))
        elif kind == "weight":
            x = x * b.whole(*(b.pick(1, n) for n in x.shape))
        elif kind == "add":
            alike = [y for y in values if y.shape == x.shape]
            x = x + b.pick(*alike)
        elif kind == "sum" and x.type.rank > 2 and x.shape[-1] % 2:
            x = b.sum(x, (x.type.rank - 1,))
        else:
            x = b.tanh(x)
        values.append(x)
    b.output("y", values[-1])
    b.output("z", values[b.pick(*range(len(values)))])
    moved(b)
