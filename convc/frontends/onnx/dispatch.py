"""Which way the results of a node are made: computed at import, or emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convc.frontends.onnx.call import OF_SIZES, Call, Emit, Known, Live, Result, listed
from convc.frontends.onnx.errors import NodeError, UndecidedError
from convc.frontends.onnx.fold import FOLDS
from convc.frontends.onnx.operators import OPERATORS

NO_OPERATOR = "convc has no such operator"
UNCOMPUTED = ("Cos", "NonZero", "Sin")  # that only what is known can be given to


def results(kind: str, n: Call) -> Sequence[Result]:
    """What an operator makes of the operands of a node; NodeError where it cannot.

    What is known is computed, but for arithmetic that depends on symbolic sizes: that is left to
    when the model runs, if it may be.
    """
    known = all(isinstance(operand, Known) for operand in n.operands)
    tables: tuple[Mapping[str, Emit], ...] = (FOLDS, OPERATORS) if known else (OPERATORS, FOLDS)
    ways = [table[kind] for table in tables if kind in table]
    if not ways:
        raise NodeError(NO_OPERATOR)
    if kind in UNCOMPUTED and any(isinstance(o, Live) and o.inputs for o in n.operands):
        raise NodeError(f"{NO_OPERATOR} for values that depend on inputs")
    with np.errstate(all="ignore"):
        try:
            made = ways[0](n)
        except UndecidedError:
            if not known or len(ways) == 1 or kind not in OF_SIZES:
                raise
            made = ways[1](n)
    return listed(made)
