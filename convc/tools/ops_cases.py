"""A medium-sized case of each kind of op, and what PyTorch calls the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ir

Emit: TypeAlias = Callable[..., ir.Value]
Twin: TypeAlias = Callable[..., Any]  # PyTorch, then a tensor per operand: what it calls the same
IMAGES = "f32[8, 64, 56, 56]"
ROWS = "f32[512, 1024]"
CHANNELS = "f32[64]"
PASSED_ON = ("the gradients are the array that is passed in: PyTorch returns that itself, "
             "convc copies it, as no two of its results share memory")  # fmt: skip
PASSES = "PyTorch reads what it normalises fewer times: sums and what follows them are apart here"


@dataclass(frozen=True)
class OpCase:
    """``emit`` builds it from a builder and its operands; integers are drawn below ``high``.

    ``notes`` say, by direction, why convc is slower than PyTorch.
    """

    name: str
    types: tuple[str, ...]
    emit: Emit
    twin: Twin
    high: int = 1
    positive: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


def _case(
    name: str, types: str | tuple[str, ...], emit: Emit, twin: Twin, high: int = 1,
    positive: bool = False, notes: Mapping[str, str] | None = None,
) -> OpCase:  # fmt: skip
    listed = (types,) if isinstance(types, str) else types
    return OpCase(name, listed, emit, twin, high, positive, notes or {})


def _unary(name: str, emit: Emit, twin: Twin, positive: bool = False) -> OpCase:
    return _case(name, IMAGES, emit, twin, positive=positive)


def _local(t: Any, x: Any, w: Any) -> Any:
    k, rows, columns, c, *taps = w.shape
    patches = t.nn.functional.unfold(x, taps)
    weights = w.reshape(k, rows * columns, c * taps[0] * taps[1])
    return t.einsum("npj,kjp->nkj", patches, weights).reshape(len(x), k, rows, columns)


def _tiled(t: Any, x: Any, w: Any) -> Any:
    """Every kernel everywhere, then each output from its own."""
    out = [t.nn.functional.conv2d(x, w[..., a, b]) for a in range(2) for b in range(2)]
    y = t.empty_like(out[0])
    for number, part in enumerate(out):
        a, b = divmod(number, 2)
        y[..., a::2, b::2] = part[..., a::2, b::2]
    return y


def _circular(t: Any, x: Any, w: Any) -> Any:
    return t.nn.functional.conv2d(t.nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), w)


def _expand_blocks(t: Any, x: Any) -> Any:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


FAMILIES: dict[str, tuple[OpCase, ...]] = {
    "convolution": (
        _case("conv", (IMAGES, "f32[64, 64, 3, 3]"), lambda b, x, w: b.conv(x, w, pad=1),
              lambda t, x, w: t.conv2d(x, w, padding=1)),
        _case("conv, flipped", (IMAGES, "f32[64, 64, 3, 3]"),
              lambda b, x, w: b.conv(x, w, pad=1, flip=True),
              lambda t, x, w: t.conv2d(x, w.flip(2, 3), padding=1)),
        _case("conv, circular", (IMAGES, "f32[64, 64, 3, 3]"),
              lambda b, x, w: b.conv(x, w, pad=1, boundary="circular"), _circular),
        _case("conv, groups", (IMAGES, "f32[64, 16, 3, 3]"),
              lambda b, x, w: b.conv(x, w, pad=1, groups=4),
              lambda t, x, w: t.conv2d(x, w, padding=1, groups=4)),
        _case("transposed", ("f32[64, 32, 2, 2]", "f32[8, 64, 28, 28]"),
              lambda b, w, g: b.conv_transpose(g, w, (56, 56), stride=2),
              lambda t, w, g: t.conv_transpose2d(g, w, stride=2)),
        _case("local", ("f32[8, 16, 28, 28]", "f32[16, 26, 26, 16, 3, 3]"),
              lambda b, x, w: b.local_conv(x, w), _local),
        _case("tiled", ("f32[8, 32, 57, 57]", "f32[32, 32, 3, 3, 2, 2]"),
              lambda b, x, w: b.tiled_conv(x, w), _tiled),
    ),
    "elementwise": (
        _unary("relu", lambda b, x: b.relu(x), lambda t, x: t.relu(x)),
        _unary("leaky relu", lambda b, x: b.leaky_relu(x),
               lambda t, x: t.nn.functional.leaky_relu(x)),
        _unary("elu", lambda b, x: b.elu(x), lambda t, x: t.nn.functional.elu(x)),
        _unary("gelu", lambda b, x: b.gelu(x), lambda t, x: t.nn.functional.gelu(x)),
        _unary("silu", lambda b, x: b.silu(x), lambda t, x: t.nn.functional.silu(x)),
        _unary("tanh", lambda b, x: b.tanh(x), lambda t, x: t.tanh(x)),
        _unary("logistic", lambda b, x: b.logistic(x), lambda t, x: t.sigmoid(x)),
        _unary("softplus", lambda b, x: b.softplus(x), lambda t, x: t.nn.functional.softplus(x)),
        _unary("erf", lambda b, x: b.erf(x), lambda t, x: t.erf(x)),
        _unary("exp", lambda b, x: b.exp(x), lambda t, x: t.exp(x)),
        _unary("log", lambda b, x: b.log(x), lambda t, x: t.log(x), positive=True),
        _unary("sqrt", lambda b, x: b.sqrt(x), lambda t, x: t.sqrt(x), positive=True),
        _unary("square", lambda b, x: b.square(x), lambda t, x: t.square(x)),
        _unary("abs", lambda b, x: b.abs(x), lambda t, x: t.abs(x)),
        _unary("clip", lambda b, x: b.clip(x, 0.0, 6.0), lambda t, x: t.clamp(x, 0.0, 6.0)),
        _case("add", (IMAGES, IMAGES), lambda b, x, y: x + y, lambda t, x, y: x + y,
              notes={"both": PASSED_ON}),
        _case("mul by channel", (IMAGES, "f32[64, 1, 1]"),
              lambda b, x, y: x * y, lambda t, x, y: x * y),
        _case("div", (IMAGES, IMAGES), lambda b, x, y: x / y, lambda t, x, y: x / y,
              positive=True),
        _case("power", (IMAGES, IMAGES), lambda b, x, y: b.power(x, y), lambda t, x, y: x**y,
              positive=True),
        _case("maximum", (IMAGES, IMAGES), lambda b, x, y: b.maximum(x, y),
              lambda t, x, y: t.maximum(x, y)),
    ),
    "pooling": (
        _case("max", IMAGES, lambda b, x: b.max_pool(x, 3, 2, 1),
              lambda t, x: t.max_pool2d(x, 3, 2, 1)),
        _case("average", IMAGES, lambda b, x: b.average_pool(x, 2),
              lambda t, x: t.nn.functional.avg_pool2d(x, 2)),
        _case("l2", IMAGES, lambda b, x: b.lp_pool(x, 2),
              lambda t, x: t.nn.functional.lp_pool2d(x, 2.0, 2), positive=True),
        _case("across channels", IMAGES, lambda b, x: b.channel_pool(x, 2),
              lambda t, x: x.unflatten(1, (-1, 2)).amax(2)),
        _case("expand blocks", IMAGES, lambda b, x: b.expand_blocks(x, 2), _expand_blocks),
        _case("downsample", IMAGES, lambda b, x: b.downsample(x, 2),
              lambda t, x: x[:, :, ::2, ::2].contiguous()),
    ),
    "norms": (
        _case("batch norm, training", (IMAGES, CHANNELS, CHANNELS),
              lambda b, x, w, v: b.batch_norm_training(x, v, w, w, v)[0],
              lambda t, x, w, v: t.nn.functional.batch_norm(x, None, None, w, v, True),
              positive=True),
        _case("layer norm", (ROWS, "f32[1024]", "f32[1024]"),
              lambda b, x, w, v: b.layer_norm(x, -1, w, v),
              lambda t, x, w, v: t.nn.functional.layer_norm(x, (1024,), w, v)),
        _case("instance norm", IMAGES, lambda b, x: b.instance_norm(x),
              lambda t, x: t.nn.functional.instance_norm(x)),
        _case("group norm", IMAGES, lambda b, x: b.group_norm(x, 8),
              lambda t, x: t.nn.functional.group_norm(x, 8),
              notes={"forward": PASSES, "both": PASSES}),
        _case("response norm", IMAGES, lambda b, x: b.local_response_norm(x, 5),
              lambda t, x: t.nn.functional.local_response_norm(x, 5)),
    ),
    "products": (
        _case("dense", (ROWS, "f32[1024, 1024]"), lambda b, x, w: b.dense(x, w),
              lambda t, x, w: x @ w),
        _case("matmul", ("f32[16, 256, 128]", "f32[16, 128, 192]"),
              lambda b, x, y: b.matmul(x, y), lambda t, x, y: x @ y),
    ),
    "movement": (
        _case("pad", IMAGES, lambda b, x: b.pad(x, {2: (1, 1), 3: (1, 1)}),
              lambda t, x: t.nn.functional.pad(x, (1, 1, 1, 1))),
        _case("concat", (IMAGES, IMAGES), lambda b, x, y: b.concat([x, y]),
              lambda t, x, y: t.cat([x, y], 1)),
        _case("slice", IMAGES, lambda b, x: b.slice(x, {1: (16, 48)}),
              lambda t, x: x[:, 16:48].contiguous()),
        _case("transpose", IMAGES, lambda b, x: b.transpose(x, (0, 2, 3, 1)),
              lambda t, x: x.permute(0, 2, 3, 1).contiguous()),
        _case("reverse", IMAGES, lambda b, x: b.reverse(x, (2, 3)), lambda t, x: x.flip(2, 3)),
    ),
    "sums": (
        _case("sum of all", IMAGES, lambda b, x: b.sum(x), lambda t, x: x.sum()),
        _case("sum by channel", IMAGES, lambda b, x: b.sum(x, (0, 2, 3)),
              lambda t, x: x.sum((0, 2, 3))),
        _case("sum of rows", ROWS, lambda b, x: b.sum(x, 1), lambda t, x: x.sum(1)),
        _case("mean of images", IMAGES, lambda b, x: b.mean(x, (2, 3)),
              lambda t, x: x.mean((2, 3))),
        _case("softmax of rows", ROWS, lambda b, x: b.softmax(x), lambda t, x: t.softmax(x, 1)),
        _case("softmax of pixels", IMAGES, lambda b, x: b.softmax(x),
              lambda t, x: t.softmax(x, 1)),
        _case("cross-entropy", (ROWS, "i64[512]"),
              lambda b, x, y: b.softmax_cross_entropy(x, y),
              lambda t, x, y: t.nn.functional.cross_entropy(x, y), high=1024),
        _case("squared loss", (ROWS, ROWS), lambda b, x, y: b.squared_loss(x, y),
              lambda t, x, y: t.nn.functional.mse_loss(x, y, reduction="sum")),
    ),
}  # fmt: skip
