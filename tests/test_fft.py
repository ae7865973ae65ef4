"""Convolution by Fourier transforms: the transforms, the tiles, and the sums they replace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
import ir
from convc.algorithms import Site
from convc.algorithms.convolution import Convolution
from convc.algorithms.fft import Fft
from convc.algorithms.fft.butterfly import Complex, Point
from convc.algorithms.fft.lengths import WORK, cycles, passes, smooth
from convc.algorithms.fft.passes import Passes, Twiddles
from convc.algorithms.fft.tiling import Tiling
from convc.backend.target import available, target_named
from ir.loops import Affine, Kernel, KernelBuilder, interpret
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad
from ir.types import Array
from tests.examples import select

NO = (0, 0)
EPS = {"f32": 2.0**-23, "f64": 2.0**-52}


@dataclass(frozen=True)
class Geometry:
    """A convolution of unit stride: the shapes of x and w, the pads."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @property
    def attributes(self) -> tuple[object, ...]:
        ones = (1,) * len(self.pads)
        return ones, self.pads, ones, self.groups

    @property
    def y(self) -> tuple[int, ...]:
        sizes = Conv(*self.attributes).output_sizes(self.x[2:], self.w[2:])
        return (self.x[0], self.w[0], *map(int, sizes))

    def op(self, direction: str) -> tuple[ir.Op, tuple[str, str]]:
        """The op of a direction and its operands."""
        if direction == "c":
            return Conv(*self.attributes), ("x", "w")
        if direction == "h":
            return ConvInputGrad(*self.attributes, self.x[2:]), ("w", "g")
        return ConvWeightGrad(*self.attributes, self.w[2:]), ("g", "x")

    def graph(self, direction: str, dtype: str = "f32") -> ir.Graph:
        b = ir.Builder("one")
        shapes = {"x": self.x, "w": self.w, "g": self.y}
        op, names = self.op(direction)
        values = [b.input(name, type_of(shapes[name])) for name in names]
        b.output("y", b.apply(op, *values, name="y"))
        return b.build().with_dtype(dtype)

    def data(self, direction: str, dtype: str = "f32", seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        shapes = {"x": self.x, "w": self.w, "g": self.y}
        kind = np.float32 if dtype == "f32" else np.float64
        return {name: rng.standard_normal(shapes[name]).astype(kind)
                for name in self.op(direction)[1]}  # fmt: skip

    def site(self, direction: str = "c", target: str | None = None) -> Site:
        graph = self.graph(direction)
        return Site.of(graph, graph.nodes[0], target_named(target))


def type_of(shape: tuple[int, ...]) -> str:
    return f"f32[{', '.join(map(str, shape))}]"


def run(graph: ir.Graph, inputs: dict[str, Array], target: str | None = None) -> Array:
    model = convc.compile(graph, 1, algorithms={"y": "fft"}, target=target)
    return np.asarray(model.run(inputs)["y"])


def check(geometry: Geometry, direction: str, dtype: str, target: str | None = None) -> None:
    """Errors are relative to the norms of what a whole tile adds, not to each sum."""
    graph, inputs = geometry.graph(direction, dtype), geometry.data(direction, dtype)
    got, want = run(graph, inputs, target), ir.interpret(graph, inputs, "float64")["y"]
    positive = [np.abs(array.astype(np.float64)) for array in inputs.values()]
    scale = np.max(geometry.op(direction)[0].evaluate(*positive)[0])
    assert got.shape == want.shape and got.dtype == inputs[next(iter(inputs))].dtype
    assert np.max(np.abs(got - want)) <= 4 * EPS[dtype] * scale


# -- transforms ------------------------------------------------------------------------------


def transforming(length: int, lanes: int, there_and_back: bool) -> tuple[Kernel, Array]:
    """A kernel that transforms lines [length, 2, lanes], and its table of twiddles."""
    radices = passes(length)
    twiddles = Twiddles(radices)
    k = KernelBuilder("line")
    x = k.read("x", "f64", (length, 2, lanes))
    table = k.read("table", "f64", twiddles.array.shape)
    y = k.write("y", "f64", (length, 2, lanes))

    def load(position: Affine, _: range, v: Affine) -> Point:
        return x[position, 0, v], x[position, 1, v]

    def store(position: Affine, v: Affine, value: Complex) -> None:
        k.store(y[position, 0, v], value[0])
        k.store(y[position, 1, v], value[1])

    with k.loop("task", 1, "parallel"):
        line = Passes(k, radices, twiddles, table, k.local("work", "f64", (length, 2, lanes)))
        if there_and_back:  # the inverse is the forward one with re and im exchanged
            line.through(load, lambda m, _, z: [p and (p[1], p[0]) for p in z], store)
        else:
            line.natural(load, store)
    return k.build(), twiddles.array


@pytest.mark.parametrize("length", [1, *sorted(WORK), 12, 15, 45, 50, 64, 72, 96, 120])
def test_a_line_is_transformed_as_numpy_does(length: int) -> None:
    lines = np.random.default_rng(length).standard_normal((length, 2, 3))
    kernel, table = transforming(length, 3, False)
    result = np.full_like(lines, np.nan)
    interpret(kernel, [lines, table, result])
    want = np.fft.fft(lines[:, 0] + 1j * lines[:, 1], axis=0)
    np.testing.assert_allclose(result[:, 0] + 1j * result[:, 1], want, atol=1e-13 * length)


@pytest.mark.parametrize("length", [1, 2, 9, 20, 27, 64, 90, 128])
def test_there_and_back_is_the_length_times_the_line(length: int) -> None:
    lines = np.random.default_rng(length).standard_normal((length, 2, 2))
    kernel, table = transforming(length, 2, True)
    result = np.full_like(lines, np.nan)
    interpret(kernel, [lines, table, result])
    np.testing.assert_allclose(result[:, ::-1], lines * length, atol=1e-12 * length)


def test_every_smooth_length_has_passes_that_multiply_to_it() -> None:
    for length in smooth():
        assert np.prod(passes(length)) == length and cycles(length) > 0
        if length % 2 == 0:
            assert passes(length, even=True)[0] % 2 == 0
            assert np.prod(passes(length, even=True)) == length


# -- tiles -----------------------------------------------------------------------------------


@given(
    st.integers(1, 600), st.integers(1, 70), st.integers(-2, 40), st.integers(-2, 40),
    st.booleans(), st.sampled_from([1, 3, 40]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_tiles_cover_the_result_and_stay_in_the_halo(
    size: int, taps: int, low: int, high: int, gradient: bool, channels: int
) -> None:
    if size + low + high < taps:
        return
    geometry = Geometry((2, channels, 9, size), (5, channels, 3, taps), (NO, (low, high)))
    direction = "g" if gradient else "c"
    shape = Convolution.of(geometry.site(direction))
    tiling = Tiling.of(shape, 16, 4, gradient)
    for axis, (before, after) in zip(tiling.axes, tiling.halo(), strict=True):
        assert axis.points in smooth() and axis.points >= axis.taps
        assert axis.tiles * axis.outputs >= axis.count > (axis.tiles - 1) * axis.outputs
        assert axis.start >= -before
        last = axis.start + (axis.tiles - 1) * axis.outputs + axis.points
        assert last <= axis.size + after
        if axis.tiles > 1:
            assert axis.points >= axis.outputs + axis.taps - 1


def test_one_tile_may_be_shorter_where_only_padding_wraps_around() -> None:
    geometry = Geometry((1, 16, 56, 56), (16, 1, 31, 31), ((15, 15), (15, 15)), 16)
    tiling = Tiling.of(Convolution.of(geometry.site()), 16, 4, False)
    assert [axis.points for axis in tiling.axes] == [72, 72]  # 56 + 30 would be 86


# -- convolutions ----------------------------------------------------------------------------

GEOMETRIES = {
    "odd sizes, even kernel, remainders": Geometry((2, 3, 10, 13), (5, 3, 4, 3), ((1, 2), (0, 3))),
    "depthwise, batch 3": Geometry((3, 17, 21, 18), (17, 1, 5, 6), ((2, 2), (3, 2)), 17),
    "depthwise, many tiles": Geometry((1, 16, 90, 80), (16, 1, 21, 23), ((10, 10), (11, 11)), 16),
    "one channel, tiles in lanes": Geometry((2, 1, 70, 120), (9, 1, 7, 7), ((3, 3), (3, 3))),
    "few channels, tiles in lanes": Geometry((2, 2, 61, 301), (3, 2, 7, 11), ((3, 3), (5, 4))),
    "many channels": Geometry((3, 20, 11, 9), (33, 20, 5, 5), ((2, 2), (2, 2))),
    "kernel larger than the image": Geometry((1, 2, 5, 4), (3, 2, 11, 9), ((6, 5), (5, 7))),
    "depthwise kernel larger than the image": Geometry((1, 6, 5, 5), (6, 1, 9, 9),
                                                       ((4, 4), (4, 4)), 6),
    "causal line": Geometry((2, 2, 50), (3, 2, 9), ((8, 0),)),
    "long depthwise line": Geometry((1, 5, 700), (5, 1, 40), ((39, 0),), 5),
    "crops": Geometry((1, 1, 6, 7), (3, 1, 2, 3), ((-1, -2), (1, -1))),
    "pads beyond the kernel": Geometry((1, 1, 1, 2), (3, 1, 2, 2), ((4, 3), (2, 5))),
    "single points": Geometry((1, 1, 1, 1), (1, 1, 1, 1), (NO, NO)),
    "columns only": Geometry((1, 2, 9, 1), (3, 2, 3, 1), ((1, 1), NO)),
}  # fmt: skip
FEW = ["odd sizes, even kernel, remainders", "depthwise, batch 3", "many channels",
       "few channels, tiles in lanes"]  # fmt: skip


@pytest.mark.parametrize("direction", "chg")
@pytest.mark.parametrize("name", GEOMETRIES)
def test_results_are_right(name: str, direction: str) -> None:
    check(GEOMETRIES[name], direction, "f32")


@pytest.mark.parametrize("direction", "chg")
@pytest.mark.parametrize("name", FEW)
def test_double_precision_is_kept(name: str, direction: str) -> None:
    check(GEOMETRIES[name], direction, "f64")


@pytest.mark.parametrize("direction", "chg")
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("target", available()[1:])
def test_results_are_right_on_narrower_targets(name: str, direction: str, target: str) -> None:
    check(GEOMETRIES[name], direction, "f32", target)


@pytest.fixture
def overhanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles of which the last reach beyond the result on all axes."""

    def awkwardness(tiling: Tiling, *_: object) -> tuple[int, bool, int]:
        overhangs = [axis.overhang for axis in tiling.axes if axis.taps > 1]
        return -min(overhangs), not tiling.across, tiling.axes[1].points

    Tiling.of.cache_clear()
    monkeypatch.setattr("convc.algorithms.fft.tiling.seconds", awkwardness)
    yield
    Tiling.of.cache_clear()


OVERHANGING = {
    "depthwise": Geometry((2, 17, 40, 53), (17, 1, 6, 5), ((2, 3), (1, 2)), 17),
    "one channel": Geometry((1, 1, 41, 107), (6, 1, 6, 5), ((2, 3), (1, 2))),
    "few channels": Geometry((1, 2, 41, 107), (3, 2, 6, 5), ((2, 3), (1, 2))),
    "channels": Geometry((2, 18, 26, 47), (9, 18, 6, 5), ((2, 3), (1, 2))),
    "line": Geometry((2, 6, 107), (5, 6, 7), ((2, 3),)),
}


@pytest.mark.usefixtures("overhanging")
@pytest.mark.parametrize("direction", "chg")
@pytest.mark.parametrize("name", OVERHANGING)
def test_results_are_right_where_tiles_overhang(name: str, direction: str) -> None:
    site = OVERHANGING[name].site(direction)
    tiling = Tiling.of(Convolution.of(site), site.lanes, 4, direction == "g")
    assert all(axis.overhang for axis in tiling.axes if axis.taps > 1)
    check(OVERHANGING[name], direction, "f32")


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    taps = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    pads = tuple((draw(st.integers(0, tap)), draw(st.integers(0, tap))) for tap in taps)
    channels = draw(st.integers(1, 18))
    size = tuple(max(n, tap - low - high) for n, tap, (low, high)
                 in zip(size, taps, pads, strict=True))  # fmt: skip
    batch = draw(st.integers(1, 3))
    if draw(st.booleans()):
        return Geometry((batch, channels, *size), (channels, 1, *taps), pads, channels)
    out = draw(st.integers(1, 18))
    return Geometry((batch, channels, *size), (out, channels, *taps), pads)


@given(geometries(), st.sampled_from("chg"))
@settings(max_examples=20, deadline=None)
def test_it_agrees_with_the_sum_itself(geometry: Geometry, direction: str) -> None:
    graph, inputs = geometry.graph(direction), geometry.data(direction)
    direct = convc.compile(graph, 1, algorithms={"y": "direct"}).run(inputs)["y"]
    site = geometry.site(direction)
    if Fft().supports(site):
        return
    positive = [np.abs(array) for array in inputs.values()]
    scale = np.max(geometry.op(direction)[0].evaluate(*positive)[0])
    assert np.max(np.abs(run(graph, inputs) - direct)) <= 1e-6 * scale


def test_pointwise_ops_are_fused() -> None:
    geometry = Geometry((2, 3, 20, 21), (5, 3, 7, 7), ((3, 3), (3, 3)))
    b = ir.Builder("fused")
    x, w = b.input("x", type_of(geometry.x)), b.input("w", type_of(geometry.w))
    bias, rest = b.input("b", "f32[5]"), b.input("r", type_of(geometry.y))
    conv = b.apply(geometry.op("c")[0], x, w, name="conv")
    b.output("y", b.relu(b.add(b.bias(conv, bias), rest)))
    graph = b.build()
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(type.static_shape).astype(np.float32)
              for name, type in graph.inputs.items()}  # fmt: skip
    model = convc.compile(graph, 1, algorithms={"conv": "fft"})
    kernels = [step.kernel.name for step in model.stages().plan.steps]
    assert "fft_mixing" in kernels and not {"relu", "add", "bias", "pointwise"} & set(kernels)
    want = ir.interpret(graph, inputs, "float64")["y"]
    np.testing.assert_allclose(model.run(inputs)["y"], want, atol=2e-5)


def test_spectra_of_constant_weights_are_computed_once() -> None:
    geometry = GEOMETRIES["many channels"]
    graph, inputs = geometry.graph("c"), geometry.data("c")
    given = graph.replace(inputs={"x": graph.inputs["x"]}, weights={"w": inputs["w"]})
    model = convc.compile(given, 1, algorithms={"y": "fft"})
    plan = model.stages().plan
    assert "fft_weights" in [step.kernel.name for step in plan.prepare]
    assert "fft_weights" not in [step.kernel.name for step in plan.steps]
    np.testing.assert_array_equal(model.run({"x": inputs["x"]})["y"], run(graph, inputs))


def test_what_is_not_a_number_stays_in_its_channel_and_image() -> None:
    """Within them it may reach every output of its tile: every frequency depends on it."""
    geometry = GEOMETRIES["depthwise, batch 3"]
    graph, inputs = geometry.graph("c"), geometry.data("c")
    clean = run(graph, inputs)
    inputs["x"][1, 4, 7, 9] = np.nan
    dirty = run(graph, inputs)
    assert np.isnan(dirty[1, 4]).any()
    dirty[1, 4] = clean[1, 4]
    np.testing.assert_array_equal(dirty, clean)


# -- choice ----------------------------------------------------------------------------------


def test_it_says_why_it_does_not_apply() -> None:
    ones, shape = (1, 1), (2, 2)
    types = [ir.TensorType.parse(text) for text in ("f32[1, 4, 9, 9]", "f32[4, 2, 3, 3]")]
    for op, reason in (
        (Conv((2, 1), (NO, NO), ones, 2), "stride"),
        (Conv(ones, (NO, NO), shape, 2), "dilated"),
        (Conv(ones, (NO, NO), ones, 2), "grouped"),
    ):
        outputs = op.infer(*types)
        site = Site("y", op, (), tuple(types), outputs, target_named())
        assert reason in (Fft().supports(site) or "")


@pytest.mark.parametrize(
    ("geometry", "chosen"),
    [
        (Geometry((1, 256, 56, 56), (256, 1, 31, 31), ((15, 15), (15, 15)), 256), True),
        (Geometry((1, 1, 512, 512), (16, 1, 31, 31), ((15, 15), (15, 15))), True),
        (Geometry((1, 256, 56, 56), (256, 1, 3, 3), ((1, 1), (1, 1)), 256), False),
        (Geometry((1, 64, 56, 56), (64, 64, 3, 3), ((1, 1), (1, 1))), False),
        (Geometry((1, 64, 56, 56), (64, 64, 1, 1), (NO, NO)), False),
    ],
    ids=str,
)
def test_it_is_chosen_for_large_kernels(geometry: Geometry, chosen: bool) -> None:
    name = select(geometry.graph("c"), target_named())["y"].name
    assert (name == "fft") == chosen
