"""Native elementwise ops beside PyTorch: on plain arrays, and on images in blocks of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.types import Array
from tests.oracles import SEED, Function, agree

UNARY: dict[str, tuple[Function, Function]] = {
    "identity": (lambda b, x: b.identity(x), lambda t, x: x.clone()),
    "exp": (lambda b, x: b.exp(x), lambda t, x: t.exp(x)),
    "log": (lambda b, x: b.log(b.square(x) + 0.1), lambda t, x: t.log(x**2 + 0.1)),
    "sqrt": (lambda b, x: b.sqrt(b.square(x) + 0.1), lambda t, x: t.sqrt(x**2 + 0.1)),
    "square": (lambda b, x: b.square(x), lambda t, x: t.square(x)),
    "reciprocal": (lambda b, x: b.reciprocal(b.square(x) + 0.5), lambda t, x: 1 / (x**2 + 0.5)),
    "abs": (lambda b, x: b.abs(x), lambda t, x: t.abs(x)),
    "sign": (lambda b, x: b.sign(x) * x, lambda t, x: t.sign(x) * x),
    "step": (lambda b, x: b.step(x) * x, lambda t, x: (x > 0) * x),
    "floor": (lambda b, x: b.floor(x) * x, lambda t, x: t.floor(x) * x),
    "ceil": (lambda b, x: b.ceil(x) * x, lambda t, x: t.ceil(x) * x),
    "round": (lambda b, x: b.round(x) * x, lambda t, x: t.round(x) * x),
    "relu": (lambda b, x: b.relu(x), lambda t, x: t.relu(x)),
    "tanh": (lambda b, x: b.tanh(x), lambda t, x: t.tanh(x)),
    "logistic": (lambda b, x: b.logistic(x), lambda t, x: t.sigmoid(x)),
    "erf": (lambda b, x: b.erf(x), lambda t, x: t.erf(x)),
    "softplus": (lambda b, x: b.softplus(x),
                 lambda t, x: t.nn.functional.softplus(x, threshold=60)),
    "silu": (lambda b, x: b.silu(x), lambda t, x: t.nn.functional.silu(x)),
    "gelu": (lambda b, x: b.gelu(x), lambda t, x: t.nn.functional.gelu(x)),
    "gelu tanh": (lambda b, x: b.gelu(x, "tanh"),
                  lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
    "elu": (lambda b, x: b.elu(x, 0.7), lambda t, x: t.nn.functional.elu(x, 0.7)),
    "leaky relu": (lambda b, x: b.leaky_relu(x, 0.2),
                   lambda t, x: t.nn.functional.leaky_relu(x, 0.2)),
    "clip": (lambda b, x: b.clip(x, -0.4, 0.8), lambda t, x: t.clamp(x, -0.4, 0.8)),
    "numbers": (lambda b, x: (2 - x) * 3 / 4 - b.shift(b.scale(x, 0.5), 1.0),
                lambda t, x: (2 - x) * 3 / 4 - (x * 0.5 + 1)),
}  # fmt: skip
BINARY: dict[str, tuple[Function, Function]] = {
    "add": (lambda b, p, q: b.add(p, q), lambda t, p, q: p + q),
    "sub": (lambda b, p, q: b.sub(p, q), lambda t, p, q: p - q),
    "mul": (lambda b, p, q: b.mul(p, q), lambda t, p, q: p * q),
    "div": (lambda b, p, q: b.div(p, b.square(q) + 0.3), lambda t, p, q: p / (q**2 + 0.3)),
    "power": (lambda b, p, q: b.power(b.square(p) + 0.3, q),
              lambda t, p, q: t.pow(p**2 + 0.3, q)),
    "maximum": (lambda b, p, q: b.maximum(p, q), lambda t, p, q: t.maximum(p, q)),
    "minimum": (lambda b, p, q: b.minimum(p, q), lambda t, p, q: t.minimum(p, q)),
    "greater": (lambda b, p, q: b.greater(p, q) * (p + q), lambda t, p, q: (p > q) * (p + q)),
    "greater equal": (lambda b, p, q: b.greater_equal(p, q) * (p + q),
                      lambda t, p, q: (p >= q) * (p + q)),
    "equal": (lambda b, p, q: b.equal(b.round(p), b.round(q)) * (p + q),
              lambda t, p, q: (t.round(p) == t.round(q)) * (p + q)),
    "where": (lambda b, p, q: b.where(b.greater(p, 0.1), p * q, q),
              lambda t, p, q: t.where(p > 0.1, p * q, q)),
}  # fmt: skip
FUNCTIONS = UNARY | BINARY
IMAGES = [(2, 1, 6, 7), (1, 20, 9), (3, 17, 6, 5), (2, 3, 7, 5), (0, 20, 6, 6), (2, 5, 5, 4, 5)]


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Numbers around 0, none near a whole number or a half, where functions have steps."""
    whole, part = rng.integers(-2, 2, shape), rng.uniform(0.06, 0.44, shape)
    upper = rng.integers(0, 2, shape) / 2
    return np.asarray(whole + part + upper).astype({"f32": np.float32, "f64": np.float64}[dtype])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_of_plain_arrays(name: str) -> None:
    rng = np.random.default_rng(SEED)
    make, twin = FUNCTIONS[name]
    shapes = [((37,), (37,)), ((3, 1, 19), (4, 1)), ((), (2, 3)), ((0, 3), (3,))]
    for number, pair in enumerate(shapes, len(name)):
        dtype = ("f32", "f64")[number % 2]
        arrays = [drawn(rng, shape, dtype) for shape in (pair if name in BINARY else pair[:1])]
        target = available()[number % len(available())]
        agree(make, twin, arrays, dtype, target=target, threads=1 + number % 3)


