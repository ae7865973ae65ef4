"""``convc show --ops``: every op of the language, what it means and how it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import ir
from convc.algorithms import Site
from convc.backend.target import Target
from convc.errors import InputError
from convc.passes import optimised
from convc.select import candidates
from convc.tools.table import pairs
from ir.errors import did_you_mean
from ir.ops.composite import Composite


def described(names: Sequence[str], target: Target) -> Iterator[str]:
    """A paragraph for each op (all if none is named). Raises ``InputError`` for an unknown one."""
    for name in names:
        if name not in ir.OP_BY_NAME:
            raise InputError(f"--ops: no op '{name}'{did_you_mean(name, ir.OP_BY_NAME)}")
    for op in [ir.OP_BY_NAME[name] for name in names] or ir.OPS:
        yield _paragraph(op, target)


def _paragraph(kind: type[ir.Op], target: Target) -> str:
    examples = kind.examples()
    first = examples[0]
    results = first.op.infer(*first.inputs)
    operands = zip(first.op.operand_names(), first.inputs, strict=True)
    shapes = ", ".join(f"{name} {type}" for name, type in operands)
    attributes = ", ".join(f"{f.name} = {getattr(first.op, f.name)}" for f in fields(first.op))
    rows = [
        ("formula", kind.formula),
        ("attributes", attributes or "none"),
        ("example", f"{shapes} → {', '.join(map(str, results))}"),
        ("gradient", _gradient(first)),
        _computed(examples, target),
    ]
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return f"{kind.name}: {summary}\n{pairs(rows)}\n"


def _gradient(example: ir.Example) -> str:
    """The ops that the gradients of an example are made of."""
    graph = _graph(example)
    floats = [type for type in graph.types.values() if type.dtype.is_float]
    wrt = [name for name, type in graph.inputs.items() if type.dtype.is_float]
    if not wrt or not floats:
        return "none: there are integers only"
    try:
        back = ir.vjp(graph, wrt)
    except ir.GradientError as error:
        return f"none: {str(error).rpartition(': ')[2]}"
    grads = back.replace(outputs={n: v for n, v in back.outputs.items() if n not in graph.outputs})
    used = dict.fromkeys(node.op.name for node in ir.dead_code(ir.expand(grads)).nodes)
    return ", ".join(used) or "passes through"


def _computed(examples: Sequence[ir.Example], target: Target) -> tuple[str, str]:
    """The algorithms that apply to some example, or the ops that it is expanded to."""
    if isinstance(examples[0].op, Composite):
        parts = optimised(_graph(examples[0])).nodes
        return "expands to", ", ".join(dict.fromkeys(node.op.name for node in parts)) or "nothing"
    found = dict[str, None]()
    for example in examples:
        graph = _graph(example)
        site = Site.of(graph, graph.nodes[0], target)
        found |= dict.fromkeys(c.algorithm.name for c in candidates(site) if c.reason is None)
    return "algorithms", ", ".join(found)


def _graph(example: ir.Example) -> ir.Graph:
    b = ir.Builder(example.op.name)
    operands = zip(example.op.operand_names(), example.inputs, strict=True)
    for number, value in enumerate(b.emit(example.op, [b.input(n, t) for n, t in operands])):
        b.output(f"y{number}", value)
    return b.build()
