"""Building graphs by calling one method per op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ir.dims import Dim, divide, product
from ir.errors import Error, GraphError, ShapeError, did_you_mean
from ir.graph import Graph, Node, check_name
from ir.op import Op
from ir.ops import conv, dense, loss, pointwise, pool, shape
from ir.ops.window import Pads, named_pads, per_axis
from ir.types import Array, DType, TensorType

PerAxis: TypeAlias = int | Sequence[int]
Pad: TypeAlias = int | str | Sequence[int | Sequence[int]]


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a graph under construction; `+`, `-`, `*` add nodes."""

    builder: Builder = field(repr=False)
    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the value."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The element type of the value."""
        return self.type.dtype

    def __add__(self, other: Value) -> Value:
        return self.builder.add(pointwise.Add(), self, other)

    def __sub__(self, other: Value) -> Value:
        return self.builder.add(pointwise.Sub(), self, other)

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return self.builder.add(pointwise.Mul(), self, other)
        return self.builder.scale(self, other)

    __rmul__ = __mul__


class Builder:
    """Collects inputs, weights, nodes and outputs; `build` makes the graph.

    Every method checks at once and names the op and its operands in the error. Activations have
    shape [N, C, *S]: a batch axis, a channel axis, then spatial axes.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self._inputs: dict[str, TensorType] = {}
        self._weights: dict[str, Array] = {}
        self._nodes: list[Node] = []
        self._outputs: dict[str, str] = {}
        self._values: dict[str, Value] = {}
        self._counts: dict[str, int] = {}

    @staticmethod
    def of(graph: Graph) -> Builder:
        """A builder that already holds everything in `graph`."""
        b = Builder(graph.name)
        b._inputs, b._weights = dict(graph.inputs), dict(graph.weights)
        b._nodes, b._outputs = list(graph.nodes), dict(graph.outputs)
        b._values = {name: Value(b, name, type) for name, type in graph.types.items()}
        return b

    def input(self, name: str, type: TensorType | str) -> Value:
        """A run-time input of the given type, e.g. "f32[N, 1, 28, 28]"."""
        value = self._define(name, TensorType.parse(type) if isinstance(type, str) else type)
        self._inputs[name] = value.type
        return value

    def weight(self, name: str, array: Array) -> Value:
        """A constant; its element type is f32, f64 or i64."""
        value = self._define(name, TensorType.of(array))
        self._weights[name] = array
        return value

    def output(self, name: str, value: Value) -> None:
        """Make `value` an output of the graph, called `name` outside."""
        check_name(name)
        if name in self._outputs:
            raise GraphError(f"output '{name}' exists; give every output its own name")
        self._outputs[name] = self._own(value).name

    def value(self, name: str) -> Value:
        """The value called `name`."""
        if name not in self._values:
            hint = did_you_mean(name, self._values)
            raise GraphError(f"graph '{self.name}' has no value '{name}'{hint}")
        return self._values[name]

    def build(self) -> Graph:
        """The graph so far."""
        return Graph(self.name, self._inputs, self._weights, tuple(self._nodes), self._outputs)

    def add(self, op: Op, *values: Value, name: str | None = None) -> Value:
        """A node of an op with one output; its name derives from the op's unless given."""
        names = None if name is None else (name,)
        results = self.emit(op, values, names)
        if len(results) != 1:
            raise GraphError(f"{op.name} has {len(results)} outputs; use emit")
        return results[0]

    def emit(
        self, op: Op, values: Sequence[Value], names: Sequence[str] | None = None
    ) -> tuple[Value, ...]:
        """A node of any op, one value per output."""
        operands = [self._own(value) for value in values]
        try:
            types = op.result_types([value.type for value in operands])
        except Error as error:
            listed = ", ".join(f"%{value.name}: {value.type}" for value in operands)
            raise error.within(f"{op.name}({listed})") from error
        chosen = [self.fresh(op.name) for _ in types] if names is None else list(names)
        if len(chosen) != len(types):
            raise GraphError(f"{op.name} has {len(types)} outputs, got {len(chosen)} names")
        results = tuple(self._define(n, type) for n, type in zip(chosen, types, strict=True))
        inputs = tuple(value.name for value in operands)
        self._nodes.append(Node(op, inputs, tuple(chosen)))
        return results

    def fresh(self, stem: str) -> str:
        """A name that no value has: `stem`, `stem_1`, `stem_2`, …"""
        name = stem
        while name in self._values:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        return name

    def conv(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """Cross-correlation of x [N, C, *S] by w [K, C/groups, *k] → [N, K, *out].

        `pad` is "valid", "same", "full", a number, or (lo, hi) pairs.
        """
        geometry = _geometry(w.shape[2:], stride, pad, dilation)
        return self.add(conv.Conv(*geometry, groups), x, w, name=name)

    def conv_transpose(
        self,
        w: Value,
        g: Value,
        size: Sequence[Dim],
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """The adjoint of `conv` in x: w [K, C/groups, *k], g [N, K, *out] → [N, C, *size]."""
        geometry = _geometry(w.shape[2:], stride, pad, dilation)
        return self.add(conv.ConvInputGrad(*geometry, groups, tuple(size)), w, g, name=name)

    def conv_weight_grad(
        self,
        g: Value,
        x: Value,
        kernel: Sequence[Dim],
        stride: PerAxis = 1,
        pad: Pad = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        name: str | None = None,
    ) -> Value:
        """The adjoint of `conv` in w: g [N, K, *out], x → [K, C/groups, *kernel]."""
        geometry = _geometry(kernel, stride, pad, dilation)
        return self.add(conv.ConvWeightGrad(*geometry, groups, tuple(kernel)), g, x, name=name)

    def max_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        name: str | None = None,
    ) -> Value:
        """The maximum of each window of x [N, C, *S]; the stride defaults to the window."""
        op = pool.MaxPool(*_windows(x, window, stride, pad), edge)
        return self.add(op, x, name=name)

    def average_pool(
        self,
        x: Value,
        window: PerAxis,
        stride: PerAxis | None = None,
        pad: Pad = 0,
        edge: str = "drop",
        name: str | None = None,
    ) -> Value:
        """The mean of the real cells of each window; the stride defaults to the window."""
        op = pool.AveragePool(*_windows(x, window, stride, pad), edge)
        return self.add(op, x, name=name)

    def dense(self, x: Value, w: Value, b: Value | None = None, name: str | None = None) -> Value:
        """x [N, P] @ w [P, Q], plus b [Q] if given → [N, Q]."""
        if b is None:
            return self.add(dense.Dense(), x, w, name=name)
        return self.bias(self.add(dense.Dense(), x, w), b, name=name)

    def bias(self, x: Value, b: Value, name: str | None = None) -> Value:
        """x [N, C, *S] plus b [C]."""
        return self.add(pointwise.Bias(), x, b, name=name)

    def relu(self, x: Value, name: str | None = None) -> Value:
        """max(x, 0)."""
        return self.add(pointwise.Relu(), x, name=name)

    def plus(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a + b, broadcast as in numpy."""
        return self.add(pointwise.Add(), a, b, name=name)

    def sub(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a - b, broadcast as in numpy."""
        return self.add(pointwise.Sub(), a, b, name=name)

    def mul(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a · b, broadcast as in numpy."""
        return self.add(pointwise.Mul(), a, b, name=name)

    def scale(self, x: Value, factor: float, name: str | None = None) -> Value:
        """x times a constant."""
        return self.add(pointwise.Scale(factor), x, name=name)

    def flatten(self, x: Value, name: str | None = None) -> Value:
        """[N, *rest] → [N, product of rest], row-major."""
        return self.add(shape.Reshape((*x.shape[:1], product(x.shape[1:]))), x, name=name)

    def reshape(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """x under another shape; one extent may be -1, it is worked out."""
        return self.add(shape.Reshape(_explicit(x.type, tuple(to))), x, name=name)

    def transpose(self, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
        """Axis i of the result is axis perm[i] of x."""
        return self.add(shape.Transpose(tuple(perm)), x, name=name)

    def sum(self, x: Value, axes: PerAxis | None = None, name: str | None = None) -> Value:
        """The sum over axes (default: all), which disappear; negative axes count from the end."""
        chosen = range(x.type.rank) if axes is None else (axes,) if isinstance(axes, int) else axes
        positive = tuple(axis + x.type.rank if axis < 0 else axis for axis in chosen)
        return self.add(shape.Sum(positive), x, name=name)

    def softmax(self, x: Value, axis: int = 1, name: str | None = None) -> Value:
        """Exponentials that sum to 1 along an axis."""
        return self.add(loss.Softmax(axis + x.type.rank if axis < 0 else axis), x, name=name)

    def cross_entropy(self, p: Value, labels: Value, name: str | None = None) -> Value:
        """Mean of -log p[label]: p [N, C, *S], labels i64 [N, *S] → []."""
        return self.add(loss.CrossEntropy(), p, labels, name=name)

    def softmax_cross_entropy(self, logits: Value, labels: Value, name: str | None = None) -> Value:
        """`cross_entropy` of `softmax` along axis 1, without overflow → []."""
        return self.add(loss.SoftmaxCrossEntropy(), logits, labels, name=name)

    def squared_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of (a - y)² → []."""
        return self.add(loss.SquaredLoss(), a, y, name=name)

    def _define(self, name: str, type: TensorType) -> Value:
        check_name(name)
        if name in self._values:
            raise GraphError(f"'{name}' is defined twice; give every value its own name")
        value = Value(self, name, type)
        self._values[name] = value
        return value

    def _own(self, value: Value) -> Value:
        if not isinstance(value, Value) or value.builder is not self:
            raise GraphError(f"{value!r} is not a value of builder '{self.name}'; make it there")
        return value


def _geometry(
    kernel: Sequence[Dim], stride: PerAxis, pad: Pad, dilation: PerAxis
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    axes = len(kernel)
    sizes = TensorType(DType.FLOAT32, tuple(kernel)).static_shape
    dilations = per_axis(dilation, axes, "dilation")
    return per_axis(stride, axes, "stride"), named_pads(pad, sizes, dilations), dilations


def _windows(
    x: Value, window: PerAxis, stride: PerAxis | None, pad: Pad
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    sizes = per_axis(window, x.type.rank - 2, "window")
    strides = sizes if stride is None else per_axis(stride, len(sizes), "stride")
    return sizes, strides, named_pads(pad, sizes, (1,) * len(sizes))


def _explicit(x: TensorType, to: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`to` with its -1, if any, replaced by the extent that keeps the size of x."""
    if -1 not in to:
        return to
    rest = product(extent for extent in to if extent != -1)
    extent = None if rest == 0 or to.count(-1) > 1 else divide(x.size, rest)
    if extent is None:
        raise ShapeError(f"reshape: {x} as {to} leaves the -1 undetermined; write the extent")
    return tuple(extent if n == -1 else n for n in to)
