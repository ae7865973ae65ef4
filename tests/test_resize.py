"""Images of another size: PyTorch's and ONNX Runtime's, gradients, blocks, messages, native."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
import ir
from ir.ops import Resize
from ir.types import Array
from tests.oracles import onnx_runtime, torch_or_skip

PYTORCHS = {  # mode, align_corners: mode, coordinates, rounding
    ("nearest", None): ("nearest", "asymmetric", "floor"),
    ("nearest-exact", None): ("nearest", "half_pixel", "round_prefer_ceil"),
    ("linear", False): ("linear", "half_pixel", "floor"),
    ("linear", True): ("linear", "align_corners", "floor"),
}


def resized(
    x: Array, grad: Array | None = None, native: bool = False, **how: Any
) -> dict[str, Array]:
    b = ir.Builder("resize")
    b.output("y", b.resize(b.input("x", ir.TensorType.of(x)), **how))
    graph, inputs = b.build(), {"x": x}
    if grad is not None:
        graph, inputs = ir.vjp(graph), {"x": x, "grad_y": grad}
    return convc.compile(graph, 1).run(inputs) if native else ir.interpret(graph, inputs)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_interpolation_is_pytorchs(data: st.DataObject) -> None:
    torch = torch_or_skip()
    axes = data.draw(st.integers(1, 3))
    (theirs, corners), ours = data.draw(st.sampled_from([*PYTORCHS.items()]))
    shape = [data.draw(st.sampled_from([1, 2, 3, 5, 7])) for _ in range(axes)]
    size = [data.draw(st.sampled_from([1, 2, 3, 4, 7, 8, 11])) for _ in range(axes)]
    lead = data.draw(st.sampled_from([(1, 1), (2, 3)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.standard_normal((*lead, *shape))
    t = torch.tensor(x, requires_grad=True)
    name = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes] if theirs == "linear" else theirs
    wanted = torch.nn.functional.interpolate(t, size, mode=name, align_corners=corners)
    g = rng.standard_normal(tuple(wanted.shape))
    wanted.backward(torch.tensor(g))
    how = dict(zip(("mode", "coordinates", "rounding"), ours, strict=True))
    for native in (False, True) if rng.random() < 0.1 else (False,):
        got = resized(x, g, native, size=size, **how)
        np.testing.assert_allclose(got["y"], wanted.detach().numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got["grad_x"], t.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [0.5, 1.5, 2, 2.5, 3])
def test_factors_are_pytorchs(mode: str, factor: float) -> None:
    torch = torch_or_skip()
    x = np.random.default_rng(6).standard_normal((2, 3, 5, 7))
    extra: dict[str, Any] = {} if mode == "nearest" else {"align_corners": False}
    name = "nearest" if mode == "nearest" else "bilinear"
    wanted = torch.nn.functional.interpolate(
        torch.tensor(x), scale_factor=factor, mode=name, recompute_scale_factor=False, **extra
    )
    got = resized(x, factors=factor, mode=mode)["y"]
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("nearest", "round_prefer_floor"), ("nearest", "round_prefer_ceil"), ("nearest", "floor"),
     ("nearest", "ceil"), ("linear", "floor")],
    ids=["prefer floor", "prefer ceil", "floor", "ceil", "linear"],
)  # fmt: skip
@pytest.mark.parametrize("size", [(8, 8), (3, 2), (5, 13), (1, 4)], ids=str)
def test_sizes_are_onnx_runtimes(
    size: tuple[int, int], mode: str, rounding: str, coordinates: str
) -> None:
    x = np.random.default_rng(7).standard_normal((1, 2, 5, 4)).astype(np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates,
                  "nearest_mode": rounding}  # fmt: skip
    sizes = np.array([1, 2, *size], np.int64)
    wanted = onnx_runtime("Resize", attributes, x, None, None, sizes)
    how = {"mode": mode, "coordinates": coordinates, "rounding": rounding}
    got = resized(x, native=True, size=size, **how)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_whole_factors_repeat_cells_and_sum_gradients() -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    g = np.arange(48, dtype=np.float32).reshape(1, 1, 4, 12)
    got = resized(x, g, native=True, factors=(2, 4))
    np.testing.assert_array_equal(got["y"], x.repeat(2, 2).repeat(4, 3))
    np.testing.assert_array_equal(got["grad_x"], g.reshape(1, 1, 2, 2, 3, 4).sum((3, 5)))


def test_a_constant_stays_and_corners_stay_in_place() -> None:
    rng = np.random.default_rng(8)
    x = np.full((1, 2, 5, 3), 2.5)
    for how in ({"size": (9, 7)}, {"factors": Fraction(2, 3)}):
        y = resized(x, mode="linear", **how)["y"]
        np.testing.assert_allclose(y, np.full(y.shape, 2.5), rtol=1e-14)
    x = rng.standard_normal((1, 1, 4, 6))
    y = resized(x, size=(7, 11), mode="linear", coordinates="align_corners")["y"]
    np.testing.assert_array_equal(y[..., ::6, ::10], x[..., ::3, ::5])
    np.testing.assert_allclose(y[..., ::2, ::2], x, rtol=1e-12)


def test_sizes_may_be_symbolic() -> None:
    b = ir.Builder("resize")
    x, skip = b.input("x", "f32[N, 3, H, W]"), b.input("skip", "f32[N, 3, P, Q]")
    half = b.resize(x, factors=0.5, mode="linear")
    b.output("y", half)
    b.output("joined", b.concat([skip, b.resize(half, size=skip.shape[2:])]))
    graph = b.build()
    assert str(graph.types[graph.outputs["y"]]) == "f32[N, 3, H//2, W//2]"
    model, rng = convc.compile(graph, 1), np.random.default_rng(9)
    for shape in ((1, 3, 4, 6), (2, 3, 7, 5)):
        x = rng.standard_normal(shape).astype(np.float32)
        inputs = {"x": x, "skip": x[:, :, 1:]}
        got, want = model.run(inputs), ir.interpret(graph, inputs)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (((4,), (), "cubic", "half_pixel", "floor"), "mode = 'cubic' is not one of"),
        (((4,), (), "linear", "corners", "floor"), "coordinates = 'corners' is not one of"),
        (((4,), (), "nearest", "half_pixel", "down"), "rounding = 'down' is not one of"),
        (((), (), "nearest", "half_pixel", "floor"), "give one of them"),
        (((4,), ((2, 1),), "nearest", "half_pixel", "floor"), "give one of them"),
        (((), ((2, 0),), "nearest", "half_pixel", "floor"), "factors = 0 must be at least 1"),
        (((), (2,), "nearest", "half_pixel", "floor"), "must hold pairs"),
    ],
    ids=["mode", "coordinates", "rounding", "none", "both", "zero", "no pair"],
)
def test_wrong_attributes_are_refused(attributes: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ir.AttributeValueError, match=reason):
        Resize(*attributes)


def test_wrong_sizes_and_factors_are_refused() -> None:
    b = ir.Builder("resize")
    x = b.input("x", "f32[1, 2, 3, 4]")
    with pytest.raises(ir.ShapeError, match=r"must be .N, C"):
        b.resize(x, size=(3,))
    with pytest.raises(ir.ShapeError, match=r"3 cells of .* to 0; there must be one at least"):
        b.resize(x, factors=0.25)
    for wrong in (0, -1.5, True, "2", float("inf"), float("nan")):
        with pytest.raises(ir.AttributeValueError, match="a factor must be a positive number"):
            b.resize(x, factors=[wrong, 2])
