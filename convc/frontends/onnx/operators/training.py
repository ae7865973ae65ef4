"""Steps of optimisers, and gradients within a model (ai.onnx.preview.training)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ir
from convc.frontends.onnx.call import Call, Emit
from convc.frontends.onnx.errors import NodeError
from ir.expand import inline

Step = Callable[[Call, ir.Value, ir.Value, Sequence[ir.Value]], Sequence[ir.Value]]


def _optimiser(states: int, step: Step) -> Emit:
    """For each tensor: its value, its gradient and its states, each kind listed together."""

    def emit(n: Call) -> Sequence[ir.Value]:
        count, rest = divmod(n.count - 2, states + 2)
        if count < 1 or rest:
            raise NodeError(f"{n.count} operands; it takes 2, and {states + 2} for each tensor")
        rate, number = n.x(0), n.b.cast(n.x(1), n.x(0).dtype)
        made = []
        for i in range(count):
            values = [n.x(2 + i + kind * count) for kind in range(states + 2)]
            made.append(step(n, rate, number, values))
        return [values[kind] for kind in range(states + 1) for values in made]

    return emit


def _decayed(n: Call, x: ir.Value, g: ir.Value) -> ir.Value:
    """The gradient with that of the weight decay."""
    decay = n.attributes.number("norm_coefficient", 0.0)
    return g + x * decay if decay else g


def _adagrad(
    n: Call, rate: ir.Value, number: ir.Value, values: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    x, g, total = values
    g = _decayed(n, x, g)
    slowed = rate / (number * n.attributes.number("decay_factor", 0.0) + 1.0)
    total = total + n.b.square(g)
    epsilon = n.attributes.number("epsilon", 1e-6)
    return x - slowed * g / (n.b.sqrt(total) + epsilon), total


def _adam(
    n: Call, rate: ir.Value, number: ir.Value, values: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """From the second step on, the rate makes up for means that began at 0."""
    x, g, mean, square = values
    g = _decayed(n, x, g)
    alpha, beta = n.attributes.number("alpha", 0.9), n.attributes.number("beta", 0.999)
    mean = mean * alpha + g * (1 - alpha)
    square = square * beta + n.b.square(g) * (1 - beta)
    left = [1.0 - n.b.power(number * 0.0 + base, number) for base in (alpha, beta)]
    corrected = rate * n.b.sqrt(left[1]) / left[0]
    rate = n.b.where(n.b.greater(number, 0.0), corrected, rate)
    new = x - rate * mean / (n.b.sqrt(square) + n.attributes.number("epsilon", 1e-6))
    after = n.attributes.number("norm_coefficient_post", 0.0)
    return new * (1 - after) if after else new, mean, square


def _momentum(
    n: Call, rate: ir.Value, number: ir.Value, values: Sequence[ir.Value]
) -> Sequence[ir.Value]:
    """In the first step the gradient counts wholly."""
    x, g, velocity = values
    g = _decayed(n, x, g)
    alpha, beta = n.attributes.number("alpha", 0.0), n.attributes.number("beta", 0.0)
    share = n.b.where(n.b.greater(number, 0.0), number * 0.0 + beta, 1.0)
    velocity = velocity * alpha + share * g
    mode = n.attributes.choice("mode", "standard", "nesterov")
    return x - rate * (g + velocity * alpha if mode == "nesterov" else velocity), velocity


def _gradient(n: Call) -> Sequence[ir.Value]:
    """Of a value `y` in each of `xs`, where it is made of those and `zs` alone; summed over y."""
    xs, zs = n.attributes.texts("xs"), n.attributes.texts("zs")
    if n.count != len(xs) + len(zs):
        raise NodeError(f"{n.count} operands for {len(xs)} + {len(zs)} names")
    given = [n.x(number) for number in range(n.count)]
    y = n.house.live(n.attributes.text("y", ""))
    graph = _between(n.b.build(), given, y)
    wrt = [value.name for value in given[: len(xs)]]
    back = ir.vjp(graph, wrt)
    (seed,) = back.inputs.keys() - graph.inputs.keys()
    outputs = {name: value for name, value in back.outputs.items() if name not in graph.outputs}
    one = n.b.expand(n.b.weight(n.b.fresh("one"), y.dtype.numpy.type(1).reshape(())), y.shape)
    operands = [one if name == seed else n.b.value(name) for name in back.inputs]
    return inline(n.b, ir.dead_code(back.replace(outputs=outputs)), operands)


def _between(graph: ir.Graph, given: Sequence[ir.Value], y: ir.Value) -> ir.Graph:
    """What makes y of the values given, which become inputs."""
    names = {value.name for value in given}
    nodes = tuple(node for node in graph.nodes if not names & set(node.outputs))
    weights = {name: array for name, array in graph.weights.items() if name not in names}
    others = {name: type for name, type in graph.inputs.items() if name not in names}
    inputs = {value.name: value.type for value in given} | others
    return ir.dead_code(graph.replace(inputs=inputs, weights=weights, nodes=nodes,
                                      outputs={"y": y.name}))  # fmt: skip


DOMAIN = "ai.onnx.preview.training"
TRAINING: dict[str, Emit] = {
    f"{DOMAIN}.Adagrad": _optimiser(1, _adagrad),
    f"{DOMAIN}.Adam": _optimiser(2, _adam),
    f"{DOMAIN}.Momentum": _optimiser(1, _momentum),
    f"{DOMAIN}.Gradient": _gradient,
}
