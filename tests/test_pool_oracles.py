"""Pooling against PyTorch and ONNX Runtime, on shapes nobody would choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.ops import AveragePool, LpPool, MaxPool
from ir.types import Array
from tests.oracles import SEED, integer, numbers, onnx_pads, onnx_runtime, text_of, torch_or_skip


@dataclass(frozen=True)
class Pool:
    """A pooling of x."""

    x: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    edge: str

    def __str__(self) -> str:
        text = f"{'x'.join(map(str, self.x))} w{self.window} s{self.stride}"
        return f"{text} p{self.pads} d{self.dilation} {self.edge}"

    def op(self, kind: str) -> ir.Op:
        """Max pooling, the norm "l<p>", or average pooling with the divisor that `kind` names."""
        geometry = self.window, self.stride, self.pads, self.dilation, self.edge
        if kind == "max":
            return MaxPool(*geometry)
        number = kind.startswith("l")
        return LpPool(*geometry, int(kind[1:])) if number else AveragePool(*geometry, kind)


def random_pool(rng: np.random.Generator, even: bool) -> Pool:
    """``even`` pads both ends alike, by half a window at most, as PyTorch asks for."""
    axes = int(rng.choice([1, 2, 2, 3]))
    window = tuple(integer(rng, 1, 5 if axes < 3 else 3) for _ in range(axes))
    stride = tuple(integer(rng, 1, k + 2) for k in window)
    dilation = tuple(integer(rng, 1, 3) if rng.random() < 0.3 else 1 for _ in window)
    extents = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if even:
        halves = [integer(rng, 0, k // 2) for k in window]
        pads = tuple((half, half) for half in halves)
    else:
        pads = tuple((integer(rng, 0, k - 1), integer(rng, 0, k - 1)) for k in window)
    axes_of = zip(extents, pads, dilation, strict=True)
    least = [max(d, extent if even else extent - lo - hi) for extent, (lo, hi), d in axes_of]
    size = tuple(n + integer(rng, 0, 9) for n in least)
    batch, channels = int(rng.choice([0, 1, 1, 3])), int(rng.choice([1, 3, 8, 16, 17, 20]))
    edge = str(rng.choice(["drop", "partial"]))
    return Pool((batch, channels, *size), window, stride, pads, dilation, edge)


def random_pools(count: int, even: bool = False) -> list[Pool]:
    rng = np.random.default_rng(SEED + even)
    return [random_pool(rng, even) for _ in range(count)]


def pytorch_has(shape: Pool, kind: str) -> bool:
    """PyTorch dilates only max pooling, and sums over windows of two axes or three."""
    if kind == "one" and len(shape.window) == 1:
        return False
    return kind == "max" or max(shape.dilation) == 1


PYTORCHS = [
    pytest.param(shape, kind, id=f"{shape}-{kind}")
    for shape in random_pools(40, even=True)
    for kind in ("max", "real", "padded", "one")
    if pytorch_has(shape, kind)
]


@pytest.mark.parametrize(("shape", "kind"), PYTORCHS)
def test_pooling_and_its_gradient_are_pytorchs(shape: Pool, kind: str) -> None:
    torch = torch_or_skip()
    rng = np.random.default_rng(len(str(shape)))
    x = torch.tensor(numbers(rng, shape.x), requires_grad=True)
    extra: dict[str, Any] = {"ceil_mode": shape.edge == "partial"}
    if kind == "max":
        extra["dilation"] = shape.dilation
    elif kind == "one":
        extra["divisor_override"] = 1
    else:
        extra["count_include_pad"] = kind == "padded"
    name = f"{'max' if kind == 'max' else 'avg'}_pool{len(shape.window)}d"
    pool = getattr(torch.nn.functional, name)
    y = pool(x, shape.window, shape.stride, [lo for lo, _ in shape.pads], **extra)
    g = numbers(rng, tuple(y.shape)) * math.prod(shape.window)
    y.backward(torch.tensor(g))

    b = ir.Builder("pool")
    b.output("y", b.apply(shape.op(kind), b.input("x", text_of(shape.x, "f64"))))
    model = convc.compile(ir.vjp(b.build(), ["x"]))
    got = model.run({"x": x.detach().numpy(), "grad_y": g})
    np.testing.assert_allclose(got["y"], y.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(got["grad_x"], x.grad.numpy(), rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("kind", ["max", "real", "padded", "l1", "l2", "l3"])
@pytest.mark.parametrize("shape", [p for p in random_pools(60) if p.x[0]], ids=str)
def test_pooling_is_onnx_runtimes(shape: Pool, kind: str) -> None:
    rng = np.random.default_rng(len(str(shape)))
    x = numbers(rng, shape.x, "f32")
    attributes: dict[str, Any] = {"kernel_shape": shape.window, "strides": shape.stride}
    attributes |= {"pads": onnx_pads(shape.pads), "ceil_mode": int(shape.edge == "partial")}
    attributes["dilations"] = shape.dilation
    node = {"max": "MaxPool", "real": "AveragePool", "padded": "AveragePool"}.get(kind, "LpPool")
    if node == "AveragePool":
        attributes["count_include_pad"] = int(kind == "padded")
    elif node == "LpPool":
        attributes["p"] = int(kind[1:])
    b = ir.Builder("pool")
    b.output("y", b.apply(shape.op(kind), b.input("x", text_of(shape.x, "f32"))))
    got = convc.compile(b.build())(x)
    want = onnx_runtime(node, attributes, x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [p for p in random_pools(40, even=True) if max(p.dilation) == 1], ids=str
)
def test_switches_and_unpooling_are_pytorchs(shape: Pool) -> None:
    torch = torch_or_skip()
    axes, functions = len(shape.window), torch.nn.functional
    rng = np.random.default_rng(len(str(shape)))
    x = rng.permutation(math.prod(shape.x)).reshape(shape.x).astype(np.float64)
    pads, ceil = [lo for lo, _ in shape.pads], shape.edge == "partial"
    pool = getattr(functions, f"max_pool{axes}d")
    where = torch.tensor(x), shape.window, shape.stride, pads
    _, places = pool(*where, ceil_mode=ceil, return_indices=True)
    values = torch.tensor(rng.standard_normal(tuple(places.shape)), requires_grad=True)
    g = rng.standard_normal(shape.x)

    b = ir.Builder("unpool")
    given = b.input("x", text_of(shape.x, "f64")), b.input("v", text_of(values.shape, "f64"))
    switches = b.max_pool_indices(given[0], shape.window, shape.stride, pads, shape.edge)
    b.output("switches", switches)
    b.output("y", b.max_unpool(given[1], switches, shape.x[2:]))
    model = convc.compile(ir.vjp(b.build(), ["v"]))
    got = model.run({"x": x, "v": values.detach().numpy(), "grad_y": g})
    assert np.array_equal(got["switches"], places.numpy())
    picked = np.take_along_axis(flattened(g), flattened(places.numpy()), 2)
    assert np.array_equal(flattened(got["grad_v"]), picked)
    if all(s >= k for s, k in zip(shape.stride, shape.window, strict=True)):
        # where windows overlap, PyTorch keeps one of the values that meet
        unpool = getattr(functions, f"max_unpool{axes}d")
        wanted = unpool(values, places, shape.window, shape.stride, pads, shape.x[2:])
        assert np.array_equal(got["y"], wanted.detach().numpy())


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", random_pools(40, even=True), ids=str)
def test_switches_point_at_the_first_maximum_also_of_ties_infinities_and_nan(
    shape: Pool, dtype: str
) -> None:
    """PyTorch's but for windows with NaN: of several, PyTorch takes the last."""
    torch = torch_or_skip()
    rng = np.random.default_rng(len(str(shape)))
    x = rng.integers(-1, 2, shape.x).astype({"f32": np.float32, "f64": np.float64}[dtype])
    x[rng.random(x.shape) < 0.3] = -np.inf
    x[rng.random(x.shape) < 0.05] = np.nan
    axes, functions = len(shape.window), torch.nn.functional
    where = shape.window, shape.stride, [lo for lo, _ in shape.pads], shape.dilation
    many = {"ceil_mode": shape.edge == "partial", "return_indices": True}
    pool = getattr(functions, f"max_pool{axes}d")
    values, places = pool(torch.tensor(x), *where, **many)
    b = ir.Builder("switches")
    given = b.input("x", text_of(shape.x, dtype)), *where[:3], shape.edge, shape.dilation
    b.output("switches", b.max_pool_indices(*given))
    b.output("y", b.max_pool(*given))
    got = convc.compile(b.build()).run({"x": x})
    assert all(
        np.array_equal(got[name], want, equal_nan=name == "y")
        for name, want in ir.interpret(b.build(), {"x": x}).items()
    )
    np.testing.assert_array_equal(got["y"], values.numpy())
    picked = np.take_along_axis(flattened(x), flattened(got["switches"]), 2)
    np.testing.assert_array_equal(picked, flattened(got["y"]))
    one = ~np.isnan(values.numpy())
    assert np.array_equal(got["switches"][one], places.numpy()[one])


def flattened(array: Array) -> Array:
    return array.reshape(*array.shape[:2], math.prod(array.shape[2:]))
