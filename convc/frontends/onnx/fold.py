"""Operators on values that are all known: computed in numpy when the model is imported.

This is how shape arithmetic disappears. Integers may be symbolic extents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from convc.frontends.onnx import symbolic
from convc.frontends.onnx.call import Call, axis_of
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.slices import Cut, cuts
from convc.frontends.onnx.tensors import numpy_type
from ir.types import Array

Fold: TypeAlias = "Callable[[Call], Array | Sequence[Array]]"


def known(n: Call, number: int = 0) -> Array:
    """An operand, all of which are known here."""
    return n.constant(number, f"operand {number}")


def _function(function: Callable[..., Any], whole: Callable[[Any], Any] | None = None) -> Fold:
    """A function of each element; `whole` is what it makes of extents, if anything."""

    def fold(n: Call) -> Array:
        x = known(n)
        if symbolic.is_symbolic(x):
            if whole is None:
                raise symbolic.undecided(n.node.op_type)
            return symbolic.apply(whole, x)
        return np.asarray(function(x), x.dtype)

    return fold


def _operator(
    function: Callable[..., Any], whole: Callable[..., Any], compares: bool = False
) -> Fold:
    """A function of matching elements of operands, one after the other, broadcast."""

    def fold(n: Call) -> Array:
        result = known(n)
        for number in range(1, n.count):
            other = known(n, number)
            _room(n, result, other)
            if symbolic.is_symbolic(result) or symbolic.is_symbolic(other):
                result = symbolic.apply(whole, result, other)
                result = result.astype(bool) if compares else result
            else:
                made = function(result, other)
                result = np.asarray(made, bool if compares else result.dtype)
        return result

    return fold


def _room(n: Call, *arrays: Array) -> None:
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    n.budget(math.prod(shape) * 8)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if np.any(b == 0):
        raise NodeError("integers divided by 0")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def _division(n: Call) -> Array:
    """Of integers, rounded towards zero; sizes divided by floats must not leave a remainder."""
    a, b = known(n), known(n, 1)
    _room(n, a, b)
    if not symbolic.is_symbolic(a) and not symbolic.is_symbolic(b):
        return np.asarray(_divide(a, b), a.dtype)
    exact = "f" in (a.dtype.kind, b.dtype.kind)
    return symbolic.apply(symbolic.ratio if exact else symbolic.quotient, a, b)


def _modulo(n: Call) -> Array:
    a, b = known(n), known(n, 1)
    if symbolic.is_symbolic(a) or symbolic.is_symbolic(b):
        return symbolic.apply(symbolic.remainder, a, b)
    if a.dtype.kind != "f" and np.any(b == 0):
        raise NodeError("integers modulo 0")
    return np.asarray(np.fmod(a, b) if n.attributes.flag("fmod") else np.mod(a, b))


def _power(n: Call) -> Array:
    a, b = known(n), known(n, 1)
    return np.asarray(np.float_power(a, b)).astype(a.dtype)


def _where(n: Call) -> Array:
    condition, a, b = known(n), known(n, 1), known(n, 2)
    _room(n, condition, a, b)
    if symbolic.is_symbolic(a) or symbolic.is_symbolic(b):
        a, b = symbolic.objects(a), symbolic.objects(b)
    return np.where(condition, a, b)


def _cast(n: Call) -> Array:
    return cast(known(n), numpy_type(n.attributes.integer("to", 0)))


def _cast_like(n: Call) -> Array:
    like = known(n, 1)
    return cast(known(n), np.dtype(np.int64) if symbolic.is_symbolic(like) else like.dtype)


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers in another type; symbolic extents stay what they are as floats too."""
    if symbolic.is_symbolic(x):
        if dtype.kind == "b":
            return symbolic.apply(lambda n: not symbolic.equal(n, 0), x).astype(bool)
        return x
    with np.errstate(invalid="ignore", over="ignore"):
        return x.astype(dtype)


