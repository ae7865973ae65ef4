"""Names: those of the model, as they are; a number follows where one is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import ir
from convc.errors import LoadError
from ir.dims import RESERVED

STANDARD = ("", "ai.onnx")  # what the domain of ONNX's own operators is called
OWN = "convc"  # the domain of functions that the exporter writes


def checked(name: str) -> str:
    """The name; LoadError where it is no text: protobuf gives the bytes that it cannot decode."""
    if not isinstance(name, str):
        raise LoadError(f"the name {name!r:.60} is not in UTF-8")
    return name


def unique(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where it is taken; taken from now on."""
    chosen, number = name, 0
    while chosen in taken:
        number += 1
        chosen = f"{name}_{number}"
    taken.add(chosen)
    return chosen


def symbol_name(text: str, taken: set[str]) -> str:
    """A name for a symbolic size after what a model calls it: ``height/2`` is height_2."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "size"
    name = f"n{name}" if name[0].isdigit() or name in RESERVED else name
    return unique(name[:100], taken)


def renamed(graph: ir.Graph, wanted: Mapping[str, str]) -> ir.Graph:
    """The graph with the values in `wanted` called so, all different, and others out of their way.

    The names of outputs, as seen from outside, stay.
    """
    taken = set(wanted.values())
    names = dict(wanted)
    for value in graph.types:
        if value not in names:
            names[value] = unique(value, taken)
    nodes = [
        replace(
            node,
            inputs=tuple(names[value] for value in node.inputs),
            outputs=tuple(names[value] for value in node.outputs),
        )
        for node in graph.nodes
    ]
    return graph.replace(
        inputs={names[name]: type for name, type in graph.inputs.items()},
        weights={names[name]: array for name, array in graph.weights.items()},
        nodes=tuple(nodes),
        outputs={public: names[value] for public, value in graph.outputs.items()},
    )
