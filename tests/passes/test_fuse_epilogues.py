"""What a convolution or product takes into its own kernel, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.passes import fuse_epilogues, optimised
from ir.ops import Fused
from ir.types import Array

CHANNELS = 20


def layer(finish, *operands: str, dtype: str = "f32") -> ir.Graph:
    """A convolution of [2, 3, 6, 5] to [2, 20, 6, 5] and what follows it."""
    b = ir.Builder("layer")
    x = b.input("x", f"{dtype}[2, 3, 6, 5]")
    w = b.input("w", f"{dtype}[{CHANNELS}, 3, 3, 3]")
    rest = [b.input(f"s{i}", f"{dtype}[{shape}]") for i, shape in enumerate(operands)]
    b.output("y", finish(b, b.conv(x, w, pad="same"), *rest))
    return b.build()


def fused(graph: ir.Graph) -> list[str]:
    """The ops in the graph after the pass, those of epilogues joined."""
    names = []
    for node in fuse_epilogues(graph).nodes:
        parts = (node.op.root, *node.op.epilogue) if isinstance(node.op, Fused) else (node.op,)
        names.append("+".join(part.name for part in parts))
    return names


TAKEN = {
    "residual": (lambda b, y, s, t: b.relu(s + b.bias(y, t)), ("2, 20, 6, 5", "20"),
                 "conv+bias+add+relu"),
    "affine": (lambda b, y, s, t: b.clip(y * s + t, 0, 6), ("20, 1, 1", "1, 20, 1, 1"),
               "conv+mul+add+clip"),
    "gate": (lambda b, y, s: b.leaky_relu(s * y), ("2, 20, 1, 1",), "conv+mul+leaky_relu"),
    "numbers": (lambda b, y, s: b.abs(y * 2 - 1 - s), ("",), "conv+scale+shift+sub+abs"),
    "gradient": (lambda b, y, s: b.apply(ir.ops.ReluGrad(), s, y), ("2, 20, 6, 5",),
                 "conv+relu_grad"),
    "quotient": (lambda b, y, s: b.maximum(s, b.sqrt(b.square(y)) / s), ("20, 1, 1",),
                 "conv+square+sqrt+div+maximum"),
}  # fmt: skip
LEFT = {
    "long function": (lambda b, y: b.tanh(y), (), ["conv", "tanh"]),
    "function in between": (lambda b, y: b.relu(b.silu(b.relu(y))), (),
                            ["conv+relu", "silu", "relu"]),
    "wrong side": (lambda b, y, s: s - y, ("20, 1, 1",), ["conv", "sub"]),
    "wrong side of a gradient": (lambda b, y, s: b.apply(ir.ops.ReluGrad(), y, s),
                                 ("2, 20, 6, 5",), ["conv", "relu_grad"]),
    "row": (lambda b, y, s: y + s, ("5",), ["conv", "add"]),
    "map": (lambda b, y, s: y + s, ("20, 6, 5",), ["conv", "add"]),
    "position": (lambda b, y, s: y * s, ("2, 1, 6, 5",), ["conv", "mul"]),
    "larger": (lambda b, y, s: y * s, ("3, 1, 1, 1, 1",), ["conv", "mul"]),
    "itself": (lambda b, y: y * y, (), ["conv", "mul"]),
    "two readers": (lambda b, y: b.relu(y) + b.abs(y), (), ["conv", "relu", "abs", "add"]),
    "choice": (lambda b, y, s: b.where(y, s, s), ("2, 20, 6, 5",), ["conv", "where"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_finishes_a_result_is_part_of_it(name: str) -> None:
    finish, operands, wanted = TAKEN[name]
    assert fused(layer(finish, *operands)) == [wanted]


def test_an_op_that_joins_two_chains_ends_one_of_them() -> None:
    b = ir.Builder("block")
    x = b.input("x", "f32[1, 3, 6, 5]")
    w, v = (b.input(name, "f32[20, 3, 3, 3]") for name in "wv")
    s, t = (b.input(name, "f32[20]") for name in "st")
    left = b.bias(b.conv(x, w, pad="same"), s)
    b.output("y", b.relu(left + b.bias(b.conv(x, v, pad="same"), t)))
    assert sorted(fused(b.build())) == ["conv+bias", "conv+bias+add+relu"]


@pytest.mark.parametrize("name", LEFT)
def test_what_does_not_is_left(name: str) -> None:
    finish, operands, wanted = LEFT[name]
    assert fused(layer(finish, *operands)) == wanted


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("algorithm", ["direct", "direct_plain", "winograd2", "im2col", "fft"])
@pytest.mark.parametrize("name", TAKEN)
def test_every_algorithm_finishes_alike(name: str, algorithm: str, target: str) -> None:
    finish, operands, _ = TAKEN[name]
    graph = layer(finish, *operands, dtype="f64")
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        n: np.asarray(rng.uniform(0.5, 2, type.static_shape)) for n, type in graph.inputs.items()
    }
    inputs["w"] -= 1.25
    node = optimised(graph).nodes[-1].name
    try:
        model = convc.compile(graph, 1, algorithms={node: algorithm}, target=target)
    except convc.AlgorithmError as error:
        assert algorithm == "direct_plain" and "adds a tensor" in str(error)
        return
    want = ir.interpret(graph, inputs)["y"]
    np.testing.assert_allclose(model.run(inputs)["y"], want, rtol=1e-8, atol=1e-9)


def test_a_backward_pass_has_no_rectifier_of_its_own() -> None:
    b = ir.Builder("backward")
    x = b.input("x", "f32[1, 8, 9, 9]")
    w = [b.weight(f"w{i}", np.ones((8, 8, 3, 3), np.float32)) for i in range(3)]
    y = x
    for weight in w:
        y = b.relu(b.conv(y, weight, pad=1))
    b.output("y", y)
    names = fused(ir.vjp(b.build(), ["x"]))
    assert names.count("conv_input_grad+relu_grad") == 2
    assert names.count("relu_grad") == 1  # of the gradient that comes from outside


def test_an_epilogue_takes_no_operand_that_it_could_not_read() -> None:
    conv = ir.ops.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    types = [ir.TensorType.parse(t) for t in ("f32[1, 3, 4, 4]", "f32[5, 3, 1, 1]", "f32[4]")]
    with pytest.raises(ir.ShapeError, match="give all channels, a number for each, or one number"):
        Fused(conv, (ir.ops.Add(),)).infer(*types)
    with pytest.raises(ir.AttributeValueError, match="cannot finish a result; use elementwise ops"):
        Fused(conv, (ir.ops.Softmax(1),))
