"""What is known about shapes, and constants: results that are known at import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Known, Live, Result
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.fold import FOLDS
from convc.frontends.onnx.sizes import number, numbered
from convc.frontends.onnx.symbolic import extents, is_symbolic, undecided
from ir.dims import product
from ir.types import Array, DType

NUMBERS: dict[str, tuple[str, Any]] = {
    "value_float": ("number", np.float32),
    "value_int": ("integer", np.int64),
    "value_floats": ("numbers", np.float32),
    "value_ints": ("integers", np.int64),
}


def _constant(n: Call) -> Array:
    if "value" in n.attributes:
        value = n.array("value")
        assert value is not None
        return value
    for name, (kind, dtype) in NUMBERS.items():
        if name in n.attributes:
            read = getattr(n.attributes, kind)
            return np.asarray(read(name) if kind.endswith("s") else read(name, 0), dtype)
    raise NodeError("only tensors and numbers are supported")


def _shape(n: Call) -> Array:
    shape = n.shape()
    rank = len(shape)
    start, stop = n.attributes.integer("start", 0), n.attributes.integer("end", rank)
    first, last, _ = slice(start, stop).indices(rank)
    return extents(shape[first:last])


def _size(n: Call) -> Array:
    return extents([product(n.shape())]).reshape(())


def _identity(n: Call) -> Result:
    return n.operand(0)


def _dropout(n: Call) -> list[Result]:
    """As for inference: everything is kept."""
    if n.opset >= 12 and n.has(2) and n.number(2, "training_mode"):
        rate = n.number(1, "ratio") if n.has(1) else 0.5
        if rate:
            raise NodeError("training_mode is set; export the model for inference")
    x = n.operand(0)
    if not n.wants(1):
        return [x]
    if isinstance(x, Known):
        return [x, np.ones(x.array.shape, bool)]
    return [x, _filled(n, 1.0, x.value)]


def _filled(n: Call, number: float, like: ir.Value) -> Result:
    """A truth of the shape of a value, 1 or 0 all over."""
    one = n.b.weight(n.b.fresh("mask"), np.asarray(number, np.float32))
    return Live(n.b.expand(one, like.shape), truth=True)


def _constant_of_shape(n: Call) -> ir.Value:
    """One number, as often as symbolic sizes say."""
    value = n.array("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise NodeError(f"attribute value has {value.size} elements, not one")
    return n.b.expand(n.live(Known(value.reshape(()))), n.extents(0, "the shape"))


def _range(n: Call) -> Result | Sequence[Result]:
    """Integers from a start up or down to a limit, as many as symbolic sizes say."""
    parts = [n.constant(number, f"operand {number}") for number in range(3)]
    if not any(map(is_symbolic, parts)):
        return FOLDS["Range"](n)
    if any(part.size != 1 or part.dtype.kind == "f" for part in parts):
        raise undecided("a range of floats")
    start, limit, step = (n.extents(number, "a range")[0] for number in range(3))
    if not isinstance(step, int) or step == 0:
        raise NodeError("the step of a range must be a known integer, not 0")
    count = (limit - start + step - 1) // step if step > 0 else (start - limit - step - 1) // -step
    first, by = number(n.b, start), number(n.b, step)
    return n.b.cast(numbered(n.b, first, by, count), DType.INT64)


def _eye_like(n: Call) -> Array:
    rows, columns = n.sizes()
    n.budget(8 * math.prod(n.sizes()))
    kind = np.dtype(np.float32)
    if "dtype" in n.attributes or isinstance(n.operand(0), Known):
        from convc.frontends.onnx.tensors import numpy_type

        element = n.attributes.integer("dtype", 0)
        operand = n.operand(0)
        kind = operand.array.dtype if isinstance(operand, Known) else kind
        kind = numpy_type(element) if element else kind
    return np.eye(rows, columns, n.attributes.integer("k", 0), dtype=kind)


SHAPES: dict[str, Emit] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": _size,
    "Identity": _identity,
    "Dropout": _dropout,
    "EyeLike": _eye_like,
    "Range": _range,
}
