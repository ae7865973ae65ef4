"""How far a native result is from float64, and how far it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.indices import bounds
from ir import ops
from ir.ops.loss import LabelLoss

Array: TypeAlias = "np.ndarray[Any, Any]"
ROUNDING = 2.0**-24  # of a float32, relative to it
ELSEWHERE = "NaN or infinity at other positions"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The largest absolute error of a result, the largest that is allowed, and the first one
    relative to the largest reference magnitude."""

    error: float
    allowed: float
    relative: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed

    @property
    def excess(self) -> float:
        """The error in units of what is allowed."""
        return _ratio(self.error, self.allowed)


def accuracy(result: Array, reference: Array, bound: float) -> Accuracy:
    """``result`` beside a float64 ``reference``; an error up to ``bound`` is allowed.

    NaN and infinity must stand where the reference, rounded to the result's type, has them.
    """
    with np.errstate(all="ignore"):
        expected = reference.astype(result.dtype)
    finite = np.isfinite(expected)
    alike = np.array_equal(result[~finite], expected[~finite], equal_nan=bool((~finite).any()))
    allowed = bound + (float(np.finfo(result.dtype).tiny) if result.dtype.kind == "f" else 0.0)
    largest = peak(reference[finite])
    if not (alike and np.isfinite(result[finite]).all()):
        return Accuracy(error=np.inf, allowed=float(allowed), relative=np.inf, note=ELSEWHERE)
    error = peak(result[finite].astype(np.float64) - reference[finite])
    return Accuracy(error=error, allowed=float(allowed), relative=_ratio(error, largest))


def judging(own: Array, reference: Array, bound: float = np.inf) -> Array:
    """Where numpy, in the type of a result, is within ``bound`` of float64, or not finite just as
    that is in this type: elsewhere a result cannot be judged, as nobody's would be near."""
    with np.errstate(all="ignore"):
        expected = reference.astype(own.dtype)
        near = abs(own.astype(np.float64) - reference) <= bound
    finite = np.isfinite(expected) & np.isfinite(own)
    return np.where(finite, near, (own == expected) | (np.isnan(own) & np.isnan(expected)))


def judged(result: Array, reference: Array, bound: float, where: Array) -> Accuracy:
    """``accuracy`` of those elements alone."""
    found = accuracy(result[where], reference[where], bound)
    left = int(where.size - np.count_nonzero(where))
    note = f"{left} of {where.size} elements not compared: numpy is as far off"
    return replace(found, note="; ".join(filter(None, (found.note, note)))) if left else found


def worst(parts: Iterable[Accuracy]) -> Accuracy:
    """The one with the largest error in units of what is allowed."""
    return max(parts, key=lambda part: part.excess)


def peak(array: Array) -> float:
    """The largest finite magnitude, 0 if there is none."""
    magnitudes = np.abs(array[np.isfinite(array)])
    return float(magnitudes.max(initial=0.0))


# ---------------------------------------------------------------- the scale of rounding errors

SUMS = (
    ops.Conv, ops.ConvInputGrad, ops.ConvWeightGrad, ops.MatMul, ops.Sum, ops.AveragePool,
    ops.AveragePoolGrad, ops.Bias, ops.Add, ops.Mul, ops.Scale, ops.TakeGrad,
    ops.TakeAlongGrad,
)  # fmt: skip
Magnitude = Callable[[Any, Sequence[Array]], Array]
OTHERS: dict[type[ir.Op], Magnitude] = {
    ops.Sub: lambda op, arrays: abs(arrays[0]) + abs(arrays[1]),
    ops.Shift: lambda op, arrays: abs(arrays[0]),
    ops.Fused: lambda op, arrays: np.asarray(max(map(peak, op.values(*map(np.abs, arrays))))),
    ops.MaxPoolGrad: lambda op, arrays: op.evaluate(arrays[0], abs(arrays[1]))[0],
    ops.SoftmaxGrad: lambda op, arrays: np.asarray(2 * peak(arrays[0]) * peak(arrays[1])),
    ops.CrossEntropy: lambda op, arrays: np.ones(()),
    ops.SoftmaxCrossEntropy: lambda op, arrays: np.ones(()),
    ops.SoftmaxCrossEntropyGrad: lambda op, arrays: abs(arrays[2]) / max(arrays[1].size, 1),
}


