"""Convolution and products against other implementations, on shapes nobody would choose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops import Conv, Dense
from tests.oracles import SEED, integer, numbers, onnx_pads, onnx_runtime, text_of, torch_or_skip


@dataclass(frozen=True)
class Convolution:
    """A convolution, by the shapes of its operands and its attributes."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def __str__(self) -> str:
        text = f"{'x'.join(map(str, self.x))} by {'x'.join(map(str, self.w))}"
        return f"{text} s{self.stride} p{self.pads} d{self.dilation} g{self.groups}"

    @property
    def op(self) -> Conv:
        return Conv(self.stride, self.pads, self.dilation, self.groups)


def random_convolution(rng: np.random.Generator) -> Convolution:
    """Any rank, batch, stride, dilation, padding and grouping, mostly with remainders."""
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    inner, outer = (int(rng.choice([1, 2, 3, 5, 8, 16, 17, 20])) for _ in range(2))
    if rng.random() < 0.2:
        groups, inner, outer = int(rng.choice([2, 7, 16, 19])), 1, int(rng.choice([1, 1, 2]))
    kernel = tuple(integer(rng, 1, 5 if axes < 3 else 3) for _ in range(axes))
    stride = tuple(int(rng.choice([1, 1, 1, 2, 3, 4])) for _ in range(axes))
    dilation = tuple(int(rng.choice([1, 1, 1, 2, 3])) for _ in range(axes))
    pads = tuple((integer(rng, 0, k + 1), integer(rng, 0, k + 1)) for k in kernel)
    size = []
    for k, d, (lo, hi) in zip(kernel, dilation, pads, strict=True):
        least = max(1, (k - 1) * d + 1 - lo - hi)
        size.append(least + int(rng.choice([0, 0, 1, 2, 5, 6 if axes == 3 else 12])))
    batch = int(rng.choice([0, 1, 1, 3]))
    x = (batch, groups * inner, *size)
    return Convolution(x, (groups * outer, inner, *kernel), stride, pads, dilation, groups)


def random_convolutions(count: int) -> list[Convolution]:
    rng = np.random.default_rng(SEED)
    return [random_convolution(rng) for _ in range(count)]


ONE, NONE = (1, 1), ((0, 0), (0, 0))
SOLID = ((1, 2, 3), ((1, 1), (0, 1), (2, 2)), (1, 1, 2), 1)
CONVOLUTIONS = [
    Convolution((1, 1, 1, 1), (1, 1, 1, 1), ONE, NONE, ONE, 1),
    Convolution((3, 3, 7, 7), (2, 3, 3, 3), (5, 4), NONE, ONE, 1),
    Convolution((1, 2, 3, 3), (4, 2, 2, 2), ONE, ((3, 4), (5, 2)), ONE, 1),
    Convolution((2, 17, 6, 19), (17, 1, 3, 3), (1, 2), ((1, 1), (0, 2)), ONE, 17),
    Convolution((1, 32, 5, 5), (48, 16, 3, 3), ONE, ((1, 1), (1, 1)), ONE, 2),
    Convolution((1, 3, 9, 31), (2, 3, 1, 7), ONE, ((0, 0), (3, 3)), (1, 2), 1),
    Convolution((2, 5, 23), (33, 5, 4), (3,), ((2, 5),), (2,), 1),
    Convolution((1, 4, 3, 5, 7), (6, 4, 3, 2, 3), *SOLID),
    Convolution((1, 2, 6, 7), (3, 2, 2, 3), ONE, ((-1, -2), (1, -1)), ONE, 1),
    Convolution((0, 5, 8, 8), (7, 5, 3, 3), ONE, ((1, 1), (1, 1)), ONE, 1),
    *random_convolutions(62),
]


def convolution_graph(shape: Convolution, dtype: str) -> ir.Graph:
    b = ir.Builder("convolution")
    x, w = b.input("x", text_of(shape.x, dtype)), b.input("w", text_of(shape.w, dtype))
    b.output("y", b.apply(shape.op, x, w))
    return b.build()


