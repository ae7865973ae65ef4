"""Stochastic gradient descent with momentum, compiled into the step itself."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Mapping
from inspect import signature
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import ir
from convc.compile_arguments import check_graph
from convc.errors import InputError
from convc.model import Model, compile
from ir.errors import did_you_mean
from ir.ops import BatchNorm, BatchNormTraining, StopGradient
from ir.types import described

Array = npt.NDArray[Any]
RATES = ("lr", "rate", "learning_rate")  # as others call what a step is given
Chosen: TypeAlias = Collection[str] | Callable[[str], bool] | None
"""Weights to learn, by name or by a predicate of the name; None for all that are learned."""


def training_step(
    graph: ir.Graph, loss: str = "loss", momentum: float = 0.9, wrt: Chosen = None
) -> ir.Graph:
    """One step of gradient descent on the scalar output ``loss``, as a graph.

    For each weight w that is learned, with velocity v: v' = momentum * v + dloss/dw and
    w' = w - rate * v'. Learned are the float weights that gradients reach
    (``ir.ops.StopGradient``), but for the mean and variance of ``ir.ops.BatchNorm``; of these
    ``wrt`` chooses some, by a predicate of the name, or it names what to learn. A running mean or
    variance of ``ir.ops.BatchNormTraining`` becomes the one that it computes.
    Inputs: those of ``graph``, ``rate`` [], then w and ``velocity_w`` for each weight. Outputs:
    ``loss``, then ``next_w`` and ``next_velocity_w``; running values have no velocity. Raises
    ``ir.GradientError`` where the loss cannot be differentiated, ``InputError`` where it is no
    scalar output, ``momentum`` is not in [0, 1), ``wrt`` names what cannot be learned or chooses
    nothing, or two nodes move the same running value.
    """
    check_graph(graph)
    if not (_finite(momentum) and 0 <= momentum < 1):
        raise InputError(f"momentum={described(momentum)} must be a number in [0, 1)")
    if loss not in graph.outputs or graph.types[graph.outputs[loss]].shape != ():
        raise InputError(f"graph '{graph.name}' has no scalar output '{loss}'; "
                         f"its outputs are {', '.join(graph.outputs)}")  # fmt: skip
    only = ir.dead_code(graph.replace(outputs={loss: graph.outputs[loss]}))
    moved = _running(only)
    names = _chosen(only, [name for name in _reached(only) if name not in moved], wrt)
    backward = ir.vjp(only.weights_as_inputs([*names, *moved]), names)
    b = ir.Builder.of(_seeded(backward, loss))
    dtype = graph.types[graph.outputs[loss]].dtype
    rate = b.input("rate", ir.TensorType(dtype, ()))
    for name in names:
        weight, gradient = b.value(name), b.value(backward.outputs[f"grad_{name}"])
        velocity = b.input(f"velocity_{name}", weight.type)
        following = b.scale(velocity, momentum) + gradient
        b.output(f"next_{name}", weight - rate * following)
        b.output(f"next_velocity_{name}", following)
    for name, value in moved.items():
        b.output(f"next_{name}", b.value(value))
    built = b.build()
    kept = {name: value for name, value in built.outputs.items() if not name.startswith("grad_")}
    return ir.dead_code(built.replace(outputs=kept))


def _chosen(graph: ir.Graph, reached: list[str], wrt: Chosen) -> list[str]:
    """Of the weights that gradients reach, those to learn."""
    fixed = {name for node in graph.nodes if isinstance(node.op, BatchNorm)
             for name in node.inputs[1:]}  # fmt: skip
    usual = [name for name in reached if name not in fixed]
    if wrt is None:
        return usual
    if callable(wrt):
        names = [name for name in usual if wrt(name)]
        if not names:
            raise InputError(f"wrt chooses none of the weights: {_listed(usual)}")
        return names
    if isinstance(wrt, str) or not isinstance(wrt, Collection):
        hint = f"['{wrt}']" if isinstance(wrt, str) else "names, or a function of the name"
        raise InputError(f"wrt={described(wrt)}: give {hint}")
    for name in wrt:
        if name not in reached:
            can = f"what can be learned: {_listed(reached)}"
            raise InputError(f"wrt: {described(name)} is no weight that gradients reach; {can}")
    return [name for name in reached if name in wrt]


def _listed(names: list[str]) -> str:
    return textwrap.shorten(", ".join(names), 400, placeholder="...") or "(none)"


def _reached(graph: ir.Graph) -> list[str]:
    """The float weights that gradients of the outputs reach."""
    reached = set(graph.outputs.values())
    for node in reversed(graph.nodes):
        if reached.intersection(node.outputs) and not isinstance(node.op, StopGradient):
            reached.update(node.inputs)
    return [n for n, a in graph.weights.items() if n in reached and a.dtype.kind == "f"]


def _running(graph: ir.Graph) -> dict[str, str]:
    """The weights that are running statistics, and the values that take their places.

    One node may go on from the results of another, as where a layer is used several times.
    """
    weight_of: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, BatchNormTraining):
            for given, following in zip(node.inputs[1:], node.outputs[1:], strict=True):
                weight = weight_of.pop(given, given)
                if weight in weight_of.values():
                    hint = "let it go on from the running values that the other computes"
                    raise InputError(f"{node.name} moves '{weight}', as another node does; {hint}")
                if weight in graph.weights:
                    weight_of[following] = weight
    return {weight: value for value, weight in weight_of.items()}


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _seeded(backward: ir.Graph, loss: str) -> ir.Graph:
    """The gradient of the loss in itself is 1: a weight instead of an input."""
    seed = f"grad_{loss}"
    inputs = {name: type for name, type in backward.inputs.items() if name != seed}
    one = np.ones((), backward.types[seed].dtype.numpy)
    return backward.replace(inputs=inputs, weights={**backward.weights, seed: one})


def _check_names(compiling: Collection[str]) -> None:
    """InputError for what neither a trainer nor ``convc.compile`` takes."""
    own = [name for name in signature(Trainer).parameters if name != "compiling"]
    known = dict.fromkeys((*own, *signature(compile).parameters))
    for name in compiling:
        if name in RATES:
            hint = f"; each step is given the rate: trainer.step(batch, rate={name})"
        elif name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        else:
            continue
        raise InputError(f"Trainer has no argument {name}={hint}")


class Trainer:
    """Holds weights and velocities, and the compiled step that advances both.

    Stochastic gradient descent with momentum, no other optimiser: ``training_step`` says what a
    step computes and what ``loss``, ``momentum`` and ``wrt`` are; the learning rate is given to
    each ``step``. Further arguments are those of ``convc.compile``; nodes to force algorithms on
    are those of ``training_step``'s graph. Each step reads one set of arrays and writes the other,
    so nothing is copied.

    Raises ``InputError`` for an unknown argument, and what ``training_step`` and
    ``convc.compile`` raise.
    """

    def __init__(
        self,
        graph: ir.Graph,
        loss: str = "loss",
        momentum: float = 0.9,
        wrt: Chosen = None,
        **compiling: Any,
    ) -> None:
        _check_names(compiling)
        self.graph, self.loss = graph, loss
        self.step_graph = training_step(graph, loss, momentum, wrt)
        self.model: Model = compile(self.step_graph, **compiling)
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
    def state(self) -> dict[str, Array]:
        """Copies of all that steps change: weights, and ``velocity_w`` for each that is learned."""
        return {name: array.copy() for name, array in self._state.items()}

    def resume(self, state: Mapping[str, Array]) -> None:
        """Go on from the ``state`` of a trainer of the same graph, as ``np.load`` may give it.

        Raises ``InputError`` unless it has the names, shapes and element types of this one's.
        """
        if not isinstance(state, Mapping) or state.keys() != self._state.keys():
            given = ", ".join(map(str, state)) if isinstance(state, Mapping) else described(state)
            wanted = ", ".join(self._state)
            raise InputError(f"the state must have {wanted}, not {given or 'nothing'}")
        for name, current in self._state.items():
            array = np.asarray(state[name])
            if array.shape != current.shape or array.dtype != current.dtype:
                given = f"{array.dtype}{list(array.shape)}"
                wanted = f"{current.dtype}{list(current.shape)}"
                raise InputError(f"state of '{name}' is {given}, must be {wanted}")
        for name, current in self._state.items():
            np.copyto(current, state[name])

    @property
    def weights(self) -> dict[str, Array]:
        """Copies of the current weights, by name."""
        names = (name for name in self._names if name in self.graph.weights)
        return {name: self._state[name].copy() for name in names}

    def trained(self, graph: ir.Graph | None = None) -> ir.Graph:
        """``graph`` (default: the one in training) with the current weights instead of its own.

        It may leave some of them out, such as those of a loss. Raises ``InputError`` where it has
        none of them, or one with another shape or element type.
        """
        graph = self.graph if graph is None else graph
        check_graph(graph)
        current = self.weights
        shared = [name for name in current if name in graph.weights]
        if current and not shared:
            have = f"it has {_listed([*graph.weights])}, and the trainer {_listed([*current])}"
            raise InputError(f"graph '{graph.name}' has no weight that was trained: {have}")
        for name in shared:
            given, trained = graph.types[name], self.graph.types[name]
            if given != trained:
                raise InputError(f"weight '{name}' of graph '{graph.name}' is {given}, and was "
                                 f"trained as {trained}")  # fmt: skip
        return graph.replace(weights={n: current.get(n, a) for n, a in graph.weights.items()})
