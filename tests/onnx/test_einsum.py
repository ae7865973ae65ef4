"""Einsum and Trilu: against ONNX Runtime and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.errors import LoadError
from ir.types import Array
from tests.onnx.models import FLOAT, INT64, agrees, as_runtime, info, make, model_of, node_model
from tests.oracles import SEED

RNG = np.random.default_rng(SEED)
EXTENTS = {"a": 3, "b": 2, "c": 5, "d": 4, "h": 2, "i": 7, "j": 3, "k": 1, "p": 11, "z": 0, "A": 2}


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def einsum(equation: str, *arrays: Array) -> tuple[Any, dict[str, Array]]:
    given = {f"x{number}": array for number, array in enumerate(arrays)}
    return node_model("Einsum", given, equation=equation), given


def drawn(equation: str) -> list[Array]:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    return [draw(*(EXTENTS[label] for label in term)) for term in terms]


@pytest.mark.parametrize(
    "equation",
    [
        "->", "i->i", "ij->ji", "ij->", "ij->j", "ij", "ji", "abc->ca", "jAi->Aij",  # of one
        "i,i->", "i,i", "i,j->ij", "i,ij->j", "ij,jp->ip", "ij,pj->ip", "ji,jp->pi", "ij,jp",
        "bA,Ac", "bij,bjp->bip", "bij, bpj -> bip", "bhid,bhjd->bhij", "bhij,bhjd->bihd",
        "bihd,bjhd->bhij", "bjhd,bhij->bihd", "bij,jp->bip", "bi,bi->b", "bi,bi->bi", "bi,b->bi",
        "ij,ij->", "ijp,jpc->ic", "bip,cp->bci", "abc,cd->abd", "ijz,zj->i", "zi,ip->zp",
        "kij,kjp->ip", "ij,cd->", "ij,cd->jc",
        "ii->i", "ii", "jij->ji", "iji->j", "ii,ij->j", "bii,b->i", "iii->i", "zz->z", "kk->k",
        "i,ij,j->", "ij,jp,pc->ic", "bij,bjp,bpc,c->bi", "bi,i,bi->b",  # of several
    ],
)  # fmt: skip
def test_sums_of_products(equation: str) -> None:
    arrays = drawn(equation)
    model, given = einsum(equation, *arrays)
    wanted = np.einsum(equation.replace(" ", ""), *(array.astype(np.float64) for array in arrays))
    agrees(model, given, {"y0": np.asarray(wanted)})
    if "z" not in equation and equation != "->":
        as_runtime(model, given)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", [(3, 2, 5), (3, 5, 4)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 5), (3, 5, 4)]),
        ("...ij,...jk", [(2, 3, 2, 5), (5, 4)]),
        ("...ij,jk->...ik", [(2, 3, 2, 5), (5, 4)]),
        ("i...,i...->...i", [(3, 2, 5), (3, 1, 5)]),
        ("...,...->...", [(3, 1, 5), (2, 1)]),
        ("...i->...", [(3, 2, 5)]),
        ("...ij->...ji", [(2, 3, 2, 5)]),
        ("i...j", [(4, 2, 3)]),
        ("...a,...a->...", [(2, 3, 4), (4,)]),
        ("ij,jk->ik", [(3, 1), (4, 5)]),
        ("bi,bi->b", [(1, 4), (3, 4)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("i...i", [(3, 2, 3)]),
        ("ij,ij->i", [(3, 1), (1, 4)]),
    ],
)
def test_axes_without_a_name_and_of_extent_one(equation: str, shapes: list[Any]) -> None:
    arrays = [draw(*shape) for shape in shapes]
    model, given = einsum(equation, *arrays)
    wanted = np.einsum(equation, *(array.astype(np.float64) for array in arrays))
    agrees(model, given, {"y0": wanted})


def test_sizes_may_be_symbolic() -> None:
    """Attention of any batch and length, from one import."""
    nodes = [make.make_node("Einsum", ["q", "k"], ["y"], equation="bihd,bjhd->bhij")]
    inputs = [info("q", ["N", "L", 2, 5]), info("k", ["N", "M", 2, 5])]
    model = model_of(nodes, inputs, [info("y", None)])
    graph = convc.load(model)
    assert str(graph.types["y"]) == "f32[N, 2, L, M]"
    compiled = convc.compile(graph, threads=1)
    for n, rows, columns in ((1, 3, 4), (2, 7, 1)):
        given = {"q": draw(n, rows, 2, 5), "k": draw(n, columns, 2, 5)}
        wanted = np.einsum("bihd,bjhd->bhij", given["q"], given["k"])
        for found in (ir.interpret(graph, given)["y"], compiled.run(given)["y"]):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bjk->bik", "bhid,bhjd->bhij", "ij,kj->ik"])
def test_products_of_matrices_need_no_transposition(equation: str) -> None:
    shapes = [[EXTENTS[label] for label in term] for term in equation.split("->")[0].split(",")]
    graph = convc.load(einsum(equation, *(draw(*shape) for shape in shapes))[0])
    assert {node.op.name for node in graph.nodes} <= {"matmul", "dense", "reshape"}


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("ii->i", [(3, 4)], "the axes labelled 'i' have the extents 3 and 4"),
        ("ij->ii", [(3, 4)], "'ii' in the equation has a label twice, which a result cannot"),
        ("ij,jk->ik", [(3, 4)], "is of 2 operands, not of 1"),
        ("ij->i", [(3, 4, 5)], "'ij' in the equation does not label 3 axes"),
        ("ij...->i", [(3,)], "'ij...' in the equation does not label 1 axes"),
        ("ij->ik", [(3, 4)], "'k' does not stand on both sides"),
        ("...i->i", [(3, 4)], "'...' does not stand on both sides"),
        ("i1->i", [(3, 4)], "'i1' in the equation must be letters"),
        ("...i...->i", [(3, 4)], "must be letters with at most one"),
        ("ij,jk->ik", [(3, 4), (5, 6)], "the axes labelled 'j' have the extents 4 and 5"),
    ],
)
def test_what_is_refused(equation: str, shapes: list[Any], reason: str) -> None:
    model, _ = einsum(equation, *(draw(*shape) for shape in shapes))
    with pytest.raises(LoadError) as caught:
        convc.load(model)
    assert reason in str(caught.value)


def triangle(x: Array, k: int | None, **attributes: Any) -> tuple[Any, dict[str, Array]]:
    constants = {} if k is None else {"k": np.array(k)}
    return node_model("Trilu", {"x": x}, constants, **attributes), {"x": x}


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2, 4, -9, 2**40, -(2**40)])
@pytest.mark.parametrize("shape", [(3, 3), (2, 5, 7), (4, 1, 3), (3, 0), (17, 20)])
def test_triangles(shape: tuple[int, ...], k: int | None, upper: int) -> None:
    x = draw(*shape)
    x[..., :1, -1:] = np.inf
    x[..., -1:, :1] = np.nan
    model, given = triangle(x, k, upper=upper)
    wanted = (np.triu if upper else np.tril)(x, k or 0)
    agrees(model, given, {"y0": wanted}, 0)
    if x.size and abs(k or 0) < 2**31:
        as_runtime(model, given, 0)


def test_triangles_of_integers_and_booleans() -> None:
    x = RNG.integers(-(2**52), 2**52, (4, 6))
    agrees(*triangle(x, 1), {"y0": np.triu(x, 1)}, 0)
    nodes = [
        make.make_node("Trilu", ["yes"], ["near"], upper=0),
        make.make_node("Where", ["near", "x", "far"], ["y"]),
    ]
    inputs = [info("yes", [5, 5], 9), info("x", [5, 5])]
    model = model_of(nodes, inputs, [info("y", None)], {"far": np.float32(-np.inf)})
    as_runtime(model, {"yes": RNG.random((5, 5)) < 0.7, "x": draw(5, 5)})


def test_triangles_of_what_is_known() -> None:
    """As exporters write causal masks: of a constant, which is computed at import."""
    ones = onnx_tensor(np.ones(1, np.float32))
    nodes = [
        make.make_node("ConstantOfShape", ["size"], ["all"], value=ones),
        make.make_node("Trilu", ["all", "k"], ["mask"]),
        make.make_node("Mul", ["x", "mask"], ["y"]),
    ]
    stored = {"size": np.array([4, 6]), "k": np.array(1)}
    model = model_of(nodes, [info("x", ["N", 4, 6])], [info("y", None)], stored)
    assert [node.op.name for node in convc.load(model).nodes] == ["mul"]
    as_runtime(model, {"x": draw(2, 4, 6)})


def onnx_tensor(array: Array) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(array)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [0, 2, -1])
@pytest.mark.parametrize("element", [FLOAT, INT64])
def test_triangles_of_symbolic_sizes(element: int, k: int, upper: int) -> None:
    nodes = [make.make_node("Trilu", ["x", "k"], ["y"], upper=upper)]
    inputs, outputs = [info("x", ["N", "R", "C"], element)], [info("y", None, element)]
    model = model_of(nodes, inputs, outputs, {"k": np.array(k)})
    graph = convc.load(model)
    compiled = convc.compile(graph, threads=1)
    for shape in ((1, 3, 3), (2, 5, 4), (1, 1, 7)):
        x = (9 * draw(*shape)).astype(graph.inputs["x"].dtype.numpy)
        wanted = (np.triu if upper else np.tril)(x, k)
        for found in (ir.interpret(graph, {"x": x})["y"], compiled.run({"x": x})["y"]):
            np.testing.assert_array_equal(found, wanted)


def test_what_has_no_triangle_is_refused() -> None:
    with pytest.raises(LoadError, match=r"Trilu.* \(3\) is no matrix"):
        convc.load(triangle(draw(3), None)[0])
    model = node_model("Trilu", {"x": draw(3, 3), "k": np.array(1)})
    with pytest.raises(LoadError, match="k must be known at import"):
        convc.load(model)
