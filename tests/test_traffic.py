"""The bytes that ``convc profile`` counts: those that kernels touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.tools.traffic import moved_bytes, touched_bytes
from ir.loops import Kernel, interpret, parse
from ir.loops.interpreter import NUMPY
from tests.examples import graph_of, program_of


class Watched(np.ndarray[Any, Any]):
    """An array that knows which of its elements were read or written."""

    touched: Any = None

    def __getitem__(self, key: Any) -> Any:
        self.touched[key] = True
        return self.view(np.ndarray)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.touched[key] = True
        super().__setitem__(key, value)


def touched_by_the_interpreter(kernel: Kernel) -> int:
    buffers = []
    for param in kernel.params:
        buffer = np.ones(param.shape, NUMPY[param.dtype]).view(Watched)
        buffer.touched = np.zeros(param.shape, bool)
        buffers.append(buffer)
    interpret(kernel, buffers)
    return sum(int(b.touched.sum()) * b.itemsize for b in buffers)


@pytest.mark.parametrize(
    ("params", "store", "nbytes"),
    [
        ("in x: f32[6, 8], out y: f32[6, 8]", "y[i, j] = x[i, j]", 2 * 48 * 4),
        ("in x: f32[9, 12], out y: f32[9, 12]", "y[i + 1, j] = x[i, j + 2]", 2 * 48 * 4),
        ("in x: f64[20, 8], out y: f64[6, 8]", "y[i, j] = x[2*i + 1, j]", 2 * 48 * 8),
        ("in x: f32[7, 8], out y: f32[6, 8]", "y[i, j] = add(x[i, j], x[i + 1, j])", 104 * 4),
        ("in x: f32[6, 8], out y: f32[6, 8]", "y[i, j] = x[0, j]", 56 * 4),
        ("in x: f32[48], out y: f32[6, 8]", "y[i, j] = x[8*i + j]", 2 * 48 * 4),
        ("in x: i64[6, 8], in t: f32[9], out y: f32[6, 8]", "y[i, j] = t[clamp(x[i, j])]",
         48 * 8 + (9 + 48) * 4),
    ],
)  # fmt: skip
def test_what_is_touched_is_counted_once(params: str, store: str, nbytes: int) -> None:
    loops = f"parallel i in 0..6 {{\n    vector j in 0..8 {{\n      {store}\n    }}\n  }}"
    assert touched_bytes(parse(f"kernel k({params}) {{\n  {loops}\n}}\n")) == nbytes


OPS = (ir.ops.Conv, ir.ops.ConvInputGrad, ir.ops.MaxPool, ir.ops.Sum, ir.ops.Slice, ir.ops.Concat)


@pytest.mark.parametrize("kind", OPS, ids=lambda kind: kind.name)
def test_the_count_is_near_what_the_loop_interpreter_touches(kind: type[ir.Op]) -> None:
    ratios = []
    for example in kind.examples():
        for step in program_of(graph_of(example)).steps:
            exact, counted = touched_by_the_interpreter(step.kernel), touched_bytes(step.kernel)
            whole = sum(p.size * ir.DType(p.dtype).itemsize for p in step.kernel.params)
            assert exact <= counted <= whole
            ratios.append(counted / exact)
    assert np.median(ratios) < 1.05


def test_kernels_for_remaining_lanes_count_only_those() -> None:
    b = ir.Builder("remainder")
    x = b.input("x", "f32[1, 64, 30, 30]")
    w = np.ones((1000, 64, 1, 1), np.float32)
    b.output("y", b.mean(b.relu(b.conv(x, b.weight("w", w))), (2, 3)))
    steps = [step for step in convc.compile(b.build(), threads=1).stages().plan.steps
             if step.algorithm == "reduce"]  # fmt: skip
    assert len(steps) > 1
    summed = 1000 * 900 * 4
    assert summed <= sum(touched_bytes(step.kernel) for step in steps) < 1.1 * summed


def test_what_is_written_over_is_moved_twice() -> None:
    b = ir.Builder("over")
    b.output("y", b.softmax(b.exp(b.tanh(b.input("x", "f32[32, 64]"))), 1))
    steps = convc.compile(b.build(), 1, passes=()).stages().plan.steps
    (step,) = (step for step in steps if step.overwrites)
    assert moved_bytes(step) == 2 * touched_bytes(step.kernel) == 2 * 32 * 64 * 4
