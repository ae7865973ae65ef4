"""Scales and shifts of channels are folded into weights."""

import numpy as np
import pytest

import ir
from convc.passes.fold_affine import fold_affine
from convc.passes.fold_constants import fold_constants
from convc.passes.simplify import simplify
from tests.passes.common import Draft, after, body, kinds, same


def conv(b):
    return b.conv(b.image(2, 3, 5, 5), b.drawn(6, 3, 3, 3), name="conv")


def test_batch_normalisation_goes_into_the_convolution_before_it():
    b = Draft()
    y = b.batch_norm(conv(b), *(b.drawn(6) for _ in range(4)), name="normal")
    b.output("y", b.relu(y, name="relu"))
    graph = after(ir.expand(b.build()), fold_constants, fold_affine)
    assert body(graph) == [
        "conv = conv(x, conv.scaled)",
        "normal = bias(conv, normal.shift)",
        "relu = relu(normal)",
    ]
    assert sorted(graph.weights) == ["conv.scaled", "normal.shift"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("root", ["conv", "transposed", "dense", "dense with w transposed"])
def test_every_root(root, groups):
    b = Draft()
    if root == "conv":
        y = b.conv(b.image(2, 4, 5, 5), b.drawn(6, 4 // groups, 3, 3), 2, 1, groups=groups)
    elif root == "transposed":
        y = b.conv_transpose(b.image(2, 4, 3, 3), b.drawn(4, 6 // groups, 2, 2), (6, 6), 2,
                             groups=groups)  # fmt: skip
    else:
        flip = root != "dense"
        y = b.matmul(b.image(3, 4), b.drawn(*((6, 4) if flip else (4, 6))), transpose_b=flip)
    column = (6, *(1,) * (y.type.rank - 2))
    y = b.sub(b.drawn(*column), b.div(b.mul(y, b.drawn(*column)), b.drawn(*column)))
    b.output("y", b.shift(b.scale(y, -3.0), 0.5))
    assert len(after(b.build(), fold_affine).nodes) == 2


def test_a_scale_alone_leaves_no_bias():
    b = Draft()
    b.output("y", b.scale(conv(b), 3.0, name="three"))
    assert body(after(b.build(), fold_affine)) == ["three = conv(x, conv.scaled)"]


def test_a_bias_alone_stays_as_it_is():
    b = Draft()
    b.output("y", b.bias(conv(b), b.drawn(6)))
    graph = b.build()
    assert fold_affine(graph) is graph


KEPT = {
    "weights that are not known": lambda b: b.scale(
        b.conv(b.image(2, 3, 5, 5), b.image(6, 3, 3, 3)), 2.0
    ),
    "by columns": lambda b: b.mul(conv(b), b.drawn(3)),
    "wider": lambda b: b.mul(conv(b), b.drawn(2, 1, 1, 1, 1)),
    "a divisor of 0": lambda b: b.div(conv(b), b.weight("zero", np.zeros(()))),
    "inverse": lambda b: b.div(b.drawn(6, 1, 1), conv(b)),
    "twice": lambda b: (lambda y: b.mul(y, y))(conv(b)),
    "lost to 0": lambda b: b.scale(conv(b), 1e-320),
}


@pytest.mark.parametrize("emit", KEPT.values(), ids=KEPT)
def test_what_cannot_be_folded_stays(emit):
    b = Draft()
    b.output("y", emit(b))
    graph = b.build()
    assert fold_affine(graph) is graph


def test_what_others_read_stays():
    b = Draft()
    y = conv(b)
    b.output("y", b.scale(y, 2.0))
    b.output("conv", y)
    graph = b.build()
    assert fold_affine(graph) is graph


def test_a_chain_elsewhere_becomes_a_scale_and_a_shift():
    b = Draft()
    x = b.image(2, 3, 4)
    y = b.batch_norm(x, *(b.drawn(3) for _ in range(4)), name="normal")
    b.output("y", b.relu(y))
    b.output("twice", b.scale(x, 2.0))
    graph = after(ir.expand(b.build()), fold_constants, fold_affine)
    assert kinds(graph) == ["mul", "bias", "relu", "scale"]


@pytest.mark.parametrize("seed", range(20))
def test_random_chains_keep_their_meaning(seed):
    b = Draft(seed)
    y = conv(b)
    y = b.relu(y) if b.pick(0, 0, 1) else y
    for number in range(b.pick(2, 5, 9)):
        other = b.pick(b.drawn(), b.drawn(6, 1, 1), b.drawn(1, 6, 1, 1), b.drawn(3), b.image(1))
        kind = b.pick("add", "sub", "mul", "div", "scale", "shift", "bias", "relu")
        if kind in ("scale", "shift"):
            y = getattr(b, kind)(y, float(b.rng.uniform(0.5, 2)))
        elif kind == "bias":
            y = b.bias(y, b.drawn(6))
        elif kind == "relu":
            y = b.relu(y)
        else:
            pair = [y, other][:: b.pick(1, -1) if kind != "div" else 1]
            y = getattr(b, kind)(*pair)
        if b.pick(0, 0, 0, 1):
            b.output(f"y{number}", y)
    b.output("y", y)
    before = ir.dead_code(b.build())
    assert len(after(before, simplify, fold_affine).nodes) <= len(before.nodes)


def test_in_float32_it_stays_near():
    b = ir.Builder()
    rng = np.random.default_rng(0)
    x = b.input("x", "f32[1, 8, 6, 6]")
    w = b.weight("w", rng.standard_normal((16, 8, 3, 3), np.float32))
    stats = [b.weight(f"s{n}", rng.uniform(0.5, 2, 16).astype(np.float32)) for n in range(4)]
    b.output("y", b.batch_norm(b.conv(x, w), *stats))
    graph = ir.expand(b.build())
    folded = fold_affine(fold_constants(graph))
    assert {array.dtype for array in folded.weights.values()} == {np.dtype(np.float32)}
    same(graph.with_dtype("f64"), folded.with_dtype("f64"), 1e-6)
