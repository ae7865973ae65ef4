"""Windows of all kinds, imported, against ONNX Runtime and PyTorch: one test for each trap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.types import Array
from tests.onnx.models import agrees, as_runtime, computed, node_model
from tests.oracles import SEED, integer, torch_or_skip

RNG = np.random.default_rng(SEED)
AUTO = ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")


def draw(*shape: int, dtype: type = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def nodes_of(graph: ir.Graph, op: type[ir.Op]) -> list[Any]:
    return [node.op for node in graph.nodes if isinstance(node.op, op)]


@pytest.mark.parametrize("seed", range(12))
def test_convolutions_of_any_shape(seed: int) -> None:
    rng = np.random.default_rng(SEED + seed)
    axes = 1 + seed % 3
    groups = integer(rng, 1, 3)
    kernel = tuple(integer(rng, 1, 4) for _ in range(axes))
    dilations = [integer(rng, 1, 2) for _ in range(axes)]
    size = [integer(rng, (k - 1) * d + 1, 9) for k, d in zip(kernel, dilations, strict=True)]
    x = draw(integer(rng, 1, 2), groups * integer(rng, 1, 3), *size)
    w = draw(groups * integer(rng, 1, 3), x.shape[1] // groups, *kernel)
    attributes: dict[str, Any] = {"dilations": dilations, "group": groups}
    attributes["strides"] = [integer(rng, 1, 3) for _ in range(axes)]
    if rng.integers(2):
        attributes["pads"] = [integer(rng, 0, 3) for _ in range(2 * axes)]
    bias = {"b": draw(w.shape[0])} if rng.integers(2) else {}
    as_runtime(node_model("Conv", {"x": x}, {"w": w, **bias}, **attributes), {"x": x})


@pytest.mark.parametrize("auto", AUTO[:3])
@pytest.mark.parametrize(("size", "kernel", "stride", "dilation"), [
    (7, 3, 2, 1), (8, 3, 2, 1), (9, 2, 2, 3), (5, 1, 3, 1), (6, 2, 4, 1), (10, 4, 3, 2),
    (4, 4, 1, 1),
])  # fmt: skip
def test_padding_by_name_is_that_of_the_dilated_kernel(
    auto: str, size: int, kernel: int, stride: int, dilation: int
) -> None:
    """Also where the stride goes beyond the window. ONNX Runtime refuses it dilated."""
    torch = torch_or_skip()
    x, w = draw(1, 2, size, size + 1), draw(3, 2, kernel, kernel)
    attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "auto_pad": auto}
    model = node_model("Conv", {"x": x}, {"w": w}, **attributes)
    extent = (kernel - 1) * dilation + 1
    pads = []
    for n in (size, size + 1):
        windows = -(-n // stride)
        total = 0 if auto == "VALID" else max((windows - 1) * stride + extent - n, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if auto == "SAME_UPPER" else (more, less))
    padded = torch.tensor(np.pad(x, ((0, 0), (0, 0), *pads)))
    y = torch.nn.functional.conv2d(padded, torch.tensor(w), None, stride, 0, dilation).numpy()
    if auto != "VALID":
        assert y.shape[2:] == (-(-size // stride), -(-(size + 1) // stride))
    agrees(model, {"x": x}, {"y0": y})
    if dilation == 1:
        as_runtime(model, {"x": x})


def test_padding_by_name_of_dilated_pools_is_reckoned_with_the_dilation() -> None:
    """ONNX Runtime's pools ignore it there; the convolution of ones sums the same windows."""
    torch = torch_or_skip()
    x = draw(1, 2, 8, 9)
    arguments = {"kernel_shape": [2, 3], "strides": [1, 1], "dilations": [3, 2]}
    model = node_model("MaxPool", {"x": x}, auto_pad="SAME_UPPER", opset=12, **arguments)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (2, 2)), constant_values=-np.inf)
    y = torch.nn.functional.max_pool2d(torch.tensor(padded), (2, 3), 1, 0, (3, 2)).numpy()
    assert y.shape == x.shape
    agrees(model, {"x": x}, {"y0": y})


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("seed", range(6))
def test_pools_of_any_shape(kind: str, seed: int) -> None:
    rng = np.random.default_rng(SEED + seed)
    axes = 1 + seed % 3
    kernel = [integer(rng, 1, 4) for _ in range(axes)]
    x = draw(integer(rng, 1, 2), integer(rng, 1, 3), *(integer(rng, 4, 9) for _ in range(axes)))
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    attributes["strides"] = [integer(rng, 1, 3) for _ in range(axes)]
    attributes["pads"] = [integer(rng, 0, k - 1) for k in (*kernel, *kernel)]
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    as_runtime(node_model(kind, {"x": x}, opset=12, **attributes), {"x": x})


