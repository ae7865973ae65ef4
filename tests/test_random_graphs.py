"""Random graphs: values with many readers, layouts that meet, outputs anywhere, gradients."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops import Expand
from ir.types import Array


class Drawn:
    """Draws a graph on images whose numbers stay whole, so that results are exact in float64."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = ir.Builder("random")
        self.images: list[ir.Value] = []
        self.arrays: dict[str, Array] = {}

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def operand(self, name: str, *shape: int) -> ir.Value:
        """An input or, as often, a weight."""
        array = self.rng.integers(-2, 3, shape).astype(np.float64)
        if self.rng.random() < 0.5:
            return self.b.weight(self.b.fresh(name), array)
        name = self.b.fresh(name)
        self.arrays[name] = array
        return self.b.input(name, f"f64[{', '.join(map(str, shape))}]")

    def graph(self) -> ir.Graph:
        shape = (self.pick(1, 2), self.pick(1, 3, 8, 17), self.pick(5, 8, 11), self.pick(6, 9, 16))
        x = self.b.input("x", f"f64[{', '.join(map(str, shape))}]")
        self.arrays["x"] = self.rng.integers(-3, 4, shape).astype(np.float64)
        self.images.append(x)
        for _ in range(self.pick(3, 5, 7)):
            image = self.images[int(self.rng.integers(len(self.images)))]
            self.images.append(self.step(image))
        count = min(len(self.images), self.pick(1, 2, 3))
        for number, at in enumerate(self.rng.choice(len(self.images), count, replace=False)):
            self.b.output(f"image{number}", self.images[at])
        self.b.output("last", self.head(self.images[-1]))
        return self.b.build()

    def step(self, x: ir.Value) -> ir.Value:
        kinds = [self.conv, self.conv, self.finished, self.pool, self.add, self.turn, self.average]
        return kinds[int(self.rng.integers(len(kinds)))](x)

    def conv(self, x: ir.Value) -> ir.Value:
        channels = int(x.shape[1])  # type: ignore[call-overload]
        groups = channels if self.rng.random() < 0.2 else 1
        outer = channels if groups > 1 else self.pick(1, 4, 8, 16, 19)
        kernel = self.pick(1, 2, 3), self.pick(1, 3)
        stride, pad = self.pick(1, 1, 2), self.pick(0, 1, 1, 2)
        if min(int(n) + 2 * pad - k for n, k in zip(x.shape[2:], kernel, strict=True)) < 0:  # type: ignore[call-overload]
            return self.b.relu(x)
        w = self.operand("w", outer, channels // groups, *kernel)
        return self.b.conv(x, w, stride, pad, groups=groups)

    def finished(self, x: ir.Value) -> ir.Value:
        """A convolution with an epilogue that may be fused."""
        y = self.conv(x)
        y = self.b.bias(y, self.operand("b", int(y.shape[1])))  # type: ignore[call-overload]
        alike = [value for value in self.images if value.shape == y.shape]
        if alike:
            y = self.b.add(*[y, alike[-1]][:: self.pick(1, -1)])
        return self.b.relu(y)

    def pool(self, x: ir.Value) -> ir.Value:
        window = min(self.pick(2, 3), *map(int, x.shape[2:]))  # type: ignore[arg-type]
        pad = self.pick(0, 1) if window > 1 else 0
        edge = "drop" if self.pick(0, 1) else "partial"
        return self.b.max_pool(x, window, self.pick(1, 2), pad, edge)

    def average(self, x: ir.Value) -> ir.Value:
        if min(map(int, x.shape[2:])) < 2:  # type: ignore[arg-type]
            return self.b.scale(x, 2.0)
        return self.b.scale(self.b.average_pool(x, 2, self.pick(1, 2)), 4.0)

    def add(self, x: ir.Value) -> ir.Value:
        alike = [value for value in self.images if value.shape == x.shape]
        other = alike[int(self.rng.integers(len(alike)))]
        return self.b.add(self.b.relu(x), other) if self.pick(0, 1) else self.b.sub(other, x)

    def turn(self, x: ir.Value) -> ir.Value:
        turned = self.b.transpose(x, (0, 1, 3, 2))
        return turned if self.pick(0, 1) else self.b.reshape(turned, x.shape)

    def head(self, x: ir.Value) -> ir.Value:
        if self.pick(0, 1):
            sums = self.b.sum(x, (0, 2, 3))
            return self.b.apply(Expand((2, *sums.shape)), sums)
        flat = self.b.flatten(x)
        w = self.operand("w", int(flat.shape[1]), self.pick(1, 5, 20))  # type: ignore[call-overload]
        return self.b.relu(self.b.dense(flat, w))


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads are used, however little there is to do."""
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)


def check(graph: ir.Graph, arrays: dict[str, Array], seed: int, exact: bool) -> None:
    """Targets and numbers of threads take turns."""
    target, threads = available()[seed % len(available())], 1 + seed % 4
    model = convc.compile(graph, threads, "exact", target=target)
    want, got = ir.interpret(graph, arrays), model.run(arrays)
    for _ in range(5):
        again = model.run(arrays)
        assert all(again[name].tobytes() == array.tobytes() for name, array in got.items())
    for name, array in want.items():
        if exact:
            np.testing.assert_array_equal(got[name], array, err_msg=name)
        else:
            scale = np.max(np.abs(array), initial=1)
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-13 * scale, err_msg=name)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_graph_means_what_the_interpreter_says(seed: int) -> None:
    drawn = Drawn(seed)
    check(drawn.graph(), drawn.arrays, seed, exact=True)


@pytest.mark.parametrize("seed", range(100, 115))
def test_so_does_its_gradient(seed: int) -> None:
    drawn = Drawn(seed)
    graph = drawn.graph()
    backward = ir.vjp(graph, [*drawn.arrays, *graph.weights])
    upstream = {
        name: drawn.rng.integers(-2, 3, type.static_shape).astype(np.float64)
        for name, type in backward.inputs.items()
        if name.startswith("grad_")
    }
    check(backward, drawn.arrays | upstream, seed, exact=False)
