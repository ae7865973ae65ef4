"""The functions of the kernel language: arity, typing rule and meaning, in one table.

The code generator has a table with the same keys; a test holds that they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.loops.nodes import Scalar
from ir.numeric import erf, mixed, shifted_right, truncated

Typing = Callable[[tuple[Scalar, ...]], Scalar | None]
FLOATS: tuple[Scalar, ...] = ("f32", "f64")


@dataclass(frozen=True)
class Function:
    """``typing`` gives the result type, or None where the argument types are wrong."""

    arity: int
    typing: Typing
    evaluate: Callable[..., Any]


def _numeric(types: tuple[Scalar, ...]) -> Scalar | None:
    return types[0] if types[0] != "bool" and len(set(types)) == 1 else None


def _floating(types: tuple[Scalar, ...]) -> Scalar | None:
    return types[0] if types[0] in FLOATS and len(set(types)) == 1 else None


def _integral(types: tuple[Scalar, ...]) -> Scalar | None:
    return "i64" if set(types) == {"i64"} else None


def _comparison(types: tuple[Scalar, ...]) -> Scalar | None:
    return "bool" if _numeric(types) else None


def _logical(types: tuple[Scalar, ...]) -> Scalar | None:
    return "bool" if set(types) == {"bool"} else None


def _selection(types: tuple[Scalar, ...]) -> Scalar | None:
    return types[1] if types[0] == "bool" and types[1] == types[2] else None


def _conversion(result: Scalar) -> Typing:
    return lambda types: result if types[0] != "bool" else None


def _fma(a: Any, b: Any, c: Any) -> Any:
    """``a*b + c``; in f32 with one rounding (up to a double rounding), as the hardware does."""
    if np.result_type(a, b, c) == np.float32:
        return (np.float64(a) * b + c).astype(np.float32)
    return a * b + c


def _pow(a: Any, b: Any) -> Any:
    """As in IEEE 754, which ``np.power`` leaves for (-∞)^½."""
    return np.float_power(a, b).astype(np.result_type(a, b))


def _select(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(condition, yes, no)[()]


FUNCTIONS: dict[str, Function] = {
    "add": Function(2, _numeric, np.add),
    "sub": Function(2, _numeric, np.subtract),
    "mul": Function(2, _numeric, np.multiply),
    "div": Function(2, _floating, np.divide),
    "fma": Function(3, _floating, _fma),
    "max": Function(2, _floating, np.maximum),  # NaN if either is NaN
    "min": Function(2, _floating, np.minimum),
    "neg": Function(1, _numeric, np.negative),
    "abs": Function(1, _floating, np.abs),
    "sqrt": Function(1, _floating, np.sqrt),
    "exp": Function(1, _floating, np.exp),
    "expm1": Function(1, _floating, np.expm1),
    "log": Function(1, _floating, np.log),
    "tanh": Function(1, _floating, np.tanh),
    "erf": Function(1, _floating, erf),
    "softplus": Function(1, _floating, lambda x: np.logaddexp(x, np.zeros_like(x))),
    "pow": Function(2, _floating, _pow),
    "rint": Function(1, _floating, np.rint),  # ties to even
    "floor": Function(1, _floating, np.floor),
    "ceil": Function(1, _floating, np.ceil),
    "shr": Function(2, _integral, shifted_right),  # zeros come in
    "mix": Function(1, _integral, mixed),  # the output function of SplitMix64
    "lt": Function(2, _comparison, np.less),
    "le": Function(2, _comparison, np.less_equal),
    "gt": Function(2, _comparison, np.greater),
    "ge": Function(2, _comparison, np.greater_equal),
    "eq": Function(2, _comparison, np.equal),
    "isnan": Function(1, lambda types: "bool" if _floating(types) else None, np.isnan),
    "and": Function(2, _logical, np.logical_and),
    "or": Function(2, _logical, np.logical_or),
    "not": Function(1, _logical, np.logical_not),
    "select": Function(3, _selection, _select),
    "f32": Function(1, _conversion("f32"), np.float32),
    "f64": Function(1, _conversion("f64"), np.float64),
    "i64": Function(1, _conversion("i64"), truncated),  # towards 0, saturating, 0 for NaN
}
