"""Gathered patches times weights: tiles, blocks and families that the small examples do not reach.

What every algorithm has to satisfy is tested in ``test_algorithms``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import convc
import ir
from convc.algorithms import Site
from convc.algorithms.convolution import Convolution
from convc.algorithms.im2col import Im2col
from convc.algorithms.im2col.families import products_of
from convc.backend.target import available, target_named
from ir.loops.nodes import Kernel, Local, Stmt, Store
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.window import Pads
from ir.types import Array
from tests.examples import select
from tests.loops_runner import natively, run

DTYPES = {"f32": np.float32, "f64": np.float64}
NO = (0, 0)
MODULE = "convc.algorithms.im2col"


@dataclass(frozen=True)
class Case:
    """A geometry in which all three directions are computed."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    pads: Pads = ((1, 1), (1, 1))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def attributes(self) -> tuple[tuple[int, ...], Pads, tuple[int, ...], int]:
        return self.stride, self.pads, self.dilation, self.groups

    def graph(self, direction: str, dtype: str = "f32", frozen: bool = False) -> ir.Graph:
        """One node ``y``; ``frozen`` makes the weights constant."""
        conv = Conv(*self.attributes)
        out = (self.x[0], self.w[0], *conv.output_sizes(self.x[2:], self.w[2:]))
        shapes = {"x": self.x, "w": self.w, "g": out}
        op = {
            "c": conv,
            "h": ConvInputGrad(*self.attributes, self.x[2:]),
            "g": ConvWeightGrad(*self.attributes, self.w[2:]),
        }[direction]
        b = ir.Builder("one")
        values = []
        for name in op.operand_names():
            if frozen and name == "w":
                values.append(b.weight("w", whole(self.w, 3).astype(DTYPES[dtype])))
            else:
                values.append(b.input(name, f"{dtype}[{', '.join(map(str, shapes[name]))}]"))
        b.output("y", b.apply(op, *values, name="y"))
        return b.build()

    def site(self, direction: str) -> Site:
        graph = self.graph(direction)
        return Site.of(graph, graph.nodes[0], target_named())


