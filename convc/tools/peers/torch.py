"""Graphs as calls of PyTorch, one per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeAlias, cast

import numpy as np

import ir
from convc.frontends.onnx.export.steps import Step, fits, steps, unread
from convc.tools.peers.base import Array, Inputs, UntranslatableError
from convc.tools.peers.packages import needed
from convc.tools.timing import Call
from ir import ops
from ir.ops.conv import ConvAttributes
from ir.ops.pool import PoolAttributes
from ir.ops.window import Pads

Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Place:
    """Where a step is: PyTorch, the graph, the memory format of images."""

    torch: ModuleType
    graph: ir.Graph
    form: Any

    @property
    def functional(self) -> Any:
        return self.torch.nn.functional

    def shape(self, value: str) -> tuple[int, ...]:
        return self.graph.types[value].static_shape


def contender(graph: ir.Graph, inputs: Inputs, threads: int, channels_last: bool) -> Call:
    """A call that computes the only output; ``UntranslatableError`` where PyTorch cannot."""
    torch = needed("torch")
    if channels_last and any(type.rank in (3, 5) for type in graph.inputs.values()):
        raise UntranslatableError("PyTorch: channels last for images only")
    torch.set_num_threads(threads)
    place = Place(torch, graph, torch.channels_last if channels_last else torch.contiguous_format)
    (output,) = graph.outputs.values()
    todo, constants = _written(place)
    given = {name: _tensor(place, array) for name, array in inputs.items()}
    last = _last_uses(todo, {output, *given, *constants})

    def call() -> Any:
        values = {**constants, **given}
        with torch.inference_mode():
            for number, (function, operands, result) in enumerate(todo):
                values[result] = function(*[values[name] for name in operands])
                for name in last[number]:  # so that its memory is used again
                    del values[name]
            return values[output].numpy()

    return call


Written: TypeAlias = tuple[Function, tuple[str, ...], str]


def _written(place: Place) -> tuple[list[Written], dict[str, Any]]:
    """The calls to make, and the values that depend on weights alone."""
    torch, weights = place.torch, place.graph.weights
    constants = {name: _tensor(place, array) for name, array in weights.items()}
    todo: list[Written] = []
    for step in steps(place.graph):
        if type(step.op) not in TORCH:
            raise UntranslatableError(f"PyTorch: {step.op.name}")
        function = TORCH[type(step.op)](place, step)
        if all(name in constants for name in step.operands):
            with torch.inference_mode():
                constants[step.result] = function(*[constants[name] for name in step.operands])
        else:
            todo.append((function, step.operands, step.result))
    return todo, constants


def _last_uses(todo: Sequence[Written], kept: set[str]) -> list[list[str]]:
    """For each call, the values that no later call reads."""
    seen = set(kept)
    last: list[list[str]] = []
    for _, operands, result in reversed(todo):
        names = [name for name in dict.fromkeys((*operands, result)) if name not in seen]
        seen.update(names)
        last.append(names)
    return last[::-1]


def _tensor(place: Place, array: Array) -> Any:
    made = place.torch.from_numpy(np.array(array))
    return made.contiguous(memory_format=place.form) if made.ndim == 4 else made


# ---------------------------------------------------------------- convolutions and pools


def _symmetric(pads: Pads) -> list[int] | None:
    """The padding that both ends share; None if they differ, or crop."""
    alike = all(lo == hi and lo >= 0 for lo, hi in pads)
    return [lo for lo, _ in pads] if alike else None


def _outside(pads: Pads) -> list[int]:
    """Pads in the order of ``functional.pad``: the last axis first."""
    return [pad for pair in reversed(pads) for pad in pair]


def _conv(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Conv)
    conv = getattr(place.functional, f"conv{len(op.stride)}d")
    pads, rest = _symmetric(op.pads), (op.dilation, op.groups)
    if pads is not None:
        return lambda x, w, bias=None: conv(x, w, bias, op.stride, pads, *rest)
    pad, around = place.functional.pad, _outside(op.pads)
    return lambda x, w, bias=None: conv(pad(x, around), w, bias, op.stride, 0, *rest)


def _transposed(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.ConvInputGrad)
    more = unread(op, *(place.shape(name)[2:] for name in step.operands[:2]))
    pads, rest = _symmetric(op.pads), (more, op.groups, op.dilation)
    transposed = getattr(place.functional, f"conv_transpose{len(op.stride)}d")
    if pads is None:
        pad, crop = place.functional.pad, [-pad for pad in _outside(op.pads)]
        return lambda w, g, bias=None: pad(transposed(g, w, bias, op.stride, 0, *rest), crop)
    if step.operands[0] not in place.graph.weights:
        return _backward(place, step)
    return lambda w, g, bias=None: transposed(g, w, bias, op.stride, pads, *rest)


def _backward(place: Place, step: Step) -> Function:
    """One of the two gradients, as autograd computes it; of its own operand it reads the shape."""
    op = step.op
    assert isinstance(op, ConvAttributes)
    pads, zeros = _symmetric(op.pads), [0] * len(op.stride)
    if pads is None or len(step.operands) > 2:
        raise UntranslatableError("PyTorch: such a gradient")
    own = place.torch.empty(place.shape(step.result))
    own = own.contiguous(memory_format=place.form) if own.ndim == 4 else own
    rest = (None, op.stride, pads, op.dilation, False, zeros, op.groups)
    backward = place.torch.ops.aten.convolution_backward
    if isinstance(op, ops.ConvInputGrad):
        return lambda w, g: backward(g, own, w, *rest, [True, False, False])[0]
    return lambda g, x: backward(g, x, own, *rest, [False, True, False])[1]


def _max_pool(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.MaxPool)
    pool = getattr(place.functional, f"max_pool{len(op.window)}d")
    pads, partial = _pool_pads(place, step, op), op.edge == "partial"
    if pads is not None:
        return lambda x: pool(x, op.window, op.stride, pads, op.dilation, partial)
    if partial:
        raise UntranslatableError("PyTorch: such padding of windows that overhang")
    pad, around = place.functional.pad, _outside(op.pads)
    rest = (op.window, op.stride, 0, op.dilation)
    return lambda x: pool(pad(x, around, value=-np.inf), *rest)


def _average_pool(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.AveragePool)
    pads, partial = _pool_pads(place, step, op), op.edge == "partial"
    if pads is None or op.divisor == "one" or any(d > 1 for d in op.dilation):
        raise UntranslatableError("PyTorch: such an average")
    pool = getattr(place.functional, f"avg_pool{len(op.window)}d")
    return lambda x: pool(x, op.window, op.stride, pads, partial, op.divisor == "padded")


def _adaptive_pool(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.AdaptivePool)
    size = place.shape(step.operands[0])[2:]
    if op.mode == "offset" or any(
        op.bins(axis, n) != replace(op, mode="cover").bins(axis, n) for axis, n in enumerate(size)
    ):
        raise UntranslatableError("PyTorch: other bins")
    kind = "max" if op.kind == "max" else "avg"
    pool = getattr(place.functional, f"adaptive_{kind}_pool{len(op.size)}d")
    return lambda x: pool(x, op.size)


def _pool_pads(place: Place, step: Step, op: PoolAttributes) -> list[int] | None:
    """Padding that PyTorch takes: the same at both ends, at most half a window."""
    if not fits(op, place.shape(step.operands[0])[2:]):
        raise UntranslatableError("PyTorch: a window beyond the image")
    pads = _symmetric(op.pads)
    small = pads and all(2 * pad <= k for pad, k in zip(pads, op.window, strict=True))
    return pads if small else None


# ---------------------------------------------------------------- the others


def _dense(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.MatMul)

    def product(x: Any, w: Any, bias: Any = None) -> Any:
        x = x.mT if op.transpose_x else x
        w = w.mT if op.transpose_w else w
        return x @ w if bias is None else place.torch.addmm(bias, x, w)

    return product


def _batch_norm(place: Place, step: Step) -> Function:
    op, norm = step.op, place.functional.batch_norm
    assert isinstance(op, ops.BatchNorm)
    return lambda x, mean, var, scale=None, shift=None: norm(
        x, mean, var, scale, shift, False, 0.0, op.epsilon
    )


def _reshape(place: Place, step: Step) -> Function:
    shape = place.shape(step.result)
    return lambda x: x.reshape(shape)


def _bias(place: Place, step: Step) -> Function:
    column = (-1, *(1,) * (len(place.shape(step.result)) - 2))
    return lambda x, bias: x + bias.reshape(column)


def _reduced(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Mean | ops.Sum)
    if not op.axes:  # all of them, to PyTorch
        return lambda x: x.clone()
    return lambda x: getattr(x, op.name)(op.axes)


def _scale(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Scale)
    return lambda x: x * op.factor


def _shift(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Shift)
    return lambda x: x + op.term


def _clip(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Clip)
    return lambda x: x.clamp(op.low, op.high)


def _slice(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Slice)
    axes = zip(op.starts, place.shape(step.result), op.steps, strict=True)
    cut = tuple(slice(start, start + size * by, by) for start, size, by in axes)
    return lambda x: x[cut]


def _pad(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Pad)
    shape, pads = place.shape(step.operands[0]), cast("Pads", op.pads)  # no symbols are left
    gone = any(n + lo < 0 or n + hi < 0 for n, (lo, hi) in zip(shape, pads, strict=True))
    if any(op.interior) or gone:
        raise UntranslatableError("PyTorch: a pad between elements, or one that crops all")
    pad, around = place.functional.pad, _outside(pads)
    return lambda x: pad(x, around, value=op.value)


def _expand(place: Place, step: Step) -> Function:
    shape = place.shape(step.result)
    return lambda x: x.expand(shape)


def _take(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Take)
    return lambda x, index: place.torch.index_select(x, op.axis, index)


def _concat(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Concat)
    return lambda *parts: place.torch.cat(parts, op.axis)


def _transpose(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Transpose)
    return lambda x: x.permute(op.perm)


def _softmax(place: Place, step: Step) -> Function:
    op = step.op
    assert isinstance(op, ops.Softmax)
    return lambda x: x.softmax(op.axis)


def _named(name: str) -> Callable[[Place, Step], Function]:
    """A function of the module ``torch`` that takes the operands of the op."""
    return lambda place, step: getattr(place.torch, name)


TORCH: dict[type[ir.Op], Callable[[Place, Step], Function]] = {
    ops.Conv: _conv,
    ops.ConvInputGrad: _transposed,
    ops.ConvWeightGrad: _backward,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.Dense: _dense,
    ops.MatMul: _dense,
    ops.BatchNorm: _batch_norm,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Pad: _pad,
    ops.Expand: _expand,
    ops.Take: _take,
    ops.AdaptivePool: _adaptive_pool,
    ops.Softmax: _softmax,
    ops.Mean: _reduced,
    ops.Sum: _reduced,
    ops.Bias: _bias,
    ops.Scale: _scale,
    ops.Shift: _shift,
    ops.Clip: _clip,
    ops.Relu: _named("relu"),
    ops.Logistic: _named("sigmoid"),
    ops.Tanh: _named("tanh"),
    ops.Exp: _named("exp"),
    ops.Log: _named("log"),
    ops.Sqrt: _named("sqrt"),
    ops.Reciprocal: _named("reciprocal"),
    ops.Abs: _named("abs"),
    ops.Erf: _named("erf"),
    ops.Identity: _named("clone"),
    ops.Add: _named("add"),
    ops.Sub: _named("sub"),
    ops.Mul: _named("mul"),
    ops.Div: _named("div"),
}
"""How each op is called."""
