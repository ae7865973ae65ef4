"""Separable convolution: which kernels it takes, and that its passes compute what they should."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

import convc
import ir
from convc.algorithms import ALGORITHMS, Site
from convc.algorithms.separable import APPROXIMATE, Separable, factors
from convc.backend.target import available, target_named
from convc.errors import AlgorithmError
from ir.ops import Conv
from ir.ops.window import Pads
from ir.types import Array
from tests.examples import select
from tests.loops_runner import as_loops, natively, run

SOBEL = np.outer([1, 2, 1], [-1, 0, 1])
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
SLASH = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])[:2]
TYPES = {"f32": np.float32, "f64": np.float64}
NO = (0, 0)


def products(shape: tuple[int, ...], terms: int = 1, decay: float = 1.0, seed: int = 0) -> Array:
    """Kernels that are sums of outer products, each term smaller than the one before."""
    rng = np.random.default_rng(seed)
    taps, total = shape[2:], np.zeros(shape)
    for term in range(terms):
        each = np.full(shape, decay**term)
        for axis, extent in enumerate(taps):
            along = [extent if other == axis else 1 for other in range(len(taps))]
            each = each * rng.standard_normal((*shape[:2], *along))
        total += each
    return total


def graph_of(
    x: tuple[int, ...], w: Array, op: Conv, dtype: str = "f32", epilogue: bool = False
) -> ir.Graph:
    """One convolution by frozen weights, named ``y``, if wanted with all that can follow it."""
    b = ir.Builder("one")
    weights = b.weight("w", w.astype(TYPES[dtype]))
    y = b.apply(op, b.input("x", f"{dtype}[{', '.join(map(str, x))}]"), weights, name="y")
    if epilogue:
        rng = np.random.default_rng(5)
        y = b.bias(y, b.weight("b", rng.standard_normal(w.shape[0]).astype(TYPES[dtype])))
        addend = rng.standard_normal(y.type.static_shape).astype(TYPES[dtype])
        y = b.relu(b.apply(ir.ops.Add(), y, b.weight("a", addend)))
    b.output("out", y)
    return b.build()


def image(graph: ir.Graph) -> Array:
    type = graph.inputs["x"]
    return np.random.default_rng(7).standard_normal(type.static_shape).astype(type.dtype.numpy)


def reason(graph: ir.Graph, terms: int = 1, target: str | None = None) -> str | None:
    node = next(node for node in graph.nodes if isinstance(node.op, Conv))
    return Separable(terms).supports(Site.of(graph, node, target_named(target)))


@dataclass(frozen=True)
class Case:
    """A geometry; the channels decide what the lanes are."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    pads: Pads = ((1, 1), (1, 1))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def op(self) -> Conv:
        return Conv(self.stride, self.pads, self.dilation, self.groups)