# ---------------------------------------------------------------- PyTorch


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_convolution_in_all_three_directions_is_pytorchs(shape: Convolution) -> None:
    """Bit for bit, since every sum is exact; the targets and element types take turns."""
    torch = torch_or_skip()
    number = CONVOLUTIONS.index(shape)
    dtype, target = ("f32", "f64")[number % 2], available()[number // 2 % len(available())]
    rng = np.random.default_rng(number)
    arrays = [numbers(rng, each, dtype) for each in (shape.x, shape.w)]
    x, w = (torch.tensor(array, requires_grad=True) for array in arrays)
    padded = torch.nn.functional.pad(x, [p for pair in reversed(shape.pads) for p in pair])
    conv = getattr(torch.nn.functional, f"conv{len(shape.stride)}d")
    y = conv(padded, w, None, shape.stride, 0, shape.dilation, shape.groups)
    g = numbers(rng, tuple(y.shape), dtype)
    y.backward(torch.tensor(g))

    graph = ir.vjp(convolution_graph(shape, dtype), ["x", "w"])
    got = convc.compile(graph, target=target, accuracy="exact").run(
        {"x": arrays[0], "w": arrays[1], "grad_y": g}
    )
    for name, want in {"y": y, "grad_x": x.grad, "grad_w": w.grad}.items():
        np.testing.assert_array_equal(got[name], want.detach().numpy(), err_msg=name)


# ---------------------------------------------------------------- ONNX Runtime


@pytest.mark.parametrize(
    "shape", [c for c in CONVOLUTIONS if c.x[0] and min(map(min, c.pads)) >= 0], ids=str
)
def test_convolution_is_onnx_runtimes(shape: Convolution) -> None:
    rng = np.random.default_rng(len(str(shape)))
    x, w = (numbers(rng, each, "f32") for each in (shape.x, shape.w))
    attributes = {"strides": shape.stride, "pads": onnx_pads(shape.pads),
                  "dilations": shape.dilation, "group": shape.groups}  # fmt: skip
    got = convc.compile(convolution_graph(shape, "f32"), accuracy="exact")(x, w)
    np.testing.assert_allclose(got, onnx_runtime("Conv", attributes, x, w), rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------- matrix products


def random_product(rng: np.random.Generator) -> tuple[int, int, int]:
    rows, columns = (int(rng.choice([1, 2, 3, 7, 16, 37])) for _ in range(2))
    return rows, int(rng.choice([0, 1, 5, 64, 129])), columns * int(rng.choice([1, 1, 8]))


def random_products(count: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(SEED)
    return [(64, 100, 130), (1, 33, 300), *(random_product(rng) for _ in range(count))]


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "given"])
@pytest.mark.parametrize("shape", random_products(10), ids=str)
def test_matrix_products_are_numpys(
    shape: tuple[int, int, int], constant: bool, target: str
) -> None:
    """Each way round; constant operands are packed in panels, given ones are not."""
    rows, depth, columns = shape
    rng = np.random.default_rng(sum(shape))
    x, w = numbers(rng, (rows, depth), "f32"), numbers(rng, (depth, columns), "f32")
    for flags in ((False, False), (True, False), (False, True), (True, True)):
        left, right = (a.T.copy() if t else a for a, t in zip((x, w), flags, strict=True))
        b = ir.Builder("product")
        first = b.input("x", text_of(left.shape, "f32"))
        second = b.weight("w", right) if constant else b.input("w", text_of(right.shape, "f32"))
        b.output("y", b.relu(b.apply(Dense(*flags), first, second)))
        inputs = {"x": left} if constant else {"x": left, "w": right}
        got = convc.compile(b.build(), target=target).run(inputs)["y"]
        np.testing.assert_array_equal(got, np.maximum(x @ w, 0), err_msg=str(flags))
