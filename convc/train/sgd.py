"""Stochastic gradient descent with momentum, compiled into the step itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

import ir
from convc.compile_arguments import check_graph
from convc.errors import InputError
from convc.model import Model, compile
from ir.types import described

Array = npt.NDArray[Any]


def training_step(graph: ir.Graph, loss: str = "loss", momentum: float = 0.9) -> ir.Graph:
    """One step of gradient descent on the scalar output ``loss``, as a graph.

    For each float weight w with velocity v: v' = momentum * v + dloss/dw, w' = w - rate * v'.
    Inputs: those of ``graph``, ``rate`` [], then w and ``velocity_w`` for each weight. Outputs:
    ``loss``, then ``next_w`` and ``next_velocity_w``. Raises ``ir.GradientError`` where the loss
    cannot be differentiated, ``InputError`` where it is no scalar output or ``momentum`` is not in
    [0, 1).
    """
    check_graph(graph)
    if not (_finite(momentum) and 0 <= momentum < 1):
        raise InputError(f"momentum={described(momentum)} must be a number in [0, 1)")
    if loss not in graph.outputs or graph.types[graph.outputs[loss]].shape != ():
        raise InputError(f"graph '{graph.name}' has no scalar output '{loss}'; "
                         f"its outputs are {', '.join(graph.outputs)}")  # fmt: skip
    only = graph.replace(outputs={loss: graph.outputs[loss]})
    names = [name for name, array in graph.weights.items() if array.dtype.kind == "f"]
    backward = ir.vjp(only.weights_as_inputs(names), names)
    b = ir.Builder.of(_seeded(backward, loss))
    dtype = graph.types[graph.outputs[loss]].dtype
    rate = b.input("rate", ir.TensorType(dtype, ()))
    for name in names:
        weight, gradient = b.value(name), b.value(backward.outputs[f"grad_{name}"])
        velocity = b.input(f"velocity_{name}", weight.type)
        following = b.scale(velocity, momentum) + gradient
        b.output(f"next_{name}", weight - rate * following)
        b.output(f"next_velocity_{name}", following)
    built = b.build()
    kept = {name: value for name, value in built.outputs.items() if not name.startswith("grad_")}
    return ir.dead_code(built.replace(outputs=kept))


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _seeded(backward: ir.Graph, loss: str) -> ir.Graph:
    """The gradient of the loss in itself is 1: a weight instead of an input."""
    seed = f"grad_{loss}"
    inputs = {name: type for name, type in backward.inputs.items() if name != seed}
    one = np.ones((), backward.types[seed].dtype.numpy)
    return backward.replace(inputs=inputs, weights={**backward.weights, seed: one})


class Trainer:
    """Holds weights and velocities, and the compiled step that advances both.

    Each step reads one set of arrays and writes the other, so nothing is copied.
    """

    def __init__(
        self,
        graph: ir.Graph,
        loss: str = "loss",
        momentum: float = 0.9,
        threads: int | None = None,
        target: str | None = None,
    ) -> None:
        self.graph, self.loss = graph, loss
        self.step_graph = training_step(graph, loss, momentum)
        self.model: Model = compile(self.step_graph, threads=threads, target=target)
        self._names = [n[len("next_") :] for n in self.step_graph.outputs if n != loss]
        self._state = {name: self._initial(name) for name in self._names}
        self._spare = {name: np.empty_like(array) for name, array in self._state.items()}
        self._dtype = graph.types[graph.outputs[loss]].dtype.numpy

    def _initial(self, name: str) -> Array:
        if name in self.graph.weights:
            return self.graph.weights[name].copy()
        return np.zeros_like(self.graph.weights[name.removeprefix("velocity_")])

    def inputs(self, batch: Mapping[str, Array], rate: float) -> dict[str, Array]:
        """The inputs of ``step_graph`` for a batch and the current state.

        Raises ``InputError`` for a rate that is no finite number.
        """
        if not _finite(rate):
            raise InputError(f"rate={described(rate)} must be a finite number")
        if not isinstance(batch, Mapping):
            hint = "give a dict of the graph's inputs by name"
            raise InputError(f"a batch is a mapping, not {described(batch)}; {hint}")
        return {**batch, **self._state, "rate": np.asarray(rate, self._dtype)}

    def step(self, batch: Mapping[str, Array], rate: float) -> float:
        """Advance once on a batch (the graph's inputs by name); the loss before the step.

        Raises ``InputError`` for a rate that is no finite number.
        """
        given = self.inputs(batch, rate)
        into = {f"next_{name}": array for name, array in self._spare.items()}
        results = self.model.run(given, outputs=into)
        self._state, self._spare = self._spare, self._state
        return float(results[self.loss])

    @property
    def weights(self) -> dict[str, Array]:
        """Copies of the current weights, by name."""
        names = (name for name in self._names if name in self.graph.weights)
        return {name: self._state[name].copy() for name in names}

    def trained(self, graph: ir.Graph | None = None) -> ir.Graph:
        """``graph`` (default: the one in training) with the current weights instead of its own."""
        graph = graph or self.graph
        current = self.weights
        return graph.replace(weights={n: current.get(n, a) for n, a in graph.weights.items()})