CASES = [
    Case("one channel", (1, 1, 9, 37), (1, 1, 5, 7), pads=((2, 2), (3, 3))),
    Case("few channels", (3, 3, 21, 40), (3, 1, 3, 3), groups=3),
    Case("stride with remainder", (1, 2, 9, 43), (2, 1, 3, 2), (2, 3), (NO, (1, 0)), groups=2),
    Case("dilated", (1, 3, 19, 31), (3, 1, 3, 4), (1, 1), ((2, 3), (4, 1)), (2, 3), 3),
    Case("mixing, few", (1, 5, 12, 20), (3, 5, 3, 4)),
    Case("mixing, many", (2, 3, 10, 9), (17, 3, 3, 5), (2, 1), ((2, 0), (1, 2)), (1, 2)),
    Case("groups that mix", (1, 6, 11, 18), (4, 3, 3, 3), groups=2),
    Case("two outputs a channel", (1, 17, 8, 9), (34, 1, 3, 3), groups=17),
    Case("depthwise", (2, 33, 14, 13), (33, 1, 5, 3), pads=((2, 2), (1, 1)), groups=33),
    Case("depthwise, strided", (1, 17, 9, 11), (17, 1, 3, 3), (2, 3), ((1, 0), (2, 1)), (1, 2), 17),
    Case("pad beyond kernel", (1, 2, 1, 2), (2, 1, 2, 2), pads=((4, 3), (2, 5)), groups=2),
    Case("crop", (1, 20, 6, 7), (20, 1, 2, 3), pads=((-1, -2), (1, -1)), groups=20),
    Case("batch 0", (0, 3, 6, 7), (3, 1, 3, 3), groups=3),
    Case("3-D", (1, 2, 7, 8, 9), (2, 1, 3, 2, 4), (1, 2, 1), (NO, (0, 2), (2, 2)), (1, 1, 2), 2),
    Case("3-D, depthwise", (1, 18, 5, 6, 7), (18, 1, 3, 3, 3), (2, 1, 2), ((1, 1),) * 3, (1,) * 3,
         18),
    Case("3-D, mixing", (1, 2, 4, 5, 6), (17, 2, 2, 3, 1), (1,) * 3, ((1, -1), (1, 1), NO),
         (1, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_passes_compute_the_convolution(case: Case, dtype: str, target: str) -> None:
    graph = graph_of(case.x, products(case.w), case.op, dtype)
    x = image(graph)
    got = convc.compile(graph, 2, algorithms={"y": "separable"}, target=target)(x)
    want = ir.interpret(graph, {"x": x}, "float64")["out"]
    size = case.op.evaluate(np.abs(x, dtype=float), np.abs(graph.weights["w"], dtype=float))[0]
    assert got.dtype == x.dtype and got.shape == want.shape
    assert np.all(np.abs(got - want) <= (3e-6 if dtype == "f32" else 3e-14) * size)


@pytest.mark.parametrize("case", CASES[1::4], ids=lambda case: case.name)
def test_loops_and_machine_code_agree_in_any_order_of_tasks(case: Case) -> None:
    graph = graph_of(case.x, products(case.w), case.op, "f64")
    x = image(graph)
    model = convc.compile(graph, 1, algorithms={"y": "separable"})
    plan, native = model.stages().plan, model(x).reshape(-1)
    loops = run(plan, {"x": x}, as_loops())["out"]
    np.testing.assert_allclose(loops, native, rtol=1e-12, atol=1e-12)
    assert run(plan, {"x": x}, as_loops(reverse=True))["out"].tobytes() == loops.tobytes()
    backwards = natively(target_named(), lambda tasks: reversed(range(tasks)))
    assert run(plan, {"x": x}, backwards)["out"].tobytes() == native.tobytes()


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)
    for case in CASES[::3]:
        graph = graph_of(case.x, products(case.w), case.op)
        one, more = (convc.compile(graph, n, algorithms={"y": "separable"}) for n in (1, threads))
        assert one(image(graph)).tobytes() == more(image(graph)).tobytes()


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[8]], ids=lambda case: case.name)
def test_bias_addend_and_relu_are_fused(case: Case, target: str) -> None:
    graph = graph_of(case.x, products(case.w), case.op, epilogue=True)
    model = convc.compile(graph, algorithms={"y": "separable"}, target=target)
    assert [algorithm.name for algorithm in model.stages().algorithms.values()] == ["separable"]
    want = ir.interpret(graph, {"x": image(graph)}, "float64")["out"]
    np.testing.assert_allclose(model(image(graph)), want, rtol=1e-4, atol=1e-4)


def test_the_halo_that_a_reader_wishes_is_zero() -> None:
    """A convolution that reads the result reaches into its halo."""
    b = ir.Builder("two")
    w = b.weight("w", products((3, 1, 5, 5)).astype("f4"))
    y = b.apply(Conv((1, 1), ((2, 2), (2, 2)), (1, 1), 3), b.input("x", "f32[2, 3, 11, 35]"), w,
              name="y")  # fmt: skip
    v = b.weight("v", np.ones((3, 1, 3, 3), np.float32))
    b.output("out", b.apply(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 3), y, v, name="z"))
    graph = b.build()
    model = convc.compile(graph, algorithms={"y": "separable", "z": "direct_rows"})
    want = ir.interpret(graph, {"x": image(graph)}, "float64")["out"]
    np.testing.assert_allclose(model(image(graph)), want, rtol=1e-4, atol=1e-4)


