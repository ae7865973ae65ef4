"""The single layers that ``convc bench --layers`` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

import ir
from convc.errors import InputError
from ir.errors import did_you_mean
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.window import Pads

Array: TypeAlias = npt.NDArray[Any]
Direction = Literal["c", "g", "h"]
DIRECTIONS: tuple[Direction, ...] = ("c", "g", "h")
"""Forward, gradient in the weights, gradient in the input, as ``ir.ops.conv`` calls them."""


@dataclass(frozen=True)
class Layer:
    """One convolution, or one transposed convolution, that takes ``channels`` to ``outputs``.

    ``size`` is that of the input. A transposed one makes ``size`` times the stride.
    """

    name: str
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    batch: int = 1
    kind: Literal["forward", "transposed"] = "forward"
    weights: Literal["dense", "rank1"] = "dense"

    @property
    def pads(self) -> Pads:
        """As many zeros at both ends: with stride 1 and an odd kernel the size stays."""
        return tuple(((k - 1) * self.dilation // 2,) * 2 for k in self.kernel)

    @property
    def attributes(self) -> tuple[tuple[int, ...], Pads, tuple[int, ...], int]:
        """What the three ops share, in the order of their constructors."""
        axes = len(self.kernel)
        return (self.stride,) * axes, self.pads, (self.dilation,) * axes, self.groups

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of x, w and g as in ``ir.ops.conv``; a transposed layer takes g to x."""
        narrow: Sequence[ir.Dim] = self.size
        wide, inner, outer = self.size, self.channels, self.outputs
        if self.kind == "transposed":
            wide, inner, outer = tuple(n * self.stride for n in self.size), outer, inner
        else:
            narrow = Conv(*self.attributes).output_sizes(self.size, self.kernel)
        return {
            "x": (self.batch, inner, *wide),
            "w": (outer, inner // self.groups, *self.kernel),
            "g": (self.batch, outer, *(int(n) for n in narrow)),  # type: ignore[arg-type]
        }


LAYERS = (
    Layer("7x7-s2-3-64-224", 3, 64, (224, 224), (7, 7), stride=2),
    Layer("3x3-3-64-224", 3, 64, (224, 224), (3, 3)),
    Layer("3x3-64-56", 64, 64, (56, 56), (3, 3)),
    Layer("3x3-128-28", 128, 128, (28, 28), (3, 3)),
    Layer("3x3-256-14", 256, 256, (14, 14), (3, 3)),
    Layer("3x3-512-7", 512, 512, (7, 7), (3, 3)),
    Layer("3x3-256-56", 256, 256, (56, 56), (3, 3)),
    Layer("3x3-512-28", 512, 512, (28, 28), (3, 3)),
    Layer("1x1-64-256-56", 64, 256, (56, 56), (1, 1)),
    Layer("1x1-256-64-56", 256, 64, (56, 56), (1, 1)),
    Layer("1x1-512-2048-7", 512, 2048, (7, 7), (1, 1)),
    Layer("1x1-1024-256-14", 1024, 256, (14, 14), (1, 1)),
    Layer("3x3-s2-128-256-28", 128, 256, (28, 28), (3, 3), stride=2),
    Layer("1x1-s2-256-512-56", 256, 512, (56, 56), (1, 1), stride=2),
    Layer("depthwise-3x3-32-112", 32, 32, (112, 112), (3, 3), groups=32),
    Layer("depthwise-3x3-s2-144-56", 144, 144, (56, 56), (3, 3), stride=2, groups=144),
    Layer("depthwise-3x3-960-7", 960, 960, (7, 7), (3, 3), groups=960),
    Layer("depthwise-31x31-256-56", 256, 256, (56, 56), (31, 31), groups=256),
    Layer("31x31-1-16-512", 1, 16, (512, 512), (31, 31)),
    Layer("3x3-groups32-128-56", 128, 128, (56, 56), (3, 3), groups=32),
    Layer("3x3-dilation2-256-28", 256, 256, (28, 28), (3, 3), dilation=2),
    Layer("5x5-96-28", 96, 96, (28, 28), (5, 5)),
    Layer("3x3-61-83-35", 61, 83, (35, 35), (3, 3)),
    Layer("1d-9-64-16000", 64, 64, (16000,), (9,)),
    Layer("3d-3x3x3-64-128-14", 64, 128, (8, 14, 14), (3, 3, 3)),
    Layer("3x3-64-56-batch8", 64, 64, (56, 56), (3, 3), batch=8),
    Layer("3x3-256-14-batch8", 256, 256, (14, 14), (3, 3), batch=8),
    Layer("1x7-192-17", 192, 192, (17, 17), (1, 7)),
    Layer("depthwise-15x15-3-1024-rank1", 3, 3, (1024, 1024), (15, 15), groups=3,
          weights="rank1"),
    Layer("up-2x2-s2-64-32-56", 64, 32, (56, 56), (2, 2), stride=2, kind="transposed"),
    Layer("up-3x3-s2-64-28", 64, 64, (28, 28), (3, 3), stride=2, kind="transposed"),
    Layer("1d-9-dilation16-64-16000", 64, 64, (16000,), (9,), dilation=16),
    Layer("1d-31-1-32-16000", 1, 32, (16000,), (31,)),
    Layer("3d-3x3x3-3-32-56", 3, 32, (16, 56, 56), (3, 3, 3)),
)  # fmt: skip


def named(patterns: Sequence[str]) -> list[Layer]:
    """The layers that match any of the patterns (``*``, ``?``); all of them without a pattern.

    Raises ``InputError`` for a pattern that matches none.
    """
    names = [layer.name for layer in LAYERS]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names) or f"; they are {', '.join(names)}"
            raise InputError(f"--layers: no layer {pattern!r}{hint}")
    wanted = patterns or ("*",)
    return [x for x in LAYERS if any(fnmatchcase(x.name, pattern) for pattern in wanted)]


def graph(layer: Layer, direction: Direction) -> ir.Graph:
    """The layer in one direction, as a graph of the node ``y``.

    Forward the weights are known at compile time; in the gradients all operands are inputs.
    """
    b = ir.Builder(f"{layer.name}.{direction}")
    shapes, attributes = layer.shapes, layer.attributes

    def operand(name: str) -> ir.Value:
        if name == "w" and direction == "c":
            return b.weight(name, weights(layer))
        return b.input(name, ir.TensorType(ir.DType.FLOAT32, shapes[name]))

    swapped: dict[Direction, Direction] = {"c": "h", "g": "g", "h": "c"}
    form = swapped[direction] if layer.kind == "transposed" else direction
    op: ir.Op
    if form == "c":
        op = Conv(*attributes)
    elif form == "g":
        op = ConvWeightGrad(*attributes, layer.kernel)
    else:
        op = ConvInputGrad(*attributes, shapes["x"][2:])
    b.output("y", b.apply(op, *map(operand, op.operand_names()), name="y"))
    return b.build()


def weights(layer: Layer, seed: int = 0) -> Array:
    """Normal with variance 1 / fan-in; of rank 1: every kernel is an outer product of vectors."""
    rng = np.random.default_rng(seed)
    outer, inner, *kernel = layer.shapes["w"]
    if layer.weights == "rank1":
        vectors = [rng.standard_normal((outer, inner, k), np.float32) for k in kernel]
        drawn = reduce(lambda a, v: a[..., None] * v.reshape(outer, inner, *[1] * (a.ndim - 2), -1),
                       vectors)  # fmt: skip
    else:
        drawn = rng.standard_normal((outer, inner, *kernel), np.float32)
    return np.asarray(drawn / np.sqrt(inner * prod(kernel)), np.float32)
