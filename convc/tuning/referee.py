"""Who computes the right numbers: contenders are compared with each other, then with float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.algorithms import Algorithm, Site
from convc.tools.accuracy import accuracy, magnitude, peak

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
        self._entered: list[Algorithm] = []
        self._first: Results | None = None
        self._exact: Results | None = None
        self._scale: dict[str, float] = {}

    def wrong(self, algorithm: Algorithm, results: Results) -> set[str]:
        """The names of algorithms found wrong by what ``algorithm`` computed; maybe its own."""
        self._entered.append(algorithm)
        if self._first is None:
            self._first = results
        first, *others = self._entered
        if self._exact is None:
            if algorithm is first or self._agree(algorithm, results, first, self._first):
                return set()
            self._ask_interpreter()
            if not self._right(first, self._first):  # all until now agreed with it
                others = [other for other in others if other is not algorithm]
                found = {first.name, *(other.name for other in others)}
                return found | self._verdict(algorithm, results)
        return self._verdict(algorithm, results)

    def _verdict(self, algorithm: Algorithm, results: Results) -> set[str]:
        return set() if self._right(algorithm, results) else {algorithm.name}

    def _agree(self, one: Algorithm, ones: Results, other: Algorithm, others: Results) -> bool:
        """By less than both promise, as the largest result is at most what a sum adds up."""
        tolerance = one.tolerance(self._site) + other.tolerance(self._site)
        return all(
            accuracy(ones[name], np.asarray(others[name], np.float64),
                     tolerance * peak(others[name])).passed
            for name in self._node.outputs
        )  # fmt: skip

    def _ask_interpreter(self) -> None:
        wide = ir.values(self._graph, self._inputs, "float64")
        operands = [wide[name] for name in self._node.inputs]
        self._exact = {name: wide[name] for name in self._node.outputs}
        self._scale = {
            name: magnitude(self._node.op, operands, exact) for name, exact in self._exact.items()
        }

    def _right(self, algorithm: Algorithm, results: Results) -> bool:
        assert self._exact is not None
        tolerance = algorithm.tolerance(self._site)
        return all(
            accuracy(results[name], exact, tolerance * self._scale[name]).passed
            for name, exact in self._exact.items()
        )