def torch_pool(kind: str, x: Array, pads: int, **arguments: Any) -> Array:
    torch = torch_or_skip()
    function = (
        torch.nn.functional.max_pool2d if kind == "MaxPool" else torch.nn.functional.avg_pool2d
    )
    return np.asarray(function(torch.tensor(x), padding=pads, ceil_mode=True, **arguments))


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize(("size", "kernel", "stride", "pads"), [
    (4, 1, 2, 0), (5, 2, 3, 1), (6, 3, 2, 1), (7, 3, 2, 0), (7, 3, 3, 1), (5, 4, 3, 2),
    (3, 2, 2, 1),
])  # fmt: skip
def test_ceil_mode_drops_windows_that_start_in_the_padding(
    kind: str, counted: int, size: int, kernel: int, stride: int, pads: int
) -> None:
    """And where pads are counted, cells beyond them are not."""
    x = draw(1, 2, size, size)
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
    attributes |= {"pads": [pads] * 4, "ceil_mode": 1}
    arguments: dict[str, Any] = {"kernel_size": kernel, "stride": stride}
    if kind == "AveragePool":
        attributes["count_include_pad"] = counted
        arguments["count_include_pad"] = bool(counted)
    expected = torch_pool(kind, x, pads, **arguments)
    model = node_model(kind, {"x": x}, opset=19, **attributes)
    agrees(model, {"x": x}, {"y0": expected})


def test_negative_pads_crop() -> None:
    x, w = draw(1, 2, 7, 8), draw(3, 2, 3, 3)
    inner = x[:, :, 1:, :-2]
    pads = {"pads": [-1, 1, 0, -2]}
    torch = torch_or_skip()
    wanted = torch.nn.functional.conv2d(torch.tensor(inner), torch.tensor(w), padding=(0, 0))
    wide = np.pad(inner, ((0, 0), (0, 0), (0, 0), (1, 0)))
    wanted = torch.nn.functional.conv2d(torch.tensor(wide), torch.tensor(w)).numpy()
    agrees(node_model("Conv", {"x": x}, {"w": w}, **pads), {"x": x}, {"y0": wanted})
    best = torch.nn.functional.max_pool2d(
        torch.tensor(np.pad(inner, ((0, 0), (0, 0), (0, 0), (1, 0)), constant_values=-np.inf)), 2, 1
    ).numpy()
    model = node_model("MaxPool", {"x": x}, kernel_shape=[2, 2], **pads)
    agrees(model, {"x": x}, {"y0": best})


def test_special_numbers_in_max_pooling() -> None:
    """NaN propagates, padding never wins, and no index points outside."""
    x = np.full((1, 1, 5, 5), -np.inf, np.float32)
    x[0, 0, 1, 1], x[0, 0, 4, 4] = np.nan, 2
    arguments = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    model = node_model("MaxPool", {"x": x}, results=2, **arguments)
    for results in computed(model, {"x": x}):
        y, places = results["y0"], results["y1"]
        assert np.isnan(y[0, 0, 0, 0])
        assert y[0, 0, 0, 2] == -np.inf
        assert y[0, 0, 2, 2] == 2
        assert places.min() >= 0
        assert places.max() < x.size


def test_a_window_of_padding_only_is_refused() -> None:
    x = draw(1, 1, 4, 4)
    model = node_model("MaxPool", {"x": x}, kernel_shape=[2, 2], pads=[2, 2, 2, 2])
    with pytest.raises(convc.LoadError, match="no window is empty"):
        convc.load(model)


@pytest.mark.parametrize("columns", [0, 1])
def test_indices_of_maxima_count_through_all_images(columns: int) -> None:
    x = draw(2, 3, 5, 6)
    arguments = {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}
    model = node_model("MaxPool", {"x": x}, results=2, storage_order=columns, **arguments)
    as_runtime(model, {"x": x})


