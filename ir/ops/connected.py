"""Convolutions in which each output channel reads input channels of its own choice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Values, require_floats, require_integer
from ir.ops.composite import Composite
from ir.ops.conv import Conv, ConvGeometry, at_tap
from ir.ops.index import Take
from ir.ops.local import LocalConv, check_own_kernels
from ir.ops.movement import Concat, Slice
from ir.ops.shape import Expand, Reshape, Transpose
from ir.ops.window import pad_spatial
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value

Connections = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Connected(ConvGeometry, Composite):
    """What both ops share: `connections` has the inputs of each output channel, in rising order.

    Of a connection matrix with a row per output and a column per input channel they are the ones
    of each row. Only kernels of connections exist: w holds one for each, row after row.
    """

    connections: Connections

    operands: ClassVar[tuple[str, ...]] = ("x", "w")
    layout: ClassVar[str]

    def validate(self) -> None:
        super().validate()
        if not isinstance(self.connections, tuple) or not self.connections:
            given = f"connections = {self.connections!r:.60}"
            raise AttributeValueError(f"{self.name}: {given} must list inputs for each output")
        for row in self.connections:
            if not isinstance(row, tuple):
                reason = "must hold a tuple of input channels for each output channel"
                raise AttributeValueError(f"{self.name}: connections {reason}, not {row!r:.60}")
            for channel in row:
                require_integer(self, "connections", channel, 0)
            if any(a >= b for a, b in pairwise(row)):
                reason = "must rise, each channel once"
                raise AttributeValueError(f"{self.name}: the inputs {row} of an output {reason}")

    @property
    def count(self) -> int:
        """The number of connections, which is the number of kernels."""
        return sum(map(len, self.connections))

    @property
    def fan_in(self) -> tuple[int, ...]:
        """How many inputs each output channel reads."""
        return tuple(map(len, self.connections))

    def fan_out(self, channels: int) -> tuple[int, ...]:
        """How many outputs read each of so many input channels."""
        read = [channel for row in self.connections for channel in row]
        return tuple(read.count(channel) for channel in range(channels))

    def check_operands(self, x: TensorType, w: TensorType, rank: int) -> None:
        """Operands that fit each other and the connections."""
        require_floats(self, x, w)
        self.check_rank("x", x, "[N, C, *S]", len(self.stride) + 2)
        self.check_rank("w", w, self.layout, rank)
        if w.shape[0] != self.count:
            given = f"w is {w} with {w.shape[0]} kernels"
            raise ShapeError(f"{self.name}: {given} for {self.count} connections")
        channels, last = x.shape[1], max((row[-1] for row in self.connections if row), default=-1)
        if isinstance(channels, int) and last >= channels:
            raise ShapeError(f"{self.name}: a connection reads channel {last}, but x is {x}")

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        (type,) = self.infer(TensorType.of(x), TensorType.of(w))
        y = np.zeros(type.static_shape, x.dtype)
        padded = pad_spatial(x, self.pads)
        kernels = iter(w)
        for i, row in enumerate(self.connections):
            for channel in row:
                y[:, i] += self.one(padded[:, [channel]], next(kernels), y.shape[2:])
        return (y,)

    @abstractmethod
    def one(self, padded: Array, kernel: Array, out: Sequence[int]) -> Array:
        """What one connection adds: padded [N, 1, *S] under its kernel, [N, *out]."""

    @abstractmethod
    def shared(self, b: Builder, x: Value, w: Value, groups: int) -> Value:
        """The outputs of some groups of rows, each group with inputs of its own.

        x [N, groups·inputs, *S], w [groups·rows, inputs, …], both group after group.
        """

    def expand(self, b: Builder, operands: Values) -> Values:
        """Rows with the same inputs are a group; groups of the same size are one convolution."""
        x, w = operands
        (type,) = self.infer(x.type, w.type)
        first = np.cumsum([0, *self.fan_in])
        rows: list[int] = []
        parts = []
        for groups in buckets(self.connections):
            members = [row for group in groups for row in group]
            rows += members
            inputs = [self.connections[group[0]] for group in groups]
            if not inputs[0]:
                nothing = type.with_shape(type.shape[0], len(members), *type.shape[2:])
                parts.append(_zeros(b, nothing))
                continue
            read = taken(b, x, 1, [channel for each in inputs for channel in each])
            kernels = [p for row in members for p in range(first[row], first[row + 1])]
            own = taken(b, w, 0, kernels)
            own = b.apply(Reshape((len(members), len(inputs[0]), *w.shape[1:])), own)
            parts.append(self.shared(b, read, own, len(groups)))
        y = parts[0] if len(parts) == 1 else b.apply(Concat(1, len(parts)), *parts)
        return (taken(b, y, 1, np.argsort(rows).tolist()),)


@dataclass(frozen=True)
class ConnectedConv(Connected):
    """Convolution under a connection matrix: x [N, C, *S], w [connections, *k] → [N, K, *out].

    An output channel without inputs is 0. Block-diagonal connections are the groups of `Conv`.
    Goodfellow et al. 2016, figure 9.15.
    """

    name: ClassVar[str] = "connected_conv"
    formula: ClassVar[str] = "y[n,i,j] = Σ_{p = (i,l)} Σ_m x~[n,l, j·s + m·d - lo]·w[p,m]"
    layout: ClassVar[str] = "[connections, *k]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        self.check_operands(x, w, len(self.stride) + 1)
        out = self.output_sizes(x.shape[2:], w.shape[1:])
        return (x.with_shape(x.shape[0], len(self.connections), *out),)

    def one(self, padded: Array, kernel: Array, out: Sequence[int]) -> Array:
        y = np.zeros((len(padded), *out), padded.dtype)
        for m, cells in self.taps(kernel.shape, out):
            y += padded[cells][:, 0] * kernel[m]
        return y

    def shared(self, b: Builder, x: Value, w: Value, groups: int) -> Value:
        return b.apply(Conv(self.stride, self.pads, self.dilation, groups), x, w)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            _case(cls, "mixed", ((0,), (0, 1), (1,)), "2, 2, 4, 5", "4, 2, 3"),
            _case(cls, "all", ((0, 1, 2),) * 17, "1, 3, 4, 4", "51, 3, 3"),
            _case(cls, "blocks", ((0, 1), (0, 1), (2, 3), (2, 3)), "1, 4, 3, 5", "8, 2, 2"),
            _case(cls, "an output of nothing", ((1,), (), (0, 2)), "3, 3, 3, 3", "3, 2, 2"),
            _case(cls, "an input for nothing", ((2,), (0, 2)), "1, 3, 5", "3, 3"),
            _case(cls, "nothing at all", ((), ()), "2, 3, 4", "0, 3"),
            _case(cls, "strided, padded", ((0, 2), (1, 2), (1,), (0, 1)), "1, 3, 5, 4", "7, 3, 2",
                  (2, 1), ((1, 2), (0, -1)), (1, 2)),
            _case(cls, "batch 0", ((0,), (0, 1)), "0, 2, 3", "3, 1"),
        )  # fmt: skip


@dataclass(frozen=True)
class ConnectedLocalConv(Connected):
    """`LocalConv` under a connection matrix: x [N, C, *S], w [connections, *out, *k] →
    [N, K, *out]."""

    name: ClassVar[str] = "connected_local_conv"
    formula: ClassVar[str] = "y[n,i,j] = Σ_{p = (i,l)} Σ_m x~[n,l, j·s + m·d - lo]·w[p,j,m]"
    layout: ClassVar[str] = "[connections, *out, *k]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        axes = len(self.stride)
        self.check_operands(x, w, 2 * axes + 1)
        check_own_kernels(self, x, w)
        return (x.with_shape(x.shape[0], len(self.connections), *w.shape[1 : axes + 1]),)

    def one(self, padded: Array, kernel: Array, out: Sequence[int]) -> Array:
        y = np.zeros((len(padded), *out), padded.dtype)
        for m, cells in self.taps(kernel.shape[len(out) :], out):
            y += padded[cells][:, 0] * kernel[at_tap(m)]
        return y

    def shared(self, b: Builder, x: Value, w: Value, groups: int) -> Value:
        axes = len(self.stride)
        from_inputs = (0, *range(2, axes + 2), 1, *range(axes + 2, 2 * axes + 2))
        own = b.apply(Transpose(from_inputs), w)
        return b.apply(LocalConv(self.stride, self.pads, self.dilation, groups), x, own)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            _case(cls, "mixed", ((0,), (0, 1), (1,)), "2, 2, 4, 5", "4, 3, 3, 2, 3"),
            _case(cls, "all", ((0, 1, 2),) * 17, "1, 3, 4, 4", "51, 2, 2, 3, 3"),
            _case(cls, "an output of nothing", ((1,), (), (0, 2)), "3, 3, 3", "3, 2, 2"),
            _case(cls, "strided, padded", ((0, 2), (1,)), "1, 3, 5, 4", "3, 3, 2, 3, 2",
                  (2, 1), ((1, 2), (0, 0)), (1, 2)),
            _case(cls, "batch 0", ((0,), (0, 1)), "0, 2, 3", "3, 3, 1"),
        )  # fmt: skip


def buckets(connections: Connections) -> Iterator[list[list[int]]]:
    """Output channels by their inputs, and these groups by how many outputs and inputs they have.

    A bucket holds groups of equal size: [[output channels that share inputs], …].
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, inputs in enumerate(connections):
        groups.setdefault(inputs, []).append(row)
    sizes: dict[tuple[int, int], list[list[int]]] = {}
    for inputs, members in groups.items():
        sizes.setdefault((len(inputs), len(members)), []).append(members)
    yield from sizes.values()


