"""What the networks are made of: a builder with a source of weights, and the usual layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

import ir
from ir import Value
from ir.build.core import PerAxis
from ir.ops.window import Pad, per_axis
from ir.types import Array


class Net(ir.Builder):
    """A builder whose layers draw their own weights: ``<layer>.weight``, ``<layer>.bias``.

    Weights are normal with variance gain / fan-in. A gain of 2 keeps the mean square of what goes
    through a convolution and a relu (He et al. 2015); where no relu follows it is 1.
    """

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self.rng = np.random.default_rng(seed)

    def image(self, batch: int | str, *shape: int | str) -> Value:
        """The input ``x``, [batch, *shape]; strings are symbolic extents."""
        extents = (ir.symbol(n) if isinstance(n, str) else n for n in (batch, *shape))
        return self.input("x", ir.TensorType(ir.DType.FLOAT32, tuple(extents)))

    def conv_layer(
        self, x: Value, outer: int, kernel: PerAxis = 3, stride: PerAxis = 1, pad: Pad = "same",
        dilation: PerAxis = 1, groups: int = 1, bias: bool = True, gain: float = 2.0, *, name: str,
    ) -> Value:  # fmt: skip
        """A convolution of x [N, C, *S], and a bias."""
        cells = per_axis(kernel, x.type.rank - 2, "kernel")
        shape = (outer, channels(x) // groups, *cells)
        w = self.drawn(f"{name}.weight", shape, gain / prod(shape[1:]))
        inner = f"{name}.conv" if bias else name
        y = self.conv(x, w, stride, pad, dilation, groups, name=inner)
        return self.biased(y, outer, name) if bias else y

    def up_layer(self, x: Value, outer: int, factor: int = 2, *, name: str) -> Value:
        """A transposed convolution to ``factor`` times the size, and a bias; windows just meet."""
        inner = channels(x)
        cells = (factor,) * (x.type.rank - 2)
        w = self.drawn(f"{name}.weight", (inner, outer, *cells), 1 / inner)
        size = [n * factor for n in x.shape[2:]]
        y = self.conv_transpose(x, w, size, factor, name=f"{name}.conv")
        return self.biased(y, outer, name)

    def dense_layer(self, x: Value, outer: int, gain: float = 2.0, *, name: str) -> Value:
        """x [N, P] by a matrix, and a bias → [N, outer]."""
        inner = channels(x)
        w = self.drawn(f"{name}.weight", (inner, outer), gain / inner)
        return self.biased(self.dense(x, w, name=f"{name}.product"), outer, name)

    def norm_layer(self, x: Value, scale: float = 1.0, *, name: str) -> Value:
        """Batch normalisation by running statistics, scaled and shifted."""
        count = channels(x)
        mean = self.drawn(f"{name}.running_mean", (count,), 0.01)
        variance = self.between(f"{name}.running_var", count, 0.6, 1.4)
        weight = self.between(f"{name}.weight", count, 0.8 * scale, 1.2 * scale)
        bias = self.drawn(f"{name}.bias", (count,), 0.01)
        return self.batch_norm(x, mean, variance, weight, bias, name=name)

    def then_relu(self, x: Value) -> Value:
        """relu, called after what it follows."""
        return self.relu(x, name=f"{x.name}.relu")

    def global_average(self, x: Value) -> Value:
        """The mean of every channel: [N, C, *S] → [N, C]."""
        return self.mean(x, range(2, x.type.rank))

    def biased(self, x: Value, channels: int, name: str) -> Value:
        """x plus a small bias."""
        return self.bias(x, self.drawn(f"{name}.bias", (channels,), 0.01), name=name)

    def drawn(self, name: str, shape: Sequence[int], variance: float) -> Value:
        """A weight, normal with mean 0."""
        array = self.rng.standard_normal(shape, np.float32)
        array *= np.float32(variance**0.5)
        return self._kept(name, array)

    def between(self, name: str, count: int, low: float, high: float) -> Value:
        """A weight, uniform."""
        return self._kept(name, self.rng.uniform(low, high, count).astype(np.float32))

    def _kept(self, name: str, array: Array) -> Value:
        """A weight that nobody writes to, so that the graph need not copy it."""
        array.flags.writeable = False
        return self.weight(name, array)


def channels(x: Value) -> int:
    """The extent of axis 1, which is never symbolic here."""
    extent = x.shape[1]
    assert isinstance(extent, int)
    return extent