def _constant_of_shape(n: Call) -> Array:
    shape = n.extents(0, "the shape")
    value = n.array("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise NodeError(f"attribute value has {value.size} elements, not one")
    if any(not isinstance(extent, int) for extent in shape):
        raise symbolic.undecided("the number of constants")
    return filled(n, shape, value.reshape(()))


def filled(n: Call, shape: Sequence[Any], value: Array) -> Array:
    """One number, so many times."""
    if any(extent < 0 for extent in shape):
        raise NodeError(f"a shape cannot be {tuple(shape)}")
    n.budget(math.prod(shape) * value.dtype.itemsize)
    return np.full(shape, value, value.dtype)


def _range(n: Call) -> Array:
    start, limit, step = (known(n, number) for number in range(3))
    if any(symbolic.is_symbolic(part) for part in (start, limit, step)):
        raise symbolic.undecided("a range of integers")
    if any(part.size != 1 for part in (start, limit, step)) or step.reshape(-1)[0] == 0:
        raise NodeError("start, limit and step must be single numbers, the step not 0")
    first, last, by = (part.reshape(-1)[0].item() for part in (start, limit, step))
    count = max(math.ceil((last - first) / by), 0)
    n.budget(count * 8)
    return np.asarray(first + by * np.arange(count), start.dtype)


def _gather(n: Call) -> Array:
    x, index = known(n), known(n, 1)
    axis = axis_of(n.attributes.integer("axis", 0), x.ndim)
    n.budget(index.size * x.size // max(x.shape[axis], 1) * 8)
    return np.asarray(np.take(x, index, axis), x.dtype)


def _concat(n: Call) -> Array:
    parts = [known(n, number) for number in range(n.count)]
    n.budget(sum(part.size for part in parts) * 8)
    if any(symbolic.is_symbolic(part) for part in parts):
        parts = [symbolic.objects(part) for part in parts]
    return np.concatenate(parts, axis_of(n.attributes.integer("axis", 0), parts[0].ndim))


def _slice(n: Call) -> Array:
    x = known(n)
    chosen: list[Any] = [slice(None)] * x.ndim
    for axis, cut in cuts(n).items():
        chosen[axis] = _numpy_slice(cut)
    return np.asarray(x[tuple(chosen)])


def _numpy_slice(cut: Cut) -> slice:
    start, stop, step = cut
    if not isinstance(start, int) or not isinstance(stop, int):
        raise symbolic.undecided("where a slice begins or ends")
    return slice(start, None if step < 0 and stop < 0 else stop, step)


def _reduce(function: np.ufunc, pairs: Callable[[Any, Any], Any] | None) -> Fold:
    def fold(n: Call) -> Array:
        x = known(n)
        axes = n.axes()
        if not axes:
            if axes is not None and n.attributes.flag("noop_with_empty_axes"):
                return x
            axes = tuple(range(x.ndim))
        chosen = tuple(axis_of(axis, x.ndim) for axis in axes)
        keep = n.attributes.flag("keepdims", True)
        if symbolic.is_symbolic(x):
            if pairs is None:
                raise symbolic.undecided(n.node.op_type)
            function_of_extents = np.frompyfunc(pairs, 2, 1)
            for axis in sorted(chosen, reverse=True):
                x = np.asarray(function_of_extents.reduce(x, axis, keepdims=keep), object)
            return x
        return np.asarray(function.reduce(x, axis=chosen, keepdims=keep)).astype(x.dtype)

    return fold


def _logic(function: np.ufunc) -> Fold:
    return lambda n: np.asarray(function(*(known(n, number) for number in range(n.count))))


def _size(n: Call) -> Array:
    return np.array(known(n).size, np.int64)


def _nonzero(n: Call) -> Array:
    x = known(n)
    if symbolic.is_symbolic(x):
        raise symbolic.undecided("which elements are not 0")
    return np.array(np.nonzero(x), np.int64)


def _scatter_nd(n: Call) -> Array:
    x, index, updates = known(n), known(n, 1), known(n, 2)
    if n.attributes.text("reduction", "none") != "none":
        raise NodeError("a reduction of constants is not supported")
    if symbolic.is_symbolic(x) or symbolic.is_symbolic(updates):
        x, updates = symbolic.objects(x), symbolic.objects(updates)
    result = x.copy()
    result[tuple(np.moveaxis(index, -1, 0))] = updates
    return result


FOLDS: dict[str, Fold] = {
    "Abs": _function(np.abs, lambda n: n),
    "Ceil": _function(np.ceil, lambda n: n),
    "Floor": _function(np.floor, lambda n: n),
    "Round": _function(np.rint, lambda n: n),
    "Neg": _function(np.negative, lambda n: n * -1),
    "Sign": _function(np.sign),
    "Sqrt": _function(np.sqrt),
    "Exp": _function(np.exp),
    "Log": _function(np.log),
    "Sin": _function(np.sin),
    "Cos": _function(np.cos),
    "Reciprocal": _function(np.reciprocal),
    "Not": _logic(np.logical_not),
    "And": _logic(np.logical_and),
    "Or": _logic(np.logical_or),
    "Xor": _logic(np.logical_xor),
    "Add": _operator(np.add, lambda a, b: a + b),
    "Sub": _operator(np.subtract, lambda a, b: a - b),
    "Mul": _operator(np.multiply, lambda a, b: a * b),
    "Div": _division,
    "Max": _operator(np.maximum, symbolic.largest),
    "Min": _operator(np.minimum, symbolic.smallest),
    "Mod": _modulo,
    "Pow": _power,
    "Equal": _operator(np.equal, symbolic.equal, True),
    "Less": _operator(np.less, symbolic.less, True),
    "Greater": _operator(np.greater, lambda a, b: symbolic.less(b, a), True),
    "LessOrEqual": _operator(np.less_equal, lambda a, b: not symbolic.less(b, a), True),
    "GreaterOrEqual": _operator(np.greater_equal, lambda a, b: not symbolic.less(a, b), True),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Size": _size,
    "NonZero": _nonzero,
    "ScatterND": _scatter_nd,
    "ReduceSum": _reduce(np.add, lambda a, b: a + b),
    "ReduceProd": _reduce(np.multiply, lambda a, b: a * b),
    "ReduceMax": _reduce(np.maximum, symbolic.largest),
    "ReduceMin": _reduce(np.minimum, symbolic.smallest),
}
"""What is computed at import. Operators that only move elements are in `operators.movement`."""
