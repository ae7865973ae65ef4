"""Building graphs by calling one method per op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ir.dims import Dim, divide, product
from ir.errors import AttributeValueError, Error, GraphError, ShapeError, did_you_mean
from ir.graph import Graph, Node, check_name, weight_type
from ir.op import Op
from ir.ops import conv, dense, loss, pointwise, pool, shape
from ir.ops.window import Pads, named_pads, per_axis
from ir.types import Array, DType, TensorType, described

Item = TypeVar("Item")
PerAxis: TypeAlias = int | Sequence[int]
Pad: TypeAlias = int | str | Sequence[int | Sequence[int]]


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a graph under construction; `+`, `-`, `*` add nodes."""

    builder: Builder = field(repr=False)
    name: str
    type: TensorType

    __array_ufunc__ = None  # so that numpy leaves `array * value` to this class

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the value."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The element type of the value."""
        return self.type.dtype

    def __add__(self, other: Value) -> Value:
        return self.builder.apply(pointwise.Add(), self, other)

    def __sub__(self, other: Value) -> Value:
        return self.builder.apply(pointwise.Sub(), self, other)

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return self.builder.apply(pointwise.Mul(), self, other)
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
        parsed = TensorType.parse(type) if isinstance(type, str) else type
        if not isinstance(parsed, TensorType):
            hint = 'write it like "f32[N, 1, 28, 28]"'
            raise GraphError(f"input '{name}': {described(type)} is not a type; {hint}")
        value = self._define(name, parsed)
        self._inputs[name] = value.type
        return value

    def weight(self, name: str, array: Array) -> Value:
        """A constant; its element type is f32, f64 or i64."""
        value = self._define(name, weight_type(name, array))
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

    def apply(self, op: Op, *values: Value, name: str | None = None) -> Value:
        """A node of any op with one output; its name derives from the op's unless given."""
        names = None if name is None else (name,)
        results = self.emit(op, values, names)
        if len(results) != 1:
            raise GraphError(f"{op.name} has {len(results)} outputs; use emit")
        return results[0]

    def emit(
        self, op: Op, values: Sequence[Value], names: Sequence[str] | None = None
    ) -> tuple[Value, ...]:
        """A node of any op, one value per output."""
        if not isinstance(op, Op):
            made = isinstance(op, type) and issubclass(op, Op)
            hint = f"make one: {op.__name__}(...)" if made else "for a sum, write b.add(x, y)"
            raise GraphError(f"apply and emit take an op such as ir.ops.Relu() first; {hint}")
        operands = [self._own(value) for value in values]
        try:
            types = op.result_types([value.type for value in operands])
        except Error as error:
            listed = ", ".join(f"%{value.name}: {value.type}" for value in operands)
            raise error.within(f"{op.name}({listed})", op.name) from error
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
        size = self._spatial("conv", "x", x, "[N, C, *S]")
        kernel = self._spatial("conv", "w", w, "[K, C/groups, *k]")
        if len(size) != len(kernel):
            reason = f"x is {x.type} and w is {w.type}: different numbers of spatial axes"
            raise ShapeError(f"conv: {reason}; x must be [N, C, *S] and w [K, C/groups, *k]")
        geometry = _geometry(kernel, stride, pad, dilation)
        return self.apply(conv.Conv(*geometry, groups), x, w, name=name)

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
        kernel = self._spatial("conv_transpose", "w", w, "[K, C/groups, *k]")
        attributes = *_geometry(kernel, stride, pad, dilation), groups, _items("size", size)
        return self.apply(conv.ConvInputGrad(*attributes), w, g, name=name)

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
        cells = _items("kernel", kernel)
        attributes = *_geometry(cells, stride, pad, dilation), groups, cells
        return self.apply(conv.ConvWeightGrad(*attributes), g, x, name=name)

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
        axes = len(self._spatial("max_pool", "x", x, "[N, C, *S]"))
        op = pool.MaxPool(*_windows(axes, window, stride, pad), edge)
        return self.apply(op, x, name=name)

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
        axes = len(self._spatial("average_pool", "x", x, "[N, C, *S]"))
        op = pool.AveragePool(*_windows(axes, window, stride, pad), edge)
        return self.apply(op, x, name=name)

    def dense(self, x: Value, w: Value, b: Value | None = None, name: str | None = None) -> Value:
        """x [N, P] @ w [P, Q], plus b [Q] if given → [N, Q]."""
        if b is None:
            return self.apply(dense.Dense(), x, w, name=name)
        return self.bias(self.apply(dense.Dense(), x, w), b, name=name)

    def bias(self, x: Value, b: Value, name: str | None = None) -> Value:
        """x [N, C, *S] plus b [C]."""
        return self.apply(pointwise.Bias(), x, b, name=name)

    def relu(self, x: Value, name: str | None = None) -> Value:
        """max(x, 0)."""
        return self.apply(pointwise.Relu(), x, name=name)

    def add(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a + b, broadcast as in numpy."""
        return self.apply(pointwise.Add(), a, b, name=name)

    def sub(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a - b, broadcast as in numpy."""
        return self.apply(pointwise.Sub(), a, b, name=name)

    def mul(self, a: Value, b: Value, name: str | None = None) -> Value:
        """a · b, broadcast as in numpy."""
        return self.apply(pointwise.Mul(), a, b, name=name)

    def scale(self, x: Value, factor: float, name: str | None = None) -> Value:
        """x times a constant."""
        return self.apply(pointwise.Scale(factor), x, name=name)

    def flatten(self, x: Value, name: str | None = None) -> Value:
        """[N, *rest] → [N, product of rest], row-major."""
        batch, rest = self._own(x).shape[:1], x.shape[1:]
        return self.apply(shape.Reshape((*batch, product(rest))), x, name=name)

    def reshape(self, x: Value, to: Sequence[Dim], name: str | None = None) -> Value:
        """x under another shape; one extent may be -1, it is worked out."""
        extents = _explicit(self._own(x).type, _items("reshape: to", to))
        return self.apply(shape.Reshape(extents), x, name=name)

    def transpose(self, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
        """Axis i of the result is axis perm[i] of x."""
        return self.apply(shape.Transpose(_items("transpose: perm", perm)), x, name=name)

    def sum(self, x: Value, axes: PerAxis | None = None, name: str | None = None) -> Value:
        """The sum over axes (default: all), which disappear; negative axes count from the end."""
        rank = self._own(x).type.rank
        chosen = range(rank) if axes is None else (axes,) if isinstance(axes, int) else axes
        positive = tuple(_from_start(axis, rank) for axis in _items("sum: axes", chosen))
        return self.apply(shape.Sum(positive), x, name=name)

    def softmax(self, x: Value, axis: int = 1, name: str | None = None) -> Value:
        """Exponentials that sum to 1 along an axis."""
        positive = _from_start(axis, self._own(x).type.rank)
        return self.apply(loss.Softmax(positive), x, name=name)

    def cross_entropy(self, p: Value, labels: Value, name: str | None = None) -> Value:
        """Mean of -log p[label]: p [N, C, *S], labels i64 [N, *S] → []."""
        return self.apply(loss.CrossEntropy(), p, labels, name=name)

    def softmax_cross_entropy(self, logits: Value, labels: Value, name: str | None = None) -> Value:
        """`cross_entropy` of `softmax` along axis 1, without overflow → []."""
        return self.apply(loss.SoftmaxCrossEntropy(), logits, labels, name=name)

    def squared_loss(self, a: Value, y: Value, name: str | None = None) -> Value:
        """The sum of (a - y)² → []."""
        return self.apply(loss.SquaredLoss(), a, y, name=name)

    def _define(self, name: str, type: TensorType) -> Value:
        check_name(name)
        if name in self._values:
            raise GraphError(f"'{name}' is defined twice; give every value its own name")
        value = Value(self, name, type)
        self._values[name] = value
        return value

    def _own(self, value: Value) -> Value:
        if isinstance(value, Value) and value.builder is self:
            return value
        if isinstance(value, Value):
            given, hint = f"{value}", "make it there"
        else:
            given, hint = described(value), "declare it with b.input or b.weight"
        raise GraphError(f"{given} is not a value of builder '{self.name}'; {hint}")

    def _spatial(self, op: str, operand: str, value: Value, wanted: str) -> tuple[Dim, ...]:
        """The spatial extents of a value; ShapeError when it has none."""
        if self._own(value).type.rank < 3:
            reason = f"{operand} must be {wanted} with at least one spatial axis"
            raise ShapeError(f"{op}: %{value.name} is {value.type}, but {reason}")
        return value.shape[2:]


def _geometry(
    kernel: Sequence[Dim], stride: PerAxis, pad: Pad, dilation: PerAxis
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    axes = len(kernel)
    sizes = TensorType(DType.FLOAT32, tuple(kernel)).static_shape
    dilations = per_axis(dilation, axes, "dilation")
    return per_axis(stride, axes, "stride"), named_pads(pad, sizes, dilations), dilations


def _windows(
    axes: int, window: PerAxis, stride: PerAxis | None, pad: Pad
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    sizes = per_axis(window, axes, "window")
    strides = sizes if stride is None else per_axis(stride, axes, "stride")
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


def _items(what: str, value: Sequence[Item]) -> tuple[Item, ...]:
    """The items of a sequence; AttributeValueError for what is none."""
    if isinstance(value, Iterable) and not isinstance(value, Value):
        return tuple(value)
    raise AttributeValueError(f"{what} must be a sequence, not {described(value)}")


def _from_start(axis: int, rank: int) -> int:
    """A negative axis counted from the start; anything that is not an int is left for the op."""
    return axis + rank if isinstance(axis, int) and axis < 0 else axis