# -- which kernels -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "rank"), [(SOBEL, 1), (CROSS, 2), (SLASH, 2), (0 * SOBEL, 0)],
    ids=["sobel", "cross", "slash", "zero"],
)  # fmt: skip
def test_the_rank_of_a_kernel_decides(kernel: Array, rank: int) -> None:
    graph = graph_of((1, 1, 8, 8), kernel[None, None], Conv((1, 1), (NO, NO), (1, 1), 1))
    refused = reason(graph)
    assert refused is None if rank < 2 else refused is not None and "not of rank 1" in refused
    if rank < 2:
        got = convc.compile(graph, algorithms={"y": "separable"})(image(graph))
        want = ir.interpret(graph, {"x": image(graph)}, "float64")["out"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_unfolding_of_rank_one_is_not_enough() -> None:
    """A product of a vector and a matrix of rank 2."""
    kernel = np.einsum("i,jk->ijk", [1, 2], [[0, 1], [1, 0]])
    op = Conv((1,) * 3, (NO,) * 3, (1,) * 3, 1)
    assert "not of rank 1" in (reason(graph_of((1, 1, 4, 4, 4), kernel[None, None], op)) or "")
    assert reason(graph_of((1, 1, 4, 4, 4), products((1, 1, 2, 2, 2)), op)) is None


def test_a_single_kernel_that_is_not_separable_spoils_it_for_all() -> None:
    op = Conv((1, 1), (NO, NO), (1, 1), 40)
    w = products((40, 1, 3, 3))
    assert reason(graph_of((1, 40, 8, 8), w, op)) is None
    w[-1, 0] = CROSS
    assert "not of rank 1" in (reason(graph_of((1, 40, 8, 8), w, op)) or "")


@pytest.mark.parametrize(("dtype", "noise"), [("f32", 1e-5), ("f64", 1e-11)])
def test_the_second_singular_value_may_be_rounding_and_no_more(dtype: str, noise: float) -> None:
    op, w = Conv((1, 1), (NO, NO), (1, 1), 1), products((1, 1, 7, 7))
    assert reason(graph_of((1, 1, 9, 9), w, op, dtype)) is None
    w += noise * np.abs(w).max() * np.random.default_rng(0).standard_normal(w.shape)
    assert reason(graph_of((1, 1, 9, 9), w, op, dtype)) is not None


def test_weights_that_are_inputs_are_refused_with_a_reason() -> None:
    op = Conv((1, 1), (NO, NO), (1, 1), 1)
    graph = graph_of((1, 1, 8, 8), SOBEL[None, None], op).weights_as_inputs()
    assert "frozen weights" in (reason(graph) or "")
    with pytest.raises(AlgorithmError, match="frozen weights"):
        convc.compile(graph, algorithms={"y": "separable"})


@pytest.mark.parametrize(
    ("kernel", "words"),
    [((1, 1, 1, 5), "fewer than two axes"), ((1, 1, 3, 3), "not finite")],
)
def test_other_reasons(kernel: tuple[int, ...], words: str) -> None:
    w = products(kernel)
    w.flat[0] = math.nan if "finite" in words else 1.0
    graph = graph_of((1, 1, 8, 8), w, Conv((1, 1), (NO, NO), (1, 1), 1))
    assert words in (reason(graph) or "")


def test_the_factors_multiply_to_the_kernels() -> None:
    for shape, terms in [((5, 3, 4), 1), ((5, 3, 4, 2), 1), ((5, 3, 4), 2)]:
        kernels = products((1, *shape), terms)[0]
        each = factors(kernels, terms)
        axes = "abc"[: len(each)]
        subscripts = ",".join(f"pt{axis}" for axis in axes)
        got = np.einsum(f"{subscripts}->p{axes}", *each)
        np.testing.assert_allclose(got, kernels, atol=1e-12)


# -- choosing and approximating ----------------------------------------------------------


def test_it_is_chosen_where_it_saves_much() -> None:
    op = Conv((1, 1), ((7, 7), (7, 7)), (1, 1), 3)
    graph = graph_of((1, 3, 256, 256), products((3, 1, 15, 15)), op)
    assert select(graph, target_named())["y"].name == "separable"
    other = graph_of((1, 3, 256, 256), products((3, 1, 15, 15), 2), op)
    assert select(other, target_named())["y"].name != "separable"
    assert select(graph, target_named(), "exact")["y"].name != "separable"


@pytest.mark.parametrize("terms", [2, 3])
def test_an_approximation_is_used_only_where_asked_for(terms: int) -> None:
    op = Conv((1, 1), ((3, 3), (3, 3)), (1, 1), 3)
    graph = graph_of((1, 3, 64, 64), products((3, 1, 7, 7), terms), op)
    name = f"separable{terms}"
    assert any(algorithm.name == name for algorithm in ALGORITHMS)
    assert not select(graph, target_named())["y"].name.startswith("separable")
    got = convc.compile(graph, algorithms={"y": name})(image(graph))
    want = ir.interpret(graph, {"x": image(graph)}, "float64")["out"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_an_approximation_stays_within_the_singular_values_it_leaves_out() -> None:
    """|dw * x| <= ||dw|| ||x||, whatever the image: the norm of what is left out is the next
    singular value, or of several, at most their sum."""
    w = products((2, 1, 9, 9), 4, decay=0.01, seed=3)
    op = Conv((1, 1), ((4, 4), (4, 4)), (1, 1), 2)
    graph = graph_of((1, 2, 40, 40), w, op, "f64")
    x = image(graph)
    values = np.linalg.svd(graph.weights["w"][:, 0], compute_uv=False)
    norms = np.sqrt(op.evaluate(x * x, np.ones_like(w))[0])
    want = ir.interpret(graph, {"x": x})["out"]
    for terms in (2, 3):
        got = convc.compile(graph, algorithms={"y": f"separable{terms}"})(x)
        bound = values[:, terms:].sum(axis=1)[:, None, None] * norms + 1e-12
        assert np.all(np.abs(got - want) <= bound)
        assert np.abs(got - want).max() > 1e-9


def test_an_approximation_that_leaves_out_too_much_is_refused() -> None:
    op = Conv((1, 1), (NO, NO), (1, 1), 1)
    w = products((1, 1, 7, 7), 3, decay=0.3)
    assert "no less work" in (reason(graph_of((1, 1, 9, 9), w[..., :3, :3], op), terms=2) or "")
    assert "not of rank 2" in (reason(graph_of((1, 1, 9, 9), w, op), terms=2) or "")
    assert reason(graph_of((1, 1, 9, 9), w, op), terms=3) is None
    site = Site.of(graph_of((1, 1, 9, 9), w, op), graph_of((1, 1, 9, 9), w, op).nodes[0],
                   target_named())  # fmt: skip
    assert Separable(2).tolerance(site) >= APPROXIMATE and Separable(2).seconds(site) == math.inf
