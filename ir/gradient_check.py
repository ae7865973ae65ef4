"""Gradients beside finite differences: whether what ops say of their derivatives is true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ir.autodiff import vjp
from ir.errors import GradientError, InputError
from ir.graph import Graph
from ir.inputs import check_inputs
from ir.interpreter import evaluations, interpret
from ir.ops.functions import StopGradient
from ir.types import Array, TensorType, described

STEPS = (1e-6, 1e-7, 1e-8, 1e-5, 1e-4)  # along a direction, in this order
MOVES = 2  # points to try beside the given one, which may be on a kink
NEAR = 0.01  # how far away they are, relative to each element
NOISE = 8 * float(np.finfo(np.float64).eps)  # of a sum, relative to the magnitudes of its terms
NAMED = 4  # of what is moved together, in a message
Arrays: TypeAlias = "Mapping[str, Array]"


def check_gradients(
    graph: Graph, inputs: Arrays | None = None, wrt: Sequence[str] | None = None, *,
    directions: int = 2, together: bool = False, tolerance: float = 1e-6, seed: int = 0,
) -> float:  # fmt: skip
    """Compare the gradients of `graph` with central differences, both interpreted in float64.

    For each float output, its elements weighted at random, and each float input and weight (or
    those in `wrt`), along random `directions`: the gradient times the direction, of `vjp`, is to be
    the slope that two evaluations of the graph show. `together` moves all of `wrt` at once: fewer
    evaluations for a coarser look. Inputs that are not given are drawn: normal floats, labels and
    indices in their range, other integers 0; sizes have to be bound for them.

    Deviations are relative to the slope, or to the root of the sum of the squares that it is a sum
    of, where that is larger, with room for rounding. Integers stay as they are, and so does what
    goes through `stop_gradient`.

    On a kink (relu at 0, the maximum of equal elements) there is no slope to agree with, and a step
    over one shows another. So a gradient is wrong if it deviates for each of several steps, down to
    1e-8, and not only here: at points a hundredth away, too, where zeros are above zero.

    Returns the largest deviation, which is not above `tolerance`. Raises GradientError otherwise,
    with the output, the input or weight, both numbers, and the first op whose own gradient is
    wrong, or where nothing is float; InputError where an output is not finite.
    """
    if isinstance(directions, bool) or not isinstance(directions, int) or directions < 1:
        raise InputError(f"directions = {described(directions)} must be 1 or more")
    if not (isinstance(tolerance, float | int) and 0 < tolerance < np.inf):
        raise InputError(f"tolerance = {described(tolerance)} must be a number above 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed = {described(seed)} must be 0 or more")
    if wrt is not None and not wrt:
        raise InputError("wrt is empty; name an input or a weight")
    rng = np.random.default_rng(seed)
    start = point = _Point.of(graph, inputs or {}, wrt, rng)
    how = _How(directions, together, tolerance, rng)
    wrong: list[_Slope] = []
    for _ in range(1 + MOVES):
        try:
            found = how.slopes(point)
        except InputError:  # only the given point has to be one where outputs are finite
            if not wrong:
                raise
            break
        deviating = [slope for slope in found if not slope.deviation <= tolerance]
        if not deviating:
            return max(slope.deviation for slope in found)
        wrong = wrong or deviating
        point = point.moved(rng)
    told = "; ".join(map(str, wrong))
    raise GradientError(f"graph '{graph.name}': {told}{_guilty(start, tolerance)}")


@dataclass(frozen=True)
class _Point:
    """A float64 graph with sizes bound, all float weights as inputs, and data for the inputs."""

    graph: Graph
    wrt: tuple[str, ...]
    data: Arrays

    @staticmethod
    def of(
        graph: Graph, given: Arrays, wrt: Sequence[str] | None, rng: np.random.Generator
    ) -> _Point:
        """Draws what is not given; raises as `check_gradients`."""
        drawn = {name: _drawn(graph, name, type, rng)
                 for name, type in graph.inputs.items() if name not in given}  # fmt: skip
        data = {**given, **drawn}
        graph = graph.bind(check_inputs(graph, data, any_float=True)).with_dtype("f64")
        back = vjp(graph, wrt, _prefix(graph))  # refuses names that are none of floats
        if wrt is None:
            wrt = [name for name in (*graph.inputs, *graph.weights) if _is_float(graph, name)]
        if not wrt or len(back.inputs) == len(graph.inputs):
            what = "input or weight" if not wrt else "output"
            raise GradientError(f"graph '{graph.name}' has no float {what}; there is no gradient")
        weights = [name for name in graph.weights if _is_float(graph, name)]
        data |= {name: graph.weights[name] for name in weights}
        graph = graph.weights_as_inputs(weights)
        exact = {name: np.asarray(data[name], t.dtype.numpy) for name, t in graph.inputs.items()}
        return _Point(graph, tuple(wrt), exact)

    def moved(self, rng: np.random.Generator) -> _Point:
        """A point nearby, where no elements are 0, or equal."""

        def beside(name: str, array: Array) -> Array:
            if not _is_float(self.graph, name):
                return array
            sizes = np.where(array == 0, _size(array), array)
            return np.asarray(array + NEAR * rng.uniform(0.1, 1, array.shape) * sizes)

        data = {name: beside(name, array) for name, array in self.data.items()}
        return replace(self, data=data)


@dataclass(frozen=True)
class _Slope:
    """Of an output along a direction: by a gradient, and by differences; deviations are relative to
    `scale`."""

    output: str
    names: Sequence[str]
    gradient: float
    difference: float
    scale: float

    @property
    def deviation(self) -> float:
        """NaN where one of the numbers is, or infinite."""
        return abs(self.gradient - self.difference) / (self.scale or 1.0)

    def __str__(self) -> str:
        names = ", ".join(f"'{name}'" for name in self.names[:NAMED])
        names += f" and {len(self.names) - NAMED} more" * (len(self.names) > NAMED)
        return (
            f"along a random direction in {names}, the gradient of '{self.output}' is "
            f"{self.gradient:.6g} and differences give {self.difference:.6g} (relative deviation "
            f"{self.deviation:.1e})"
        )


@dataclass(frozen=True)
class _How:
    """The arguments of `check_gradients`."""

    directions: int
    together: bool
    tolerance: float
    rng: np.random.Generator

    def slopes(self, point: _Point) -> list[_Slope]:
        """Of every float output, in every name or in all of them, along every direction."""
        graph, fixed = point.graph, _without_stops(point.graph)
        weights: dict[str, Array] = {}
        gradients: dict[str, Arrays] = {}
        for name, value in graph.outputs.items():
            if _is_float(graph, value):
                shape = graph.types[value].static_shape
                weights[name] = np.asarray(self.rng.standard_normal(shape))
                gradients[name] = _gradients(point, name, weights[name])
        stops = {name: name for name in fixed.inputs if name not in graph.inputs}
        stopped = interpret(graph.replace(outputs=stops), point.data) if stops else {}
        data = {**point.data, **stopped}
        groups = [point.wrt] if self.together else [(name,) for name in point.wrt]
        found: list[_Slope] = []
        for group in groups:
            for _ in range(self.directions):
                way = {n: _size(data[n]) * self.rng.standard_normal(data[n].shape) for n in group}
                found += self._agreed(self._steps(fixed, data, way, weights, gradients))
        return found

    def _agreed(self, steps: Iterator[dict[str, _Slope]]) -> Iterator[_Slope]:
        """For each output the slope that deviates least; no more steps once all agree."""
        best: dict[str, _Slope] = {}
        for slopes in steps:
            for name, slope in slopes.items():
                if name not in best or not best[name].deviation <= slope.deviation:
                    best[name] = slope
            if all(slope.deviation <= self.tolerance for slope in best.values()):
                break
        yield from best.values()

    def _steps(
        self, graph: Graph, data: Arrays, way: Arrays, weights: Arrays,
        gradients: Mapping[str, Arrays],
    ) -> Iterator[dict[str, _Slope]]:  # fmt: skip
        """The slopes of the outputs one way, for one step after the other."""
        for step in STEPS:
            ahead, behind = (
                interpret(graph, {**data, **{name: data[name] + by * way[name] for name in way}})
                for by in (step, -step)
            )
            with np.errstate(all="ignore"):
                yield {
                    name: self._slope(name, weights[name], ahead[name], behind[name], step,
                                      {of: gradients[name][of] * way[of] for of in way})
                    for name in weights
                }  # fmt: skip

    def _slope(
        self, output: str, weight: Array, ahead: Array, behind: Array, step: float, terms: Arrays
    ) -> _Slope:
        gradient = sum(float(term.sum()) for term in terms.values())
        size = sum(float((term**2).sum()) for term in terms.values()) ** 0.5
        difference = float((weight * (ahead - behind)).sum()) / (2 * step)
        noise = NOISE * float(np.abs(weight * ahead).sum()) / step
        scale = max(size, abs(difference)) + noise / self.tolerance
        return _Slope(output, tuple(terms), gradient, difference, scale)


def _gradients(point: _Point, output: str, weight: Array) -> Arrays:
    """Of one output, its elements weighted, by the names in `wrt`; InputError where the output is
    not finite."""
    prefix = _prefix(point.graph)
    graph = point.graph.replace(outputs={output: point.graph.outputs[output]})
    given = {**point.data, f"{prefix}{output}": weight}
    found = interpret(vjp(graph, point.wrt, prefix), given)
    if not np.isfinite(found[output]).all():
        hint = "is not finite for these inputs; give others"
        raise InputError(f"graph '{graph.name}': output '{output}' {hint}")
    return {name: found[f"{prefix}{name}"] for name in point.wrt}


def _guilty(point: _Point, tolerance: float) -> str:
    """For a message: the first node whose own gradient is wrong for the operands it has here."""
    several = len(point.graph.nodes) > 1
    for node, computed in evaluations(point.graph, point.data) if several else ():
        types = {name: point.graph.types[name] for name in node.inputs}
        results = {name: name for name in node.outputs}
        floats = [name for name in types if _is_float(point.graph, name)]
        if floats and any(_is_float(point.graph, name) for name in results):
            operands = {name: computed[name] for name in types}
            one = Graph(str(node), types, {}, (node,), results)
            try:
                check_gradients(one, operands, tolerance=tolerance)
            except InputError:  # which says nothing about the gradient
                continue
            except GradientError:
                return f"; the first op that is wrong by itself is {node}"
    return ""


def _prefix(graph: Graph) -> str:
    """One that no name of the graph begins with."""
    prefix = "slope_"
    while any(name.startswith(prefix) for name in (*graph.types, *graph.outputs)):
        prefix = f"_{prefix}"
    return prefix


def _without_stops(graph: Graph) -> Graph:
    """The graph in which what goes through stop_gradient is given."""
    stops = [node.name for node in graph.nodes if isinstance(node.op, StopGradient)]
    inputs = {**graph.inputs, **{name: graph.types[name] for name in stops}}
    nodes = tuple(node for node in graph.nodes if node.name not in stops)
    return graph.replace(inputs=inputs, nodes=nodes) if stops else graph


def _drawn(graph: Graph, name: str, type: TensorType, rng: np.random.Generator) -> Array:
    if type.dtype.is_float:
        return np.asarray(rng.standard_normal(type.static_shape))
    readers = [node for node in graph.consumers(name) if node.inputs[1:2] == (name,)]
    bounds = [node.op.index_bound(*(graph.types[n] for n in node.inputs)) for node in readers]
    limit = min((bound for bound in bounds if isinstance(bound, int)), default=1)
    return rng.integers(0, max(limit, 1), type.static_shape, dtype=np.int64)


def _is_float(graph: Graph, value: str) -> bool:
    return graph.types[value].dtype.is_float


def _size(array: Array) -> float:
    """The root of the mean square of the elements; 1 where all are 0."""
    return float(np.sqrt(np.square(array).mean())) or 1.0 if array.size else 1.0