def taken(b: Builder, x: Value, axis: int, order: Sequence[int]) -> Value:
    """The entries of an axis of x in this order; nothing is moved where they are as they were."""
    start, size = order[0], len(order)
    if list(order) != list(range(start, start + size)):
        index = b.weight(b.fresh("order"), np.array(order, np.int64))
        return b.apply(Take(axis), x, index)
    if size == x.shape[axis]:
        return x
    starts = tuple(start if a == axis else 0 for a in range(x.type.rank))
    sizes = tuple(size if a == axis else n for a, n in enumerate(x.shape))
    return b.apply(Slice(starts, sizes, (1,) * x.type.rank), x)


def _zeros(b: Builder, type: TensorType) -> Value:
    zero = b.weight(b.fresh("zero"), np.zeros((), type.dtype.numpy))
    return b.apply(Expand(type.shape), zero)


def _case(
    cls: type[Connected],
    name: str,
    connections: Connections,
    x: str,
    w: str,
    stride: tuple[int, ...] = (),
    pads: tuple[tuple[int, int], ...] = (),
    dilation: tuple[int, ...] = (),
) -> Example:
    axes = x.count(",") - 1
    geometry = stride or (1,) * axes, pads or ((0, 0),) * axes, dilation or (1,) * axes
    return Example.of(name, cls(*geometry, connections), f"f32[{x}]", f"f32[{w}]")
