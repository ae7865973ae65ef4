"""Elementwise kernels: operands of every shape beside images in blocks, several results."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.plan import Plan
from ir.types import Array

SHAPES = {  # beside an image [2, 20, 7, 5]
    "channel": (20, 1, 1), "one channel vector": (1, 20, 1, 1), "example": (2, 20, 1, 1),
    "position": (2, 1, 7, 5), "row": (5,), "rows": (7, 1), "map": (20, 7, 5), "map of all": (7, 5),
    "batch": (2, 1, 1, 1), "scalar": (), "number": (1, 1, 1, 1), "same": (2, 20, 7, 5),
    "column": (20, 7, 1),
}  # fmt: skip


def array(rng: np.random.Generator, type: ir.TensorType) -> Array:
    """Numbers away from 0 and 1."""
    if not type.dtype.is_float:
        return rng.integers(0, 5, type.static_shape)
    return np.asarray(rng.uniform(1.5, 3, type.static_shape)).astype(type.dtype.numpy)


def compiled(graph: ir.Graph, target: str, threads: int = 1) -> tuple[convc.Model, Plan]:
    model = convc.compile(graph, threads, target=target, algorithms=direct(graph))
    return model, model.executable().plan


def direct(graph: ir.Graph) -> dict[str, str]:
    return {node.name: "direct" for node in graph.nodes if isinstance(node.op, ir.ops.Conv)}


def same(graph: ir.Graph, target: str, rtol: float = 2e-5) -> Plan:
    """Compare with the interpreter in float64; the plan."""
    rng = np.random.default_rng(0)
    inputs = {name: array(rng, type) for name, type in graph.inputs.items()}
    model, plan = compiled(graph, target)
    got, want = model.run(inputs), ir.interpret(graph, inputs, "float64")
    for name, reference in want.items():
        np.testing.assert_allclose(got[name], reference, rtol=rtol, atol=rtol, err_msg=name)
    return plan


def labels(plan: Plan) -> list[str]:
    return [step.algorithm for step in plan.steps]


@pytest.fixture(params=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def blocked(b: ir.Builder, dtype: str, channels: int = 20) -> ir.Value:
    """A convolution's result: an image in blocks of channels."""
    x = b.input("x", f"{dtype}[2, 3, 7, 5]")
    w = np.random.default_rng(1).standard_normal((channels, 3, 3, 3))
    return b.conv(x, b.weight("w", w.astype(ir.DType(dtype).numpy)), pad="same", name="conv")


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("kind", SHAPES)
def test_operands_of_any_shape_join_an_image_in_its_blocks(
    kind: str, target: str, dtype: str
) -> None:
    """The image is not converted; what is as large is brought into its blocks."""
    b = ir.Builder("join")
    x = blocked(b, dtype)
    shape = ", ".join(map(str, SHAPES[kind]))
    s = b.input("s", f"{dtype}[{shape}]")
    y = b.tanh(x) * b.exp(-x) / s  # x has two readers, so the convolution does not finish it
    b.output("y", b.average_pool(y - s, (7, 5)))
    plan = same(b.build(), target)
    assert labels(plan).count("pointwise") == 1
    converted = [step for step in plan.steps if step.algorithm == "convert"]
    biggest = max((step.kernel.params[0].size for step in converted), default=0)
    assert biggest < 2 * 20 * 7 * 5 or kind == "same"


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [1, 3, 17, 20, 32])
def test_all_at_once_and_several_results(channels: int, target: str, dtype: str) -> None:
    b = ir.Builder("several")
    x = blocked(b, dtype, channels)
    mean, scale = (b.input(n, f"{dtype}[{channels}, 1, 1]") for n in ("mean", "scale"))
    gate = b.input("gate", f"{dtype}[2, {channels}, 1, 1]")
    offset = b.input("offset", f"{dtype}[{channels}]")
    mask, power = b.input("mask", f"{dtype}[2, 1, 7, 5]"), b.input("power", f"{dtype}[]")
    unit = (x - mean) * scale
    y = b.bias(b.logistic(unit) * gate, offset)
    b.output("unit", unit)
    b.output("y", b.max_pool(b.where(b.greater(mask, 2.0), b.power(y, power), x), 3, 1, 1))
    b.output("gated", y)
    plan = same(b.build(), target, 1e-4)
    assert labels(plan).count("pointwise") == (1 if channels == 1 else 2)  # the mask is smaller


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [3, 20])
def test_dropout_is_the_same_in_blocks(channels: int, target: str, dtype: str) -> None:
    """Each element has its own random number, wherever it lies."""
    b = ir.Builder("dropout")
    x, seed = blocked(b, dtype, channels), b.input("seed", "i64[]")
    b.output("y", b.dropout(b.tanh(x), 0.4, seed))
    b.output("u", b.uniform((3, 1001), seed, dtype))
    plan = same(b.build(), target)
    assert labels(plan).count("pointwise") == 2


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("shapes", [((3, 1, 50, 3), (4, 1, 3)), ((1, 700), (9, 1)), ((5000,), (1,)),
                                    ((2, 0, 3), (1, 3)), ((1, 1), (1,))], ids=str)  # fmt: skip