@pytest.mark.parametrize("seed", range(12))
def test_transposed_convolutions_of_any_shape(seed: int) -> None:
    rng = np.random.default_rng(SEED + seed)
    axes = 1 + seed % 3
    groups = integer(rng, 1, 2)
    stride = [integer(rng, 1, 3) for _ in range(axes)]
    x = draw(integer(rng, 1, 2), groups * integer(rng, 1, 3), *(integer(rng, 1, 5) for _ in stride))
    w = draw(x.shape[1], integer(rng, 1, 3), *(integer(rng, 2, 4) for _ in stride))
    attributes: dict[str, Any] = {"group": groups, "strides": stride}
    attributes["output_padding"] = [integer(rng, 0, s - 1) for s in stride]
    attributes["pads"] = [integer(rng, 0, 1) for _ in range(2 * axes)]
    if seed % 2:
        attributes["dilations"] = [integer(rng, 1, 2) for _ in range(axes)]
    b = draw(w.shape[1] * groups)
    as_runtime(node_model("ConvTranspose", {"x": x}, {"w": w, "b": b}, **attributes), {"x": x})


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("wanted", [None, (8, 10), (9, 11), (7, 12)])
def test_transposed_convolutions_to_a_size(auto: str, wanted: tuple[int, int] | None) -> None:
    x, w = draw(1, 2, 4, 5), draw(2, 3, 3, 4)
    attributes: dict[str, Any] = {"strides": [2, 2], "auto_pad": auto}
    attributes |= {"output_shape": wanted} if wanted else {}
    as_runtime(node_model("ConvTranspose", {"x": x}, {"w": w}, **attributes), {"x": x})


@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_output_padding_up_to_the_dilation(extra: int) -> None:
    torch = torch_or_skip()
    x, w = draw(1, 2, 4), draw(2, 3, 3)
    y = torch.nn.functional.conv_transpose1d(
        torch.tensor(x), torch.tensor(w), stride=2, padding=1, output_padding=extra, dilation=4
    ).numpy()
    arguments = {"strides": [2], "pads": [1, 1], "output_padding": [extra], "dilations": [4]}
    agrees(node_model("ConvTranspose", {"x": x}, {"w": w}, **arguments), {"x": x}, {"y0": y})


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("Conv", {"strides": [0, 1]}, "strides"),
    ("Conv", {"strides": [-1, 1]}, "strides"),
    ("Conv", {"dilations": [1, 0]}, "dilations"),
    ("Conv", {"group": 0}, "group"),
    ("Conv", {"group": -2}, "group"),
    ("Conv", {"group": 3}, "channels"),
    ("Conv", {"pads": [1, 1]}, "pads has 2 entries"),
    ("Conv", {"strides": [1, 1, 1]}, "strides has 3 entries"),
    ("Conv", {"kernel_shape": [2, 2]}, "kernel_shape"),
    ("Conv", {"auto_pad": "SAME"}, "auto_pad"),
    ("Conv", {"strides": 1}, "must be integers"),
    ("ConvTranspose", {"output_padding": [-1, 0]}, "output_padding"),
    ("ConvTranspose", {"output_shape": [3]}, "output_shape"),
    ("ConvTranspose", {"group": 0}, "group"),
]


@pytest.mark.parametrize(("kind", "attributes", "reason"), REFUSED)
def test_wrong_attributes_are_refused(kind: str, attributes: dict[str, Any], reason: str) -> None:
    x, w = draw(1, 2, 5, 5), draw(2, 2, 3, 3)
    with pytest.raises(convc.LoadError, match=reason) as caught:
        convc.load(node_model(kind, {"x": x}, {"w": w}, **attributes))
    assert "the_node" in str(caught.value)


@pytest.mark.parametrize(("w", "b"), [
    ((3, 2, 3), (3,)), ((3, 2, 3, 3, 3), (3,)), ((3, 2, 3, 3), (2,)), ((3, 2, 3, 3), (3, 1)),
    ((3, 1, 3, 3), (3,)),
])  # fmt: skip
def test_operands_that_do_not_fit_are_refused(w: tuple[int, ...], b: tuple[int, ...]) -> None:
    x = draw(1, 2, 5, 5)
    with pytest.raises(convc.LoadError, match="the_node"):
        convc.load(node_model("Conv", {"x": x}, {"w": draw(*w), "b": draw(*b)}))


@pytest.mark.parametrize("batch", [0, 1])
def test_nothing_is_pooled_and_convolved(batch: int) -> None:
    """A batch of 0 is legal."""
    x, w = draw(batch, 2, 5, 5), draw(3, 2, 3, 3)
    agrees_shape = {"Conv": ({"w": w}, {}), "GlobalAveragePool": ({}, {})}
    for kind, (weights, attributes) in agrees_shape.items():
        for results in computed(node_model(kind, {"x": x}, weights, **attributes), {"x": x}):
            assert results["y0"].shape[0] == batch


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 4)])
def test_pools_of_whole_channels(kind: str, size: tuple[int, ...]) -> None:
    x = draw(2, 3, *size)
    as_runtime(node_model(kind, {"x": x}), {"x": x})
