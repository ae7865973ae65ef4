"""Random convolutions for properties: a geometry, whole numbers for it, and who computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

import convc
import ir

Array = np.ndarray[Any, Any]
Run = Callable[[ir.Graph, dict[str, Array]], dict[str, Array]]
Make = Callable[..., ir.Value]
SEEDS = st.integers(0, 2**32 - 1)


def native(graph: ir.Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """Machine code whose sums are exact where numbers are whole."""
    return convc.compile(graph, threads=1, accuracy="exact").run(inputs)


RUNS = pytest.mark.parametrize(
    "run", [pytest.param(ir.interpret, id="interpreter"), pytest.param(native, id="native")]
)
few = settings(max_examples=15, deadline=None)
fewer = settings(max_examples=6, deadline=None)  # where each takes many compilations


def evaluated(run: Run, make: Make, **arrays: Array) -> Array:
    """What `run` makes of the graph that `make` builds for these inputs."""
    return run(graph_of(make, **arrays), arrays)["y"]


def graph_of(make: Make, **arrays: Array) -> ir.Graph:
    b = ir.Builder()
    values = [b.input(name, ir.TensorType.of(array)) for name, array in arrays.items()]
    b.output("y", make(b, *values))
    return b.build()


def gradients(run: Run, graph: ir.Graph, inputs: dict[str, Array], g: Array) -> dict[str, Array]:
    """The vector-Jacobian products with `g`, by the name of the input."""
    results = run(ir.vjp(graph), inputs | {"grad_y": g})
    return {name: results[f"grad_{name}"] for name in inputs}


def whole(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Small whole numbers in float64: their products and sums are exact."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes]


@dataclass(frozen=True)
class Case:
    """A convolution of x [N, C, *S] by w [K, C/groups, *k]."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def arguments(self) -> dict[str, Any]:
        return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation,
                "groups": self.groups}  # fmt: skip

    def conv(self, b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
        return b.conv(x, w, **self.arguments)

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the result."""
        types = (ir.TensorType(ir.DType.FLOAT64, shape) for shape in (self.x, self.w))
        op = ir.ops.Conv(self.stride, self.pad, self.dilation, self.groups)
        return op.infer(*types)[0].static_shape


@st.composite
def cases(draw: st.DrawFn, axes: int | None = None, most: int = 7, plain: bool = False) -> Case:
    """Any geometry, or with `plain` one without stride, dilation and groups."""
    ones = st.just(1)
    dims = axes or draw(st.integers(1, 3))
    groups = draw(ones if plain else st.integers(1, 2))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    stride = tuple(draw(ones if plain else st.integers(1, 3)) for _ in range(dims))
    dilation = tuple(draw(ones if plain else st.integers(1, 2)) for _ in range(dims))
    pad = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(dims))
    size = tuple(
        draw(st.integers(max(1, (k - 1) * d + 1 - lo - hi), most))
        for k, d, (lo, hi) in zip(kernel, dilation, pad, strict=True)
    )
    x = (draw(st.integers(1, 2)), inputs, *size)
    return Case(x, (outputs, inputs // groups, *kernel), stride, pad, dilation, groups)
