"""Graphs as models of ONNX: every op beside ONNX Runtime, and models there and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.errors import ExportError
from convc.frontends.onnx.export.operators import NO_FORM, OPERATORS
from convc.frontends.onnx.export.opsets import NEWEST, OLDEST
from ir import ops
from ir.ops.composite import Composite
from ir.types import Array
from tests.onnx.models import onnx, runtime
from tests.oracles import SEED

MADE_BY_PASSES = {ops.Fused, ops.Elementwise}
"""The ops without a form in ONNX; a new op has an operator, or is a formula of others, or is here
with its reason in NO_FORM."""
THROUGH_PARTS = {
    ops.ConnectedConv, ops.ConnectedLocalConv, ops.LocalConv, ops.TiledConv, ops.TiledBias,
    ops.CircularPad, ops.WeightedPool, ops.ChannelPool, ops.ReduceProdGrad,
}  # fmt: skip
ENGINE_FAILS = {
    ("conv_weight_grad", "batch 0"): "it leaves sums over nothing unwritten",
    ("group_norm", "batch 0"): "it infers an extent beside one of 0",
    ("take_grad", "batch 0"): "it repeats nothing once",
}
EXAMPLES = [
    pytest.param(example, id=f"{op.name}: {example.name}")
    for op in ir.OPS
    if op not in NO_FORM
    for example in op.examples()
]


def graph_of(example: ir.Example, dtype: str = "f32") -> ir.Graph:
    b = ir.Builder("example")
    operands = [b.input(f"x{number}", type) for number, type in enumerate(example.inputs)]
    for number, value in enumerate(b.emit(example.op, operands)):
        b.output(f"y{number}", value)
    return b.build() if dtype == "f32" else b.build().with_dtype(dtype)


def drawn(graph: ir.Graph, example: ir.Example) -> dict[str, Array]:
    arrays = example.arrays(np.random.default_rng(SEED), np.float64)
    pairs = zip(graph.inputs.items(), arrays, strict=True)
    return {name: array.astype(type.dtype.numpy) for (name, type), array in pairs}


def noise(graph: ir.Graph) -> dict[str, Array]:
    rng = np.random.default_rng(SEED)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        if type.dtype.is_float
        else rng.integers(0, 2, type.static_shape)
        for name, type in graph.inputs.items()
    }


def checked(graph: ir.Graph) -> Any:
    """The exported model, which is what the standard calls valid, with declared shapes inferred."""
    model = convc.to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert OLDEST <= model.opset_import[0].version <= NEWEST
    assert [value.name for value in model.graph.input] == list(graph.inputs)
    assert [value.name for value in model.graph.output] == list(graph.outputs)
    return model


def alike(found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    for name, reference in wanted.items():
        assert found[name].shape == reference.shape, name
        scale = np.max(np.abs(reference), initial=1.0)
        np.testing.assert_allclose(
            found[name], reference, rtol=0, atol=tolerance * scale, err_msg=name
        )


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


# ---------------------------------------------------------------- every op


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_op_means_the_same_to_onnx_runtime(example: ir.Example) -> None:
    graph = graph_of(example)
    given = drawn(graph, example)
    model = checked(graph)
    if (example.op.name, example.name) not in ENGINE_FAILS:
        alike(runtime(model, given), ir.interpret(graph, given, "float64"))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_exported_op_comes_back(example: ir.Example, dtype: str) -> None:
    """In float64 to its full precision: attributes of float32 do not take part."""
    graph = graph_of(example, dtype)
    given = drawn(graph, example)
    back = convc.load(checked(graph))
    assert {n: t.dtype for n, t in back.inputs.items()} == {
        n: t.dtype for n, t in graph.inputs.items()
    }
    found = ir.interpret(back, {name: given[name] for name in back.inputs}, "float64")
    alike(found, ir.interpret(graph, given, "float64"), 1e-6 if dtype == "f32" else 1e-12)


def test_every_op_has_a_form_or_a_reason() -> None:
    assert NO_FORM.keys() == MADE_BY_PASSES
    missing = {op for op in ir.OPS if op not in OPERATORS and op not in NO_FORM}
    assert missing == THROUGH_PARTS
    assert all(issubclass(op, Composite) for op in missing)


def test_double_precision_in_onnx_runtime() -> None:
    b = ir.Builder("double")
    x = b.input("x", "f64[N, 6, 5]")
    y = b.layer_norm(x, (1, 2), epsilon=1e-3)
    y = b.group_norm(b.leaky_relu(y, 0.3), 3, epsilon=1e-3)
    y = b.batch_norm(y, *(b.weight(n, np.linspace(0.5, 2, 6)) for n in "mv"), epsilon=0.1)
    b.output("y", b.rms_norm(b.tanh(y), epsilon=0.2))
    graph = b.build()
    given = {"x": np.random.default_rng(SEED).standard_normal((3, 6, 5))}
    alike(runtime(checked(graph), given), ir.interpret(graph, given), 1e-13)


# ---------------------------------------------------------------- operands and names


def normalised(kind: str, scaled: bool, shifted: bool) -> ir.Graph:
    rng = np.random.default_rng(SEED)
    b = ir.Builder(kind)
    x = b.input("x", "f32[N, 6, 5, 4]")

    def weight(name: str, *shape: int) -> ir.Value:
        return b.weight(name, rng.uniform(0.5, 2, shape).astype(np.float32))

    shape = (6, 5, 4) if kind in ("layer", "rms") else (6,)
    scale = weight("scale", *shape) if scaled else None
    shift = weight("shift", *shape) if shifted and scaled else None
    match kind:
        case "batch":
            y = b.batch_norm(x, weight("mean", 6), weight("variance", 6), scale, shift)
        case "layer":
            y = b.layer_norm(x, (1, 2, 3), scale, shift)
        case "rms":
            y = b.rms_norm(x, (1, 2, 3), scale)
        case "instance":
            y = b.instance_norm(x, scale, shift)
        case _:
            y = b.group_norm(x, 3, scale, shift)
    b.output("y", b.relu(y))
    return b.build()


OPERATOR = {
    "batch": "BatchNormalization", "layer": "LayerNormalization", "rms": "RMSNormalization",
    "instance": "InstanceNormalization", "group": "GroupNormalization",
}  # fmt: skip


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", OPERATOR)
def test_a_normalisation_is_one_operator_with_its_scale_and_shift(
    kind: str, scaled: bool, shifted: bool
) -> None:
    graph = normalised(kind, scaled, shifted)
    model = checked(graph)
    assert kinds(model) == [OPERATOR[kind], "Relu"]
    given = {"x": np.random.default_rng(SEED).standard_normal((2, 6, 5, 4), np.float32)}
    alike(runtime(model, given), ir.interpret(graph, given))
    alike(ir.interpret(convc.load(model), given), ir.interpret(graph, given), 1e-6)


def test_a_bias_is_an_operand_of_what_it_follows() -> None:
    b = ir.Builder("biased")
    x = b.input("x", "f32[N, 3, 8, 7]")
    rng = np.random.default_rng(SEED)
    w, v = (b.weight(n, rng.standard_normal((3, 3, 2, 2), np.float32)) for n in "wv")
    bias, m = (
        b.weight(n, rng.standard_normal(s, np.float32)) for n, s in (("b", 3), ("m", (3, 5)))
    )
    y = b.bias(b.conv(x, w), bias)
    y = b.bias(b.conv_transpose(y, v, (8, 7)), bias)
    b.output("y", b.bias(b.dense(b.mean(y, (2, 3)), m), b.weight("c", np.ones(5, np.float32))))
    graph = b.build()
    model = checked(graph)
    assert kinds(model) == ["Conv", "ConvTranspose", "GlobalAveragePool", "Flatten", "Gemm"]
    assert {tensor.name for tensor in model.graph.initializer} == {"w", "v", "b", "m", "c"}
    given = {"x": rng.standard_normal((2, 3, 8, 7), np.float32)}
    alike(runtime(model, given), ir.interpret(graph, given))


def test_a_value_that_others_read_is_not_swallowed() -> None:
    b = ir.Builder("read")
    x = b.input("x", "f32[1, 2, 3]")
    y = b.conv(x, b.weight("w", np.ones((2, 2, 1), np.float32)))
    b.output("plain", y)
    b.output("biased", b.bias(y, b.weight("b", np.ones(2, np.float32))))
    model = checked(b.build())
    given = {"x": np.ones((1, 2, 3), np.float32)}
    found = runtime(model, given)
    np.testing.assert_array_equal(found["plain"] + 1, found["biased"])


def test_outputs_of_any_name() -> None:
    """Two of one value, an input and a weight as outputs, a name that a value inside has."""
    b = ir.Builder("names")
    x = b.input("x", "f32[2]")
    w = b.weight("w", np.array([5, 7], np.float32))
    y = b.relu(x, name="inner")
    z = b.add(y, w, name="y")
    b.output("y", y)
    b.output("again", y)
    b.output("inner", z)
    b.output("passed", x)
    b.output("weight", w)
    graph = b.build()
    model = checked(graph)
    given = {"x": np.array([-1, 2], np.float32)}
    alike(runtime(model, given), ir.interpret(graph, given), 0)
    alike(ir.interpret(convc.load(model), given), ir.interpret(graph, given), 0)


# ---------------------------------------------------------------- symbolic sizes


def test_symbolic_sizes_stay_symbolic() -> None:
    """One model for all sizes, also where extents must be computed: quotients and products."""
    b = ir.Builder("sizes")
    x = b.input("x", "f32[N, 4, H, W]")
    n, c, h, w = x.shape
    rng = np.random.default_rng(SEED)
    kernel = b.weight("w", rng.standard_normal((4, 4, 3, 3), np.float32))
    down = b.conv(x, kernel, stride=2, pad=1)
    b.output("up", b.conv_transpose(down, kernel, (h, w), stride=2, pad=1))
    b.output("flat", b.reshape(down, (n, c * down.shape[2] * down.shape[3])))
    b.output("rows", b.reshape(x, (n * h, c, w)))
    b.output("cut", b.apply(ops.Slice((0, 0, h // 3, 0), (n, c, h // 2, w), (1, 1, 1, 1)), x))
    b.output("channel", b.expand(b.reshape(b.mean(x, (2, 3)), (n, c, 1, 1)), (n, c, h, w)))
    b.output("padded", b.apply(ops.Pad(((0, 0), (0, 0), (0, h), (1, -1)), (0,) * 4, 2.0), x))
    b.output("groups", b.group_norm(x, 2))
    b.output("pooled", b.average_pool(x, 3, 2))
    graph = b.build()
    model = checked(graph)
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["N", 4, "H", "W"]
    for shape in ((2, 4, 7, 6), (1, 4, 12, 5), (3, 4, 5, 8)):
        given = {"x": rng.standard_normal(shape, np.float32)}
        alike(runtime(model, given), ir.interpret(graph, given))


def network(**sizes: int) -> ir.Graph:
    """A small network with a loss; symbolic sizes but those given."""
    b = ir.Builder("trained")
    x, labels = b.input("x", "f32[N, 2, H, W]"), b.input("labels", "i64[N]")
    rng = np.random.default_rng(SEED)
    w, v = (b.weight(name, rng.standard_normal(shape, np.float32) / 4)
            for name, shape in (("w", (6, 2, 3, 3)), ("v", (6, 3, 3, 3))))  # fmt: skip
    bias = b.weight("b", rng.standard_normal(6, np.float32))
    y = b.relu(b.bias(b.conv(x, w, stride=2, pad=1), bias))
    y = b.conv(y, v, groups=2, dilation=2, pad="same")
    y = b.average_pool(b.max_pool(y, 3, 2, pad=1), 2, 2)
    b.output("loss", b.softmax_cross_entropy(b.sum(y, (2, 3)), labels))
    return b.build().bind(sizes)


@pytest.mark.parametrize("sizes", [{"N": 3, "H": 14, "W": 13}, {}], ids=["static", "symbolic"])
def test_gradients_of_a_network(sizes: dict[str, int]) -> None:
    graph = ir.vjp(network(**sizes), ["x", "w", "b", "v"])
    model = checked(graph)
    assert {"Conv", "ConvTranspose", "MaxPool", "ScatterElements"} <= set(kinds(model))
    for n, h, width in ((3, 14, 13), (1, 17, 20)) if not sizes else ((3, 14, 13),):
        named = {"N": n, "H": h, "W": width}
        given = noise(graph if sizes else graph.bind(named))
        alike(runtime(model, given), ir.interpret(graph, given, "float64"))
        if sizes:
            alike(ir.interpret(convc.load(model), given, "float64"),
                  ir.interpret(graph, given, "float64"), 1e-6)  # fmt: skip


def test_gradients_of_gradients() -> None:
    b = ir.Builder("twice")
    x = b.input("x", "f32[2, 3, 7, 6]")
    w = b.weight("w", np.random.default_rng(SEED).standard_normal((4, 3, 3, 2), np.float32))
    b.output("y", b.tanh(b.conv(x, w, stride=2, pad=1)))
    once = ir.vjp(b.build(), ["w"])
    graph = ir.vjp(once.replace(outputs={"dw": once.outputs["grad_w"]}), ["x", "w"])
    given = noise(graph)
    alike(runtime(checked(graph), given), ir.interpret(graph, given, "float64"))


# ---------------------------------------------------------------- refusals


def test_all_nodes_without_a_form_are_listed_with_reason_and_hint() -> None:
    b = ir.Builder("refused")
    x = b.input("x", "f32[N, 4, H, 6]")
    y = b.apply(ops.CircularPad(((1, 1), (1, 1))), x, name="around")
    b.output("y", b.apply(ops.AdaptivePool("max", (2, 2), "cover", ()), y, name="bins"))
    graph = b.build()
    with pytest.raises(ExportError) as caught:
        convc.to_onnx(graph)
    first, *lines = str(caught.value).splitlines()
    assert first == "graph 'refused': 2 nodes have no form in ONNX:"
    assert len(lines) == 2
    assert "node 'around': circular_pad(f32[N, 4, H, 6]): " in lines[0]
    assert "node 'bins': adaptive_pool(f32[N, 4, H+2, 8]): " in lines[1]
    assert all("bind" in line for line in lines)
    static = graph.bind({"N": 2, "H": 5})
    given = noise(static)
    alike(runtime(checked(static), given), ir.interpret(static, given))


def test_what_passes_make_is_refused() -> None:
    example = ops.Fused.examples()[0]
    with pytest.raises(ExportError, match=r"fused.*passes make it"):
        convc.to_onnx(graph_of(example))


def test_numbers_beyond_64_bits_are_refused() -> None:
    huge = 2**40
    b = ir.Builder("huge")
    x = b.input("x", f"f32[0, {huge}, {huge}, 6]")
    b.output("flat", b.reshape(x, (0, huge * huge, 6), name="flat"))
    b.output("pooled", b.max_pool(b.input("y", "f32[1, 1, 6, 6]"), 2, 2**70))
    with pytest.raises(ExportError) as caught:
        convc.to_onnx(b.build())
    first, *lines = str(caught.value).splitlines()
    assert first == "graph 'huge': 2 nodes have no form in ONNX:"
    assert all("a number is beyond the integers of 64 bits; use smaller" in line for line in lines)


@pytest.mark.parametrize(("window", "dilation"), [(2**30, 1), (2, 2**40)])
def test_windows_that_constants_cannot_be_made_of_are_refused(window: int, dilation: int) -> None:
    """They reach over the edge, so that cells within the image are counted here."""
    b = ir.Builder("wide")
    x = b.input("x", "f32[1, 1, 6]")
    op = ops.AveragePool((window,), (1,), ((0, 0),), (dilation,), "partial", divisor="real")
    b.output("y", b.apply(op, x))
    with pytest.raises(ExportError, match=r"a constant for \d+ cells is too large; use smaller"):
        convc.to_onnx(b.build())


def test_an_output_called_like_another_input_is_refused() -> None:
    b = ir.Builder("called")
    x = b.input("x", "f32[2]")
    b.output("x", b.relu(x))
    with pytest.raises(ExportError, match="called like an input"):
        convc.to_onnx(b.build())


def test_only_graphs_and_models_are_exported() -> None:
    with pytest.raises(convc.InputError, match="not a graph"):
        convc.to_onnx(np.zeros(3))  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(convc.MissingExtraError, match=r"pip install 'convc\[onnx\]'"):
        convc.to_onnx(normalised("batch", True, True))
