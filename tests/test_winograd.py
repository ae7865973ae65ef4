"""Minimal filtering of long kernels, which are split into parts whose products are added up.

What every algorithm has to satisfy is tested in ``test_algorithms``.
"""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.algorithms.geometry import Line
from convc.algorithms.winograd.tiling import LARGEST, Axis
from convc.backend.target import available
from convc.model import Model
from convc.tools.accuracy import random_inputs
from ir.types import Array
from tests.test_im2col import Case

CASES = [
    Case("9 taps", (2, 5, 41), (18, 5, 9), (1,), ((4, 4),), (1,)),
    Case("9 taps, dilated", (1, 16, 67), (17, 16, 9), (1,), ((8, 9),), (2,)),
    Case("11 taps, the last part short", (1, 3, 30), (16, 3, 11), (1,), ((0, 0),), (1,)),
    Case("31 taps, more than the image", (1, 3, 17), (5, 3, 31), (1,), ((20, 15),), (1,)),
    Case("7x7", (2, 6, 13, 10), (20, 6, 7, 7), pads=((3, 3), (2, 4))),
    Case("7x3, dilated", (1, 4, 25, 9), (7, 4, 7, 3), (1, 1), ((3, 2), (1, 1)), (3, 1)),
    Case("1x13", (1, 17, 3, 29), (16, 17, 1, 13), pads=((0, 0), (6, 6))),
    Case("11x11", (1, 2, 12, 14), (3, 2, 11, 11), pads=((5, 5), (5, 5))),
]


def found(case: Case, direction: str, outputs: int, target: str) -> tuple[Model, Array]:
    """The model, and its error against float64 as a part of its largest result."""
    graph = case.graph(direction, frozen=True)
    given = random_inputs(graph)
    model = convc.compile(graph, 1, algorithms={"y": f"winograd{outputs}"}, target=target)
    expected = ir.interpret(graph, given, "float64")["y"]
    return model, np.abs(model.run(given)["y"] - expected) / np.abs(expected).max()


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("direction", ["c", "h"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_long_kernels_are_split(case: Case, direction: str, outputs: int, target: str) -> None:
    _, error = found(case, direction, outputs, target)
    assert error.max() < {2: 5e-6, 4: 5e-5}[outputs]


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("taps", range(2, 32))
@pytest.mark.parametrize("backwards", [False, True])
def test_the_parts_of_an_axis_have_every_tap_once(taps: int, outputs: int, backwards: bool) -> None:
    dilation = 3
    steps = (dilation * (taps - 1), 1, -dilation) if backwards else (0, 1, dilation)
    axis = Axis.of(Line(10, taps, (0, 1), steps, (0, 1)), taps, outputs)
    assert outputs + axis.taps - 1 <= LARGEST
    pairs = {
        (axis.weight_at(p, t), axis.base + axis.shift * p + axis.pitch * t)
        for p in range(axis.phases)
        for t in range(axis.taps)
    }
    read = {(w, place) for w, place in pairs if w is not None}
    assert read == {(w, steps[0] + steps[2] * w) for w in range(taps)}