def magnitudes(op: ir.Op, arrays: Sequence[Array], references: Sequence[Array]) -> list[float]:
    """For each result the largest sum of magnitudes that the op adds up, and at least its largest
    element.

    Cancellation makes a result smaller than the terms that it is a sum of, not its rounding error.
    """
    found = [peak(reference) for reference in references]
    with np.errstate(all="ignore"):
        if isinstance(op, SUMS):
            found[0] = max(found[0], peak(op.evaluate(*map(np.abs, arrays))[0]))
        elif isinstance(op, ops.Elementwise):
            moves = _moves(op, arrays)
            found = [max(each, peak(moves[n])) for each, n in zip(found, op.results, strict=True)]
        elif type(op) in OTHERS:
            found[0] = max(found[0], peak(OTHERS[type(op)](op, arrays)))
    return found


def _moves(op: ops.Elementwise, arrays: Sequence[Array]) -> list[Array]:
    """How far rounding may move the operands and the result of every step, in units of it.

    Operands are exact; a result moves by its own rounding, and as it follows what it is made of
    (a running error analysis, Wilkinson 1963, by differences instead of derivatives).
    """
    values = op.values(*arrays)
    moves: list[Array] = [np.zeros(()) for _ in arrays]
    for step, args in op.steps:
        exact, given = values[len(moves)], [values[arg] for arg in args]
        total = abs(exact) * (1.0 if exact.dtype.kind == "f" else 0.0)
        for position, arg in enumerate(args):
            for sign in (1, -1) if moves[arg].any() else ():
                beside = list(given)
                there = given[position] + sign * ROUNDING * moves[arg]
                beside[position] = there.astype(given[position].dtype)
                moved = abs(step.evaluate(*beside)[0] - exact) / ROUNDING
                total = total + np.where(np.isfinite(moved), moved, 0) / 2
        moves.append(total)
    return moves


def _ratio(error: float, largest: float) -> float:
    if largest:
        return error / largest
    return np.inf if error else 0.0


def leaps(op: ir.Op, arrays: Sequence[Array], reference: Array, bound: float) -> Array:
    """How far each result moves as that of the root of a fused op moves by ``bound``: through a
    step, to the next one."""
    moves = np.zeros(reference.shape)
    if not isinstance(op, ops.Fused):
        return moves
    for sign in (1, -1):
        shifted = replace(op, epilogue=(ops.Shift(sign * bound), *op.epilogue))
        with np.errstate(all="ignore"):
            moved = abs(shifted.evaluate(*arrays)[0] - reference)
        moves = np.maximum(moves, np.where(np.isfinite(moved), moved, 0))
    return moves


# ---------------------------------------------------------------- inputs to try


def random_inputs(graph: ir.Graph, seed: int = 0) -> dict[str, Array]:
    """Arrays for the inputs of a static graph: normal floats, labels and indices in their range.

    An input that is used as a probability is positive.
    """
    rng = np.random.default_rng(seed)
    limits = {name: bound.limit for name, bound in bounds(ir.expand(graph)).items()}
    return {
        name: _random(graph, name, type, rng)
        if type.dtype.is_float
        else rng.integers(0, max(1, limits.get(name, 10)), type.static_shape, dtype=np.int64)
        for name, type in graph.inputs.items()
    }


def _random(graph: ir.Graph, name: str, type: ir.TensorType, rng: np.random.Generator) -> Array:
    shape = type.static_shape
    losses = (node for node in graph.consumers(name) if isinstance(node.op, LabelLoss))
    probability = any(n.inputs[0] == name and n.op.operands[0] == "p" for n in losses)
    data = rng.uniform(0.1, 1.0, shape) if probability else rng.standard_normal(shape)
    return np.asarray(data).astype(type.dtype.numpy)