def whole(shape: tuple[int, ...], seed: int) -> Array:
    """Small whole numbers, whose sums are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape)


def inputs(graph: ir.Graph) -> dict[str, Array]:
    return {
        name: whole(type.static_shape, seed).astype(type.dtype.numpy)
        for seed, (name, type) in enumerate(graph.inputs.items())
    }


CASES = [
    Case("rows and channels remain", (3, 7, 13, 19), (21, 7, 3, 3)),
    Case("long line", (2, 5, 700), (37, 5, 4), (1,), ((3, 0),), (1,)),
    Case("stride with remainder", (1, 6, 17, 20), (10, 6, 3, 2), (2, 3), (NO, (1, 2))),
    Case("dilated, strided", (1, 3, 19, 23), (5, 3, 3, 3), (2, 1), ((2, 3), (4, 1)), (3, 2)),
    Case("groups", (2, 12, 9, 11), (18, 4, 3, 3), (1, 2), ((1, 0), (0, 1)), groups=3),
    Case("depthwise", (1, 5, 9, 40), (5, 1, 3, 5), groups=5),
    Case("stride as wide as the kernel", (1, 3, 12, 12), (20, 3, 4, 4), (4, 4), (NO, NO)),
    Case("stride wider than the kernel", (1, 3, 14, 13), (20, 3, 2, 1), (4, 3), (NO, (1, 0))),
    Case("stride and dilation share a factor", (1, 2, 21, 25), (4, 2, 3, 3), (4, 6),
         ((3, 4), (2, 2)), (2, 4)),
    Case("planes that share cache sets", (2, 3, 16, 16), (9, 3, 3, 3)),
    Case("no batch", (0, 3, 6, 7), (4, 3, 3, 3)),
    Case("crop", (1, 3, 8, 9), (4, 3, 2, 3), pads=((-1, -2), (1, -1))),
    Case("3-D", (2, 3, 5, 6, 7), (6, 3, 2, 3, 3), (2, 1, 2), ((1, 0), (1, 1), (0, 2)), (1,) * 3),
]  # fmt: skip


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little memory for a task that small cases fall into many tiles, blocks and chunks."""
    for place in ("tiles", "families", "gradient"):
        monkeypatch.setattr(f"{MODULE}.{place}.COLUMNS", 2048)
        monkeypatch.setattr(f"{MODULE}.{place}.PIXELS", 40)
    monkeypatch.setattr(f"{MODULE}.products.OUTS", 6)
    monkeypatch.setattr(f"{MODULE}.gradient.SUMS", 2048)


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["c", "h", "g"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("tight")
def test_many_tiles_give_the_interpreters_bits(
    case: Case, direction: str, dtype: str, target: str
) -> None:
    graph = case.graph(direction, dtype)
    given = inputs(graph)
    model = convc.compile(graph, 2, algorithms={"y": "im2col"}, target=target)
    np.testing.assert_array_equal(model.run(given)["y"], ir.interpret(graph, given)["y"])


@pytest.mark.parametrize("direction", ["c", "h", "g"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("tight")
def test_any_threads_and_any_order_of_tasks_give_the_same_bits(
    case: Case, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On numbers that round, and in memory that holds NaN until it is written."""
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)
    graph = case.graph(direction)
    given = {name: array * np.float32(0.1) for name, array in inputs(graph).items()}
    models = [convc.compile(graph, n, algorithms={"y": "im2col"}) for n in (1, 3)]
    one, three = (model.run(given)["y"].tobytes() for model in models)
    backwards = natively(target_named(), lambda tasks: reversed(range(tasks)))
    assert one == three == run(models[0].stages().plan, given, backwards)["y"].tobytes()


@pytest.mark.parametrize("direction", ["c", "h"])
def test_constant_weights_and_an_epilogue(direction: str) -> None:
    case = CASES[4]
    graph = case.graph(direction, frozen=True)
    b = ir.Builder("two")
    node = graph.nodes[0]
    values = {name: b.input(name, type) for name, type in graph.inputs.items()}
    values |= {name: b.weight(name, array) for name, array in graph.weights.items()}
    y = b.apply(node.op, *(values[name] for name in node.inputs), name="y")
    bias = whole((y.type.static_shape[1],), 9).astype("f4")
    addend = whole(y.type.static_shape, 8).astype("f4")
    y = b.relu(b.apply(ir.ops.Add(), b.bias(y, b.weight("b", bias)), b.weight("a", addend)))
    b.output("out", y)
    fused = b.build()
    model = convc.compile(fused, algorithms={"y": "im2col"})
    assert [algorithm.name for algorithm in model.stages().algorithms.values()] == ["im2col"]
    given = inputs(fused)
    np.testing.assert_array_equal(model.run(given)["out"], ir.interpret(fused, given)["out"])


# -- families ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "classes"),
    [
        (Case("", (1, 3, 32, 32), (8, 3, 16, 16), (16, 16), (NO, NO)), [(16, 16)]),
        (Case("", (1, 3, 8, 8), (8, 3, 2, 2), (2, 2), (NO, NO)), [(2, 2)]),
        (Case("", (1, 3, 8, 8), (8, 3, 3, 3), (2, 2), (NO, (1, 1))), [(1, 1)] * 4),
        (Case("", (1, 3, 9, 9), (8, 3, 3, 3)), [(1, 1)]),
        (Case("", (1, 3, 12, 11), (8, 3, 2, 1), (4, 1), (NO, NO)), [(2, 1), (2, 1)]),
    ],
)
def test_residues_with_equal_patches_make_one_product(
    case: Case, classes: list[tuple[int, ...]]
) -> None:
    parts = products_of(Convolution.of(case.site("h")))
    assert sorted(part.classes for part in parts) == sorted(classes)


def test_the_weights_of_all_products_are_those_of_the_kernel() -> None:
    """Each once: the products cover every tap of every residue."""
    for case in CASES:
        if case.x[0]:
            parts = products_of(Convolution.of(case.site("h")))
            assert sum(part.size for part in parts) <= np.prod(case.w)


# -- memory, choice ----------------------------------------------------------------------


def locals_of(body: tuple[Stmt, ...]) -> int:
    """Bytes of the locals of one nest."""
    own = [stmt for stmt in body if isinstance(stmt, Local)]
    inner = [s for s in body if not isinstance(s, Local | Store)]
    size = sum(np.prod(local.shape) * (4 if local.dtype == "f32" else 8) for local in own)
    return int(size) + sum(locals_of(stmt.body) for stmt in inner)


@pytest.mark.parametrize("direction", ["c", "h", "g"])
def test_the_memory_of_a_task_does_not_grow_with_the_layer(direction: str) -> None:
    for case in (Case("", (1, 512, 28, 28), (512, 512, 3, 3)),
                 Case("", (1, 3, 512, 512), (64, 3, 7, 7), (2, 2), ((3, 3), (3, 3))),
                 Case("", (1, 64, 16000), (64, 64, 9), (1,), ((4, 4),), (1,))):  # fmt: skip
        model = convc.compile(case.graph(direction), algorithms={"y": "im2col"})
        kernels: list[Kernel] = [step.kernel for step in model.stages().plan.steps]
        assert max(locals_of((nest,)) for k in kernels for nest in k.body) <= 700 << 10


def test_it_is_chosen_for_a_transposed_stride_as_wide_as_the_kernel() -> None:
    """A patch embedding backward: one product instead of one for each of 256 residues."""
    case = Case("", (1, 3, 224, 224), (768, 3, 16, 16), (16, 16), (NO, NO))
    assert select(case.graph("h"), target_named())["y"].name == "im2col"
    layer = Case("", (1, 64, 56, 56), (64, 64, 3, 3))
    assert select(layer.graph("c"), target_named())["y"].name != "im2col"


def test_without_channels_there_is_nothing_to_multiply() -> None:
    site = Case("", (2, 0, 4, 4), (3, 0, 3, 3)).site("c")
    assert Im2col().supports(site) == "the tensor is empty"


def test_it_is_only_for_convolutions() -> None:
    relu = ir.Builder("one")
    relu.output("y", relu.relu(relu.input("x", "f32[3, 4]")))
    graph = relu.build()
    site = Site.of(graph, graph.nodes[0], target_named())
    assert Im2col().supports(site) == "only for convolutions"
