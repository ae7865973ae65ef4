"""Who computes the right numbers: contenders are compared with each other, then with float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.algorithms import Algorithm, Site
from convc.answers import tolerance
from convc.tools.accuracy import accuracy, magnitudes, peak

Array: TypeAlias = "np.ndarray[Any, Any]"
Results: TypeAlias = Mapping[str, Array]


class Referee:
    """Compares results of one node on one set of operands.

    Where all agree, none is looked at further: the interpreter takes longer than all of them. Once
    two differ by more than they promise, its float64 results decide about everyone.
    """

    def __init__(self, graph: ir.Graph, site: Site, inputs: Results) -> None:
        self._graph, self._site, self._inputs = graph, site, inputs
        (self._node,) = graph.nodes
        self._entered: list[str] = []
        self._first: tuple[Algorithm, Results] | None = None
        self._exact: Results | None = None
        self._scale: dict[str, float] = {}

    def wrong(self, algorithm: Algorithm, results: Results) -> set[str]:
        """The names of algorithms found wrong by what ``algorithm`` computed; maybe its own."""
        found = set[str]()
        self._first = self._first or (algorithm, results)
        if self._exact is None:
            if self._agree(algorithm, results, *self._first):
                self._entered.append(algorithm.name)
                return found
            self._ask_interpreter()
            if not self._right(*self._first):
                found.update(self._entered)  # they all agreed with the first
        return found if self._right(algorithm, results) else found | {algorithm.name}

    def _agree(self, one: Algorithm, ones: Results, other: Algorithm, others: Results) -> bool:
        """By less than both promise, as the largest result is at most what a sum adds up."""
        allowed = sum(tolerance(each, self._site) for each in (one, other))
        return all(
            accuracy(ones[name], np.asarray(others[name], np.float64),
                     allowed * peak(others[name])).passed
            for name in self._node.outputs
        )  # fmt: skip

    def _ask_interpreter(self) -> None:
        wide = ir.values(self._graph, self._inputs, "float64")
        operands = [wide[name] for name in self._node.inputs]
        self._exact = {name: wide[name] for name in self._node.outputs}
        scales = magnitudes(self._node.op, operands, list(self._exact.values()))
        self._scale = dict(zip(self._exact, scales, strict=True))

    def _right(self, algorithm: Algorithm, results: Results) -> bool:
        assert self._exact is not None
        allowed = tolerance(algorithm, self._site)
        return all(
            accuracy(results[name], exact, allowed * self._scale[name]).passed
            for name, exact in self._exact.items()
        )