def test_plain_data_broadcast_every_way(
    shapes: tuple[tuple[int, ...], ...], target: str, dtype: str
) -> None:
    b = ir.Builder("plain")
    x, y = (b.input(f"x{i}", f"{dtype}[{', '.join(map(str, s))}]") for i, s in enumerate(shapes))
    b.output("product", x * y)
    b.output("larger", b.maximum(y, x))
    b.output("power", b.power(x, y))
    same(b.build(), target)


@pytest.mark.parametrize("target", available())
def test_conversions_between_all_types(target: str) -> None:
    b = ir.Builder("casts")
    x, n, wide = b.input("x", "f32[3, 37]"), b.input("n", "i64[3, 37]"), b.input("d", "f64[3, 37]")
    for name, value in {"x": x, "n": n, "d": wide}.items():
        for dtype in ("f32", "f64", "i64"):
            b.output(f"{name}_{dtype}", b.cast(value, dtype))
    b.output("chosen", b.where(b.greater(x, 0.0), n, b.cast(wide, "i64")))
    model, _ = compiled(b.build(), target)
    special = [0.5, -1.5, np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**40 + 1]
    floats = np.resize(special, 111).reshape(3, 37)
    integers = np.random.default_rng(0).integers(-(2**62), 2**62, (3, 37))
    inputs = {"x": floats.astype(np.float32), "n": integers, "d": floats}
    want = ir.interpret(b.build(), inputs)
    for name, result in model.run(inputs).items():
        assert result.dtype == want[name].dtype
        np.testing.assert_array_equal(result, want[name], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)
    b = ir.Builder("threads")
    x, s = b.input("x", "f32[3, 4, 50, 37]"), b.input("s", "f32[4, 1, 1]")
    y = b.gelu(x * s)
    b.output("y", y)
    b.output("z", b.log_softmax(b.reshape(y, (12, 1850))))
    b.output("loss", b.squared_loss(y, x))
    rng = np.random.default_rng(0)
    inputs = {name: array(rng, type) for name, type in b.build().inputs.items()}
    one, many = (convc.compile(b.build(), count).run(inputs) for count in (1, threads))
    for name, result in one.items():
        np.testing.assert_array_equal(many[name], result, err_msg=name)


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 33, 1000])
@pytest.mark.parametrize("positions", [(3,), (3, 1), (2, 19)])
def test_softmax_and_losses_for_any_number_of_classes(
    positions: tuple[int, ...], classes: int, target: str, dtype: str
) -> None:
    """Vectors run along the classes, or along positions."""
    batch, *inner = positions
    shape, rest = ", ".join(map(str, (batch, classes, *inner))), ", ".join(map(str, positions))
    b = ir.Builder("classes")
    x, g = b.input("x", f"{dtype}[{shape}]"), b.input("g", f"{dtype}[{shape}]")
    labels = b.cast(b.floor(b.input("at", f"{dtype}[{rest}]") * (classes / 3.001)), "i64")
    b.output("softmax", b.softmax(x * 4.0))
    b.output("log", b.log_softmax(x * 4.0))
    b.output("gradient", b.apply(ir.ops.SoftmaxGrad(1), b.softmax(x), g))
    b.output("loss", b.softmax_cross_entropy(x, labels))
    graph = ir.vjp(b.build(), ["x"])
    same(graph, target, 1e-4)
