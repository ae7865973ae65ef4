"""Transposed convolutions: default and explicit sizes, flipped kernels, circular boundaries."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.types import Array
from tests.oracles import SEED, integer, numbers, text_of, torch_or_skip

CASES = range(24)


class Transposed:
    """A random transposed convolution of g by w, whose pads are alike at both ends."""

    def __init__(self, number: int) -> None:
        rng = self.rng = np.random.default_rng(SEED + number)
        axes = (1, 2, 2, 3)[number % 4]
        self.groups = int(rng.choice([1, 1, 2]))
        self.kernel = tuple(integer(rng, 1, 4 if axes < 3 else 3) for _ in range(axes))
        self.stride = tuple(integer(rng, 1, 3) for _ in range(axes))
        self.dilation = tuple(integer(rng, 1, 2) for _ in range(axes))
        self.pad = tuple(integer(rng, 0, k - 1) for k in self.kernel)
        self.extra = tuple(integer(rng, 0, s - 1) for s in self.stride)
        out = tuple(integer(rng, 3, 7 if axes < 3 else 4) for _ in range(axes))
        batch = (1, 3, 0)[number // 4 % 3]
        inner, outer = (int(rng.choice([1, 2, 3, 8, 17])) for _ in range(2))
        self.w = (inner * self.groups, outer, *self.kernel)
        self.g = (batch, inner * self.groups, *out)

    @property
    def least(self) -> tuple[int, ...]:
        """The default size, cell by cell of the definition: what the windows reach, less pads."""
        axes = zip(self.g[2:], self.kernel, self.stride, self.dilation, self.pad, strict=True)
        return tuple(
            max(j * s + m * d for j in range(n) for m in range(k)) + 1 - 2 * pad
            for n, k, s, d, pad in axes
        )

    @property
    def arguments(self) -> dict[str, Any]:
        pad = [(p, p) for p in self.pad]
        return {"stride": self.stride, "pad": pad, "dilation": self.dilation, "groups": self.groups}


def native(make: Any, **arrays: Array) -> dict[str, Array]:
    """The results y and the gradients of what `make` builds; `grad_y` is its upstream."""
    g = arrays.pop("grad_y")
    b = ir.Builder("native")
    values = [b.input(n, text_of(a.shape, f"f{a.itemsize * 8}")) for n, a in arrays.items()]
    b.output("y", make(b, *values))
    return convc.compile(ir.vjp(b.build()), threads=1, accuracy="exact").run(
        {**arrays, "grad_y": g}
    )


@pytest.mark.parametrize("explicit", [False, True], ids=["least size", "explicit size"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("number", CASES)
def test_it_and_its_gradients_are_pytorchs(number: int, dtype: str, explicit: bool) -> None:
    torch = torch_or_skip()
    case = Transposed(number)
    w, g = (numbers(case.rng, shape, dtype) for shape in (case.w, case.g))
    leaves = [torch.tensor(array, requires_grad=True) for array in (w, g)]
    function = getattr(torch.nn.functional, f"conv_transpose{len(case.kernel)}d")
    more = case.extra if explicit else 0
    y = function(leaves[1], leaves[0], None, case.stride, case.pad, more, case.groups,
                 case.dilation)  # fmt: skip
    e = numbers(case.rng, tuple(y.shape), dtype)
    y.backward(torch.tensor(e))
    size = None
    if explicit:
        size = [n + extra for n, extra in zip(case.least, case.extra, strict=True)]
    got = native(lambda b, w, g: b.conv_transpose(g, w, size, **case.arguments), w=w, g=g, grad_y=e)
    for name, want in {"y": y, "grad_w": leaves[0].grad, "grad_g": leaves[1].grad}.items():
        np.testing.assert_array_equal(got[name], want.detach().numpy(), err_msg=name)


@pytest.mark.parametrize("boundary", ["zero", "circular"])
@pytest.mark.parametrize("flip", [False, True], ids=["", "flipped"])
@pytest.mark.parametrize("number", CASES)
def test_it_is_the_gradient_that_pytorch_finds_of_the_convolution(
    number: int, flip: bool, boundary: str
) -> None:
    torch = torch_or_skip()
    case = Transposed(number)
    size = [max(n, p) for n, p in zip(case.least, case.pad, strict=True)]  # PyTorch wraps once
    w, x = numbers(case.rng, case.w), numbers(case.rng, (case.g[0], prod(case.w[:2]), *size))
    x = x[:, : case.w[1] * case.groups]
    leaf, axes = torch.tensor(x, requires_grad=True), len(size)
    pads = [p for pad in reversed(case.pad) for p in (pad, pad)]
    mode = "circular" if boundary == "circular" else "constant"
    wide = torch.nn.functional.pad(leaf, pads, mode=mode)
    kernel = torch.tensor(w).flip(tuple(range(2, axes + 2))) if flip else torch.tensor(w)
    y = getattr(torch.nn.functional, f"conv{axes}d")(
        wide, kernel, None, case.stride, 0, case.dilation, case.groups
    )
    g = numbers(case.rng, tuple(y.shape))
    y.backward(torch.tensor(g))

    def transposed(b: ir.Builder, w: ir.Value, g: ir.Value) -> ir.Value:
        return b.conv_transpose(g, w, size, flip=flip, boundary=boundary, **case.arguments)

    got = native(transposed, w=w, g=g, grad_y=x)
    np.testing.assert_array_equal(got["y"], leaf.grad.numpy())
    np.testing.assert_array_equal(got["grad_g"], y.detach().numpy())


@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_the_default_size_may_be_symbolic(boundary: str) -> None:
    b = ir.Builder("symbolic")
    w, g = b.input("w", "f64[3, 2, 4]"), b.input("g", "f64[N, 3, W]")
    y = b.conv_transpose(g, w, stride=3, pad=1, flip=True, boundary=boundary)
    b.output("y", y)
    assert str(y.type) == "f64[N, 2, 3*W-1]"
    model = convc.compile(b.build())
    for batch, width in ((2, 5), (1, 1), (0, 3), (3, 8)):
        w_, g_ = numbers(np.random.default_rng(width), (3, 2, 4)), np.ones((batch, 3, width))
        want = ir.interpret(b.build(), {"w": w_, "g": g_})["y"]
        assert want.shape == (batch, 2, 3 * width - 1)
        np.testing.assert_array_equal(model(w_, g_), want)


@pytest.mark.parametrize(
    ("g", "arguments", "message"),
    [
        ("f32[1, 4, 5, 5]", {}, "with as many spatial axes"),
        ("f32[1, 4]", {}, "at least one spatial axis"),
        ("f32[1, 4, 5]", {"size": (4,)}, "its size can come from 7 to 7"),
        ("f32[1, 4, 1]", {"pad": 2}, "leave a size of (-1,)"),
        ("f32[1, 4, 5]", {"boundary": "wrap"}, 'must be "zero" or "circular"'),
        ("f32[1, 4, 5]", {"size": 7}, "size must be a sequence"),
    ],
)
def test_mistakes_are_explained(g: str, arguments: dict[str, Any], message: str) -> None:
    b = ir.Builder("mistake")
    w = b.input("w", "f32[4, 2, 3]")
    with pytest.raises(ir.Error) as caught:
        b.conv_transpose(b.input("g", g), w, **arguments)
    assert message in str(caught.value)
