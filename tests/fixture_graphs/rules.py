"""What a fixture says, and how its tensors stand in a graph."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import ir

Array: TypeAlias = np.ndarray[Any, Any]
Attrs: TypeAlias = dict[str, Any]
Fixture: TypeAlias = dict[str, Any]
Stand: TypeAlias = Callable[[Array, Attrs], Array]
Values: TypeAlias = dict[str, ir.Value]

FIXTURES: dict[str, Fixture] = {
    fixture["id"]: fixture
    for fixture in json.loads(
        Path(__file__).parents[1].joinpath("fixtures.json").read_text(encoding="utf-8")
    )["fixtures"]
}


class Rule(NamedTuple):
    """How a fixture's op is said: how its operands and its result stand, and what is emitted.

    `attrs` are the attributes that `emit` minds. An op with several results emits them by name.
    """

    operands: Mapping[str, Stand]
    result: Stand
    emit: Callable[[ir.Builder, Values, Attrs], ir.Value | Values]
    attrs: frozenset[str] = frozenset()


def plain(array: Array, attrs: Attrs) -> Array:
    """Weights, biases per channel, kernel gradients, losses: as they are."""
    return array


def example(array: Array, attrs: Attrs) -> Array:
    """An activation: one example of a batch. A number is one channel with one position."""
    if attrs.get("batched"):
        return array
    return array.reshape(1, 1, 1) if array.ndim == 0 else array[None]


def single(array: Array, attrs: Attrs) -> Array:
    """An operand without channels: one example of one channel, or one kernel for it."""
    return array[None, None]


def geometry(attrs: Attrs) -> Attrs:
    """Stride and pad, which fixtures and builder write alike."""
    return {key: attrs[key] for key in ("stride", "pad") if key in attrs}
