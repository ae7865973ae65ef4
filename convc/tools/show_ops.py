"""``convc show --ops``: every op of the language, what it means and how it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from inspect import getmembers, isfunction
from typing import Any

import numpy as np

import ir
from convc.algorithms import Site
from convc.backend.target import Target
from convc.errors import InputError
from convc.passes import optimised
from convc.select import candidates
from convc.tools.table import pairs
from ir.errors import did_you_mean
from ir.ops.composite import Composite

KINDS = {kind.__name__: kind.name for kind in ir.OPS}
METHODS = [name for name, _ in getmembers(ir.Builder, isfunction)
           if not name.startswith("_") and name not in ir.OP_BY_NAME]  # fmt: skip


def described(names: Sequence[str], target: Target) -> Iterator[str]:
    """A paragraph for each op (all if none is named), or method of the builder.

    Raises ``InputError`` for what is neither.
    """
    known = (*ir.OP_BY_NAME, *filter(_behind, METHODS))
    for name in names:
        if name not in known:
            raise InputError(f"--ops: no op '{name}'{did_you_mean(name, known)}")
    for name in names or ir.OP_BY_NAME:
        kind = ir.OP_BY_NAME.get(name)
        yield _method(name) if kind is None else _paragraph(kind, target)


def _method(name: str) -> str:
    """What a method of the builder means that is named like no op."""
    rows = [("method of", "ir.Builder"), ("made of", ", ".join(_behind(name)))]
    return f"{name}: {_summary(getattr(ir.Builder, name))}\n{pairs(rows)}\n"


def _behind(method: str) -> dict[str, None]:
    """The ops that a method of the builder names, itself or through other methods."""
    found = dict[str, None]()
    for word in getattr(ir.Builder, method).__code__.co_names:
        if word in KINDS:
            found[KINDS[word]] = None
        elif word in ir.OP_BY_NAME and hasattr(ir.Builder, word):
            found[word] = None
        elif word in METHODS and word != method:
            found |= _behind(word)
    return found


def _summary(described: object) -> str:
    return " ".join((described.__doc__ or "").split("\n\n")[0].split())


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
    return f"{kind.name}: {_summary(kind)}\n{pairs(rows)}\n"


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
        for each in (site, replace(site, constants=_weights(site))):
            found |= dict.fromkeys(c.algorithm.name for c in candidates(each) if c.reason is None)
    return "algorithms", ", ".join(found)


def _weights(site: Site) -> tuple[np.ndarray[Any, Any] | None, ...]:
    """Float operands after the first as weights, separable ones."""
    return tuple(
        np.ones(type.static_shape, type.dtype.numpy) if number and type.dtype.is_float else None
        for number, type in enumerate(site.inputs)
    )


def _graph(example: ir.Example) -> ir.Graph:
    b = ir.Builder(example.op.name)
    operands = zip(example.op.operand_names(), example.inputs, strict=True)
    for number, value in enumerate(b.emit(example.op, [b.input(n, t) for n, t in operands])):
        b.output(f"y{number}", value)
    return b.build()
