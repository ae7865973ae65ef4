"""Building graphs by calling one method per op."""

from __future__ import annotations

from ir.build.cells import CellMethods
from ir.build.core import Value
from ir.build.dense import DenseMethods
from ir.build.elementwise import ElementwiseMethods
from ir.build.loss import LossMethods
from ir.build.movement import MovementMethods
from ir.build.norm import NormMethods
from ir.build.pool import PoolMethods
from ir.build.reduce import ReduceMethods
from ir.build.resize import ResizeMethods

__all__ = ["Builder", "Value"]


class Builder(
    CellMethods,
    PoolMethods,
    ResizeMethods,
    NormMethods,
    DenseMethods,
    ElementwiseMethods,
    MovementMethods,
    ReduceMethods,
    LossMethods,
):
    """Collects inputs, weights, nodes and outputs; `build` makes the graph.

    Every method checks at once and names the op and its operands in the error. Activations have
    shape [N, C, *S]: a batch axis, a channel axis, then spatial axes.
    """