def between_pools(make: Function) -> Function:
    """The function of images in blocks: what pools write and read."""

    def network(b: ir.Builder, *images: ir.Value) -> ir.Value:
        inner = [b.max_pool(image, 2, 1) for image in images]
        return b.average_pool(make(b, *inner), 2, 1)

    return network


def between_torch_pools(twin: Function) -> Function:
    def network(torch: Any, *images: Any) -> Any:
        axes, functions = images[0].ndim - 2, torch.nn.functional
        inner = [getattr(functions, f"max_pool{axes}d")(image, 2, 1) for image in images]
        return getattr(functions, f"avg_pool{axes}d")(twin(torch, *inner), 2, 1)

    return network


@pytest.mark.parametrize(("name", "shape"), [
    pytest.param(name, shape, id=f"{name} of {'x'.join(map(str, shape))}")
    for number, name in enumerate(FUNCTIONS)
    for shape in IMAGES[number % 2 :: 2]
])  # fmt: skip
def test_values_and_gradients_of_images_in_blocks(name: str, shape: tuple[int, ...]) -> None:
    """Any number of channels, also those that leave lanes of the last block empty."""
    number = len(name) + sum(shape)
    rng = np.random.default_rng(number)
    make, twin = FUNCTIONS[name]
    arrays = [drawn(rng, shape, "f32") for _ in range(1 + (name in BINARY))]
    target = available()[number % len(available())]
    both = between_pools(make), between_torch_pools(twin)
    agree(*both, arrays, "f32", target=target, threads=1 + number % 3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_images_stay_in_their_blocks(name: str) -> None:
    """Nothing is converted between the pools."""
    b = ir.Builder("blocks")
    count = 1 + (name in BINARY)
    images = [b.input(f"x{i}", "f32[1, 20, 4, 3]") for i in range(count)]
    b.output("y", between_pools(FUNCTIONS[name][0])(b, *images))
    model = convc.compile(b.build(), threads=1, target=available()[-len(name) % len(available())])
    steps = [step.algorithm for step in model.executable().plan.steps]
    pools = [at for at, algorithm in enumerate(steps) if algorithm == "sweep"]
    assert len(pools) == count + 1
    assert set(steps[pools[count - 1] + 1 : pools[-1]]) <= {"pointwise"}
