"""Adaptive pooling: bins as they are defined, PyTorch's adaptive pools, any image size, native."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
import ir
from ir.ops import AdaptivePool
from ir.types import Array
from tests.oracles import torch_or_skip


def pooled(x: Array, size: list[int], kind: str, mode: str, window: list[int] | None = None,
           grad: Array | None = None, native: bool = False) -> dict[str, Array]:  # fmt: skip
    b = ir.Builder("adaptive")
    b.output("y", b.adaptive_pool(b.input("x", ir.TensorType.of(x)), size, kind, mode, window))
    graph, inputs = b.build(), {"x": x}
    if grad is not None:
        graph, inputs = ir.vjp(graph), {"x": x, "grad_y": grad}
    return convc.compile(graph, 1).run(inputs) if native else ir.interpret(graph, inputs)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bins_that_cover_are_pytorchs(data: st.DataObject) -> None:
    torch = torch_or_skip()
    axes = data.draw(st.integers(1, 3))
    shape = [data.draw(st.sampled_from([1, 2, 3, 5, 7, 11])) for _ in range(axes)]
    size = [data.draw(st.integers(1, 6)) for _ in range(axes)]
    kind = data.draw(st.sampled_from(["max", "average"]))
    lead = data.draw(st.sampled_from([(0, 2), (1, 1), (3, 5)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(-3, 4, (*lead, *shape)).astype(np.float64)  # with ties
    t = torch.tensor(x, requires_grad=True)
    name = f"adaptive_{'max' if kind == 'max' else 'avg'}_pool{axes}d"
    wanted = getattr(torch.nn.functional, name)(t, size)
    g = rng.standard_normal(tuple(wanted.shape))
    wanted.backward(torch.tensor(g))
    for grad, native in ((g, False), *(((g, True),) if rng.random() < 0.1 else ())):
        got = pooled(x, size, kind, "cover", grad=grad, native=native)
        np.testing.assert_allclose(got["y"], wanted.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got["grad_x"], t.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", range(1, 7))
def test_bins_tile_an_axis_cover_it_or_spread_over_it(count: int) -> None:
    for n in range(1, 25):
        partition = AdaptivePool("max", (count,), "partition", ()).bins(0, n)
        cover = AdaptivePool("max", (count,), "cover", ()).bins(0, n)
        if n >= count:
            assert [a for bin in partition for a in range(*bin)] == list(range(n))
        assert {a for bin in cover for a in range(*bin)} == set(range(n))
        assert all(start < stop <= n for start, stop in cover)
        for width in range(1, n + 1):
            spread = AdaptivePool("max", (count,), "offset", (width,)).bins(0, n)
            assert all(stop - start == width for start, stop in spread)
            assert spread[0][0] == 0 and (spread[-1][1] == n or count == 1)
            gaps = np.diff([start for start, _ in spread])
            assert not gaps.size or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "window"), [("partition", None), ("cover", None), ("offset", 2)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_bins_hold_the_cells_that_their_bounds_say(
    kind: str, mode: str, window: int | None, dtype: type
) -> None:
    rng = np.random.default_rng(4)
    size = [3, 2]
    reduce = {"max": np.max, "average": np.mean}[kind]
    for shape in ((3, 2), (4, 5), (6, 4), (7, 3), (13, 17)):
        x = rng.standard_normal((2, 17, *shape)).astype(dtype)
        x[0, 0, 0, 0] = np.inf  # stays in its own bin
        windows = () if window is None else (window, window)
        op = AdaptivePool(kind, (3, 2), mode, windows)
        got = pooled(x, size, kind, mode, None if window is None else [window] * 2, native=True)[
            "y"
        ]
        rows, columns = op.bins(0, shape[0]), op.bins(1, shape[1])
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
            want = reduce(x[:, :, slice(*row), slice(*column)], axis=(2, 3))
            np.testing.assert_allclose(got[:, :, i, j], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["partition", "cover"])
def test_the_first_of_equal_maxima_takes_the_gradient(mode: str) -> None:
    x = np.zeros((1, 1, 5, 4))
    got = pooled(x, [2, 2], "max", mode, grad=np.array([[[[1.0, 2], [3, 4]]]]))
    assert np.argwhere(got["grad_x"][0, 0]).tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]


def test_one_compiled_pool_takes_images_of_any_size() -> None:
    b = ir.Builder("adaptive")
    x = b.input("x", "f32[N, 4, H, W]")
    b.output("y", b.adaptive_pool(x, 3))
    b.output("mean", b.global_average_pool(x))
    b.output("largest", b.global_max_pool(x))
    graph = b.build()
    assert str(graph.types[graph.outputs["y"]]) == "f32[N, 4, 3, 3]"
    model = convc.compile(graph, 1)
    rng = np.random.default_rng(5)
    for shape in ((1, 4, 3, 3), (2, 4, 5, 8), (3, 4, 9, 4)):
        x = rng.standard_normal(shape).astype(np.float32)
        got = model.run({"x": x})
        np.testing.assert_array_equal(got["y"], ir.interpret(graph, {"x": x})["y"])
        np.testing.assert_allclose(got["mean"], x.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got["largest"], x.max((2, 3), keepdims=True))
    with pytest.raises(ir.Error, match="has 2 cells; mode partition needs 3"):
        model(np.zeros((1, 4, 2, 5), np.float32))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (("sum", (2,), "cover", ()), "kind = 'sum' is not max or average"),
        (("max", (2,), "even", ()), "mode = 'even' is not partition, cover or offset"),
        (("max", (2,), "cover", (2,)), r"window = \(2,\) needs 0 entries"),
        (("max", (2, 2), "offset", (2,)), r"window = \(2,\) needs 2 entries"),
        (("max", (0,), "cover", ()), "size = 0 must be at least 1"),
        (("max", (), "cover", ()), "needs 1 entries"),
    ],
    ids=["kind", "mode", "a window", "windows", "no bins", "no axes"],
)
def test_wrong_attributes_are_refused(attributes: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ir.AttributeValueError, match=reason):
        AdaptivePool(*attributes)  # type: ignore[arg-type]
