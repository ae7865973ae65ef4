"""Shapes that models compute from those of their inputs, of sizes unknown until they run."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.types import Array
from tests.onnx.models import info, make, model_of, onnx, runtime
from tests.oracles import SEED

SIZES = ["N", 4, "H", "W"]
SHAPES = ((2, 4, 6, 5), (1, 4, 3, 7), (3, 4, 1, 1))


def draw(*shape: int) -> Array:
    return np.random.default_rng(SEED + sum(shape)).standard_normal(shape).astype(np.float32)


class Written:
    """A model in the making, as exporters write shape arithmetic."""

    def __init__(self, opset: int) -> None:
        self.opset, self.nodes, self.stored = opset, list[Any](), dict[str, Array]()

    def constant(self, value: Any) -> str:
        name = f"k{len(self.stored)}"
        self.stored[name] = np.asarray(value, np.int64)
        return name

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(make.make_node(kind, inputs, [name], **attributes))
        return name

    def extent(self, axis: int, of: str = "x") -> str:
        """The size of an axis, as a tensor without axes."""
        return self("Gather", self("Shape", of), self.constant(axis), axis=0)

    def listed(self, *extents: str | int) -> str:
        """Sizes as a list."""
        parts = [self.constant([e]) if isinstance(e, int) else self.row(e) for e in extents]
        return self("Concat", *parts, axis=0)

    def row(self, extent: str) -> str:
        if self.opset < 13:
            return self("Unsqueeze", extent, axes=[0])
        return self("Unsqueeze", extent, self.constant([0]))

    def model(self, result: str) -> Any:
        nodes = [*self.nodes, make.make_node("Identity", [result], ["y"])]
        return model_of(nodes, [info("x", SIZES)], [info("y", None)], self.stored, self.opset)


def flattened(m: Written) -> str:
    return m("Reshape", "x", m.listed(m.extent(0), -1))


def flattened_by_a_product(m: Written) -> str:
    rest = m("Mul", m("Mul", m.extent(1), m.extent(-2)), m.extent(3))
    return m("Reshape", "x", m.listed(m.extent(0), rest))


def shuffled(m: Written) -> str:
    half = m("Div", m.extent(1), m.constant(2))
    apart = m("Reshape", "x", m.listed(m.extent(0), 2, half, m.extent(2), m.extent(3)))
    turned = m("Transpose", apart, perm=[0, 2, 1, 3, 4])
    return m("Reshape", turned, m.listed(m.extent(0), m.extent(1), m.extent(2), m.extent(3)))


def resized_to_another(m: Written) -> str:
    small = m("MaxPool", "x", kernel_shape=[1, 1], strides=[2, 2])
    size = m.listed(m.extent(0, small), m.extent(1, small), m.extent(2), m.extent(3))
    m.stored["none"] = np.empty(0, np.float32)
    up = m("Resize", small, "none", "none", size, mode="nearest")
    return m("Add", up, "x")


def expanded(m: Written) -> str:
    mean = m("GlobalAveragePool", "x")
    return m("Expand", mean, m.listed(m.extent(0), m.extent(1), m.extent(2), m.extent(3)))


def gathered_twice(m: Written) -> str:
    sizes = m.listed(m.extent(0), m.extent(2))
    return m("Reshape", "x", m.listed(m("Gather", sizes, m.constant(1), axis=0), -1))


def zeros_beside(m: Written) -> str:
    shape = m.listed(m.extent(0), m.extent(1), m.extent(2), 3)
    return m("Concat", "x", m("ConstantOfShape", shape), axis=-1)


def cut_at_half(m: Written) -> str:
    half = m("Div", m("Add", m.extent(2), m.constant(1)), m.constant(2))
    parts = [m.constant([0]), m.row(half), m.constant([2]), m.constant([1])]
    return m("Slice", "x", *parts)


def scaled_by_a_size(m: Written) -> str:
    return m("Mul", "x", m("Cast", m("Gather", m.constant([3, 5]), m.constant(1)), to=1))


PATTERNS = (flattened, flattened_by_a_product, shuffled, resized_to_another, expanded,
            gathered_twice, zeros_beside, cut_at_half, scaled_by_a_size)  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_import_of_shape_arithmetic_serves_all_sizes(
    pattern: Callable[[Written], str], opset: int
) -> None:
    written = Written(opset)
    model = written.model(pattern(written))
    graph = convc.load(model)
    compiled = convc.compile(graph, threads=1)
    for shape in SHAPES:
        x = draw(*shape)
        wanted = runtime(model, {"x": x})["y"]
        for found in (ir.interpret(graph, {"x": x})["y"], compiled(x)):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def exported(function: Any, given: Any, opset: int, axes: dict[int, str]) -> Any:
    """What PyTorch writes of a function of one tensor."""
    torch: Any = pytest.importorskip("torch")

    class Network(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, x: Any) -> Any:
            return function(x)

    file = io.BytesIO()
    torch.onnx.export(
        Network().eval(), (given,), file, dynamo=False, opset_version=opset,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": axes},
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def networks() -> dict[str, Any]:
    """Functions of [N, 4, H, W] whose export computes shapes."""
    torch: Any = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    def shuffle(x: Any) -> Any:
        n, _, height, width = x.shape
        return x.view(n, 2, 2, height, width).transpose(1, 2).reshape(n, 4, height, width)

    return {
        "view": lambda x: x.view(x.size(0), -1),
        "reshape": lambda x: x.reshape(x.shape[0], 2, 2, -1),
        "interpolate": lambda x: functional.interpolate(x[..., ::2], size=x.shape[2:]) + x,
        "bilinear": lambda x: functional.interpolate(
            functional.max_pool2d(x, 2), size=x.shape[2:], mode="bilinear", align_corners=False
        ),
        "shuffle": shuffle,
        "expand": lambda x: x.mean(1, keepdim=True).expand(x.size(0), 4, x.size(2), x.size(3)),
        "response": nn.LocalResponseNorm(3),
        "unfold": lambda x: functional.unfold(x, 3),
        "groups": nn.GroupNorm(2, 4, affine=False),
        "pad": lambda x: functional.pad(x, (1, 2, 0, 1), "reflect"),
        "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        "zeros": lambda x: torch.cat([x, x.new_zeros(x.size(0), 1, x.size(2), x.size(3))], 1),
        "flatten": lambda x: torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize("name", ["view", "reshape", "interpolate", "bilinear", "shuffle",
    "expand", "response", "unfold", "groups", "pad", "chunk", "zeros", "flatten"])  # fmt: skip
def test_what_pytorch_writes_of_symbolic_sizes(name: str, opset: int) -> None:
    torch: Any = pytest.importorskip("torch")
    function = networks()[name]
    given = torch.from_numpy(draw(2, 4, 12, 10))
    for axes in ({0: "N"}, {0: "N", 2: "H", 3: "W"}):
        if name == "unfold" and len(axes) > 1:
            continue  # its positions are then as many as the sizes say
        compiled = convc.compile(convc.load(exported(function, given, opset, axes)), threads=1)
        for count in (2, 5):
            x = torch.from_numpy(draw(count, 4, 12, 10))
            with torch.no_grad():
                wanted = function(x).numpy()
            np.testing.assert_allclose(compiled(x.numpy()), wanted, rtol=0, atol=1e-5)
