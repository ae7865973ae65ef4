"""Batches image by image: wherever a graph is cut, however many threads, the numbers stay."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
import ir
from convc import images
from convc.backend.target import available, target_named
from convc.model import Options, stages
from convc.passes import PIPELINE, Pass, optimised
from convc.plan import Plan
from convc.runtime.images import ImageLoop
from convc.zoo import layers
from ir.types import Array
from tests import loops_runner

Make = Callable[[int], ir.Graph]
MODELS: list[convc.Model] = []


class Net(ir.Builder):
    """A builder that draws its weights."""

    def drawn(self, *shape: int) -> ir.Value:
        rng = np.random.default_rng(len(self.fresh("w")) + sum(shape))
        fan = np.sqrt(np.prod(shape[1:]))
        array = rng.standard_normal(shape) / max(fan, 1)
        return self.weight(self.fresh("w"), array.astype(np.float32))

    def step(self, x: ir.Value, channels: int, size: int = 3, **how: Any) -> ir.Value:
        """Convolution, bias, relu."""
        w = self.drawn(channels, layers.channels(x), size, size)
        y = self.conv(x, w, pad=size // 2, **how)
        return self.relu(self.bias(y, self.drawn(channels)))


def residual(n: int) -> ir.Graph:
    """Shortcuts over every place to cut at; a dense end."""
    b = Net("residual")
    x = b.input("x", f"f32[{n}, 3, 6, 9]")
    first = b.step(x, 17)
    second = b.relu(b.conv(first, b.drawn(17, 17, 3, 3), pad=1) + first)
    third = b.step(b.max_pool(second, 2), 17) + b.average_pool(first, 2)
    flat = b.flatten(b.average_pool(third, (3, 2)))
    b.output("y", b.softmax(b.dense(flat, b.drawn(34, 7), b.drawn(7))))
    return b.build()


def joined(n: int) -> ir.Graph:
    """Concatenations in place: of blocks of channels, of uneven ones, of what is joined itself."""
    b = Net("joined")
    x = b.input("x", f"f32[{n}, 16, 6, 5]")
    one = b.step(x, 16)
    two = b.step(one, 16, 1)
    whole = b.concat([one, two, b.max_pool(two, 3, 1, pad=1)])
    more = b.concat([whole, b.step(whole, 5, 1), b.tanh(x)])
    last = b.concat([b.relu(x), b.tanh(x), b.abs(x)])
    b.output("y", b.step(more, 9))
    b.output("z", b.sum(last, (2, 3)))
    return b.build()


def outputs(n: int) -> ir.Graph:
    """Some made early, of which one is read later; an input and a weight are given back."""
    b = Net("outputs")
    x = b.input("x", f"f32[{n}, 4, 7, 6]")
    early = b.step(x, 8)
    b.output("pool", b.max_pool(early, 2))
    b.output("early", early)
    middle = b.step(early, 8)
    b.output("flat", b.reshape(middle, (n, 8 * 42)))
    b.output("same", x)
    b.output("weight", b.drawn(3, 2))
    b.output("y", b.mean(b.step(middle, 5), (2, 3)))
    return b.build()


def operands(n: int) -> ir.Graph:
    """Inputs that are the same for all images, images of two kinds, one read only at the end."""
    b = Net("operands")
    x, other = b.input("x", f"f32[{n}, 3, 5, 8]"), b.input("other", f"f32[{n}, 6, 5, 8]")
    scalar, column = b.input("scalar", "f32[]"), b.input("column", "f32[6]")
    row, late = b.input("row", "f32[1, 6, 1, 1]"), b.input("late", f"f32[{n}, 6]")
    kernels = b.input("kernels", "f32[6, 3, 3, 3]")
    y = b.relu(b.bias(b.conv(x, kernels, pad=1), column)) * scalar + other
    y = b.step(y, 6) * row
    b.output("y", b.sum(y, (2, 3)) + late)
    return b.build()


def shapes(n: int) -> ir.Graph:
    """Moves, pads, cuts, transposed convolutions, functions of rows."""
    b = Net("shapes")
    x = b.input("x", f"f32[{n}, 4, 5, 6]")
    up = b.conv_transpose(x, b.drawn(4, 5, 3, 3), stride=2, pad=1)
    padded = b.pad(up, {2: (1, 0), 3: (0, 2)}, 0.5)
    turned = b.transpose(b.slice(padded, {1: (1, 5), 3: (0, None, 2)}), (0, 2, 3, 1))
    rows = b.softmax(b.reshape(turned, (n, 10, -1)), 2)
    b.output("rows", rows)
    b.output("y", b.dense(b.flatten(rows), b.drawn(280, 3)))
    return b.build()


GRAPHS: dict[str, Make] = {
    make.__name__: make for make in (residual, joined, outputs, operands, shapes)
}


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models use all their threads, however little there is to do."""
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    """Models live as long as these tests do, so that no kernel is compiled twice."""
    yield
    MODELS.clear()


def compiled(graph: ir.Graph, **how: Any) -> convc.Model:
    MODELS.append(convc.compile(graph, **how))
    return MODELS[-1]


def improved(graph: ir.Graph) -> ir.Graph:
    """What the passes make of a graph."""
    return optimised(graph, PIPELINE)


def planned(graph: ir.Graph, passes: Sequence[Pass] = PIPELINE, target: str | None = None) -> Plan:
    """The plan of a graph; nothing is compiled."""
    options = Options(1, "fast", (), target_named(target), tuple(passes))
    return stages(graph, options).plan


def places(graph: ir.Graph, count: int) -> list[int]:
    """Wherever an optimised graph may be cut."""
    nodes = images._singles(graph, count)
    front = images._Front(graph, count)
    cuts = range(1, len(nodes) + 1)
    return [cut for cut in cuts if front._legal(images._crossing(graph, cut))]


def cut_at(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are cut there from now on."""
    monkeypatch.setattr(images._Front, "best", lambda _: cut)


def each_cut(
    graph: ir.Graph, count: int, monkeypatch: pytest.MonkeyPatch, every: int = 1
) -> Iterator[int]:
    """The places, cut at one after the other; only some where others are tested elsewhere."""
    found = places(improved(graph), count)
    assert len(found) >= every
    for cut in found[count % every :: every]:
        cut_at(cut, monkeypatch)
        yield cut


def inputs_of(graph: ir.Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        for name, type in graph.inputs.items()
    }


def near(got: dict[str, Array], want: dict[str, Array], share: float = 1e-5) -> None:
    """Equal but for rounding, relative to the largest."""
    assert list(got) == list(want)
    for name, array in want.items():
        bound = share * max(np.abs(array).max(initial=0), 1)
        np.testing.assert_allclose(got[name], array, rtol=0, atol=bound, err_msg=name)


def bits(results: dict[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in results.items()}


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("batch", [2, 3, 5, 8])
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_wherever_it_is_cut_a_graph_computes_what_the_interpreter_does(
    make: Make, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer images than threads, as many, some left over; the same bits for all threads."""
    graph = make(batch)
    inputs = inputs_of(graph)
    want = ir.interpret(graph, inputs, "float64")
    whole = compiled(graph, by_image=False).run(inputs)
    for number, cut in enumerate(each_cut(graph, batch, monkeypatch, 2)):
        alone = compiled(graph, threads=1)
        plan = alone.executable().plan
        assert plan.program.images is not None and plan.program.images.count == batch
        first = alone.run(inputs)
        near(first, want)
        near(first, whole)
        threads = 2 + (number + cut) % 3
        model = compiled(graph, threads=threads)
        assert model.executable().threads == threads
        assert bits(model.run(inputs)) == bits(model.run(inputs)) == bits(first)


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_images_that_are_left_over_are_run_by_all_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (2, 3, 5, 7):
        graph = residual(batch)
        cut_at(4, monkeypatch)
        executable = compiled(graph, threads=threads).executable()
        assert isinstance(executable._loop, ImageLoop)
        records = list(executable._loop.records())
        steps = len(executable._loop.part.plan.steps)
        alone = batch - batch % threads
        assert len(records) == (alone > 0) + (batch - alone) * steps
        assert not alone or records[0].tasks == alone


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", available())
def test_every_target_and_type(target: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual(3).with_dtype(dtype)
    inputs = {"x": inputs_of(graph)["x"].astype(dtype)}
    want = ir.interpret(graph, inputs, "float64")
    for _ in each_cut(graph, 3, monkeypatch):
        got = compiled(graph, threads=2, target=target, accuracy="exact").run(inputs)
        near(got, want, 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_the_loops_of_both_parts_mean_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make(2)
    inputs = inputs_of(graph)
    want = ir.interpret(graph, inputs, "float64")
    found = places(improved(graph), 2)
    for cut in (found[len(found) // 2], found[-1]):
        cut_at(cut, monkeypatch)
        got = loops_runner.run(planned(graph), inputs, loops_runner.as_loops())
        near({name: got[name].reshape(want[name].shape) for name in got}, want)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_graphs_random_cuts(data: st.DataObject) -> None:
    draw = data.draw
    batch, threads = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    graph = random_graph(draw, batch)
    inputs = inputs_of(graph, draw(st.integers(0, 9)))
    want = compiled(graph, by_image=False).run(inputs)
    found = places(improved(graph), batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convc.program.WORTH_SHARING", -1.0)
        patch.setattr("convc.runtime.executable.SMALL", -1.0)
        cut_at(draw(st.sampled_from(found)), patch)
        got = compiled(graph, threads=threads).run(inputs)
    near(got, want)
    near(got, ir.interpret(graph, inputs, "float64"))


def random_graph(draw: Callable[[st.SearchStrategy[int]], int], batch: int) -> ir.Graph:
    """Convolutions, pools, sums and concatenations of earlier values of one size."""
    b = Net("random")
    shape = (batch, draw(st.sampled_from([1, 3, 16, 17])), draw(st.integers(4, 7)), 5)
    values = [b.input("x", f"f32[{', '.join(map(str, shape))}]")]
    for _ in range(draw(st.integers(1, 6))):
        x = values[draw(st.integers(0, len(values) - 1))]
        alike = [value for value in values if value.shape == x.shape]
        other = alike[draw(st.integers(0, len(alike) - 1))]
        kind = draw(st.integers(0, 4))
        if kind < 2:
            values.append(
                b.step(x, draw(st.sampled_from([4, 16, 19])), draw(st.sampled_from([1, 3])))
            )
        elif kind == 2:
            values.append(b.max_pool(x, 3, 1, pad=1))
        elif kind == 3:
            values.append(b.relu(x + other))
        else:
            values.append(b.concat([x, values[draw(st.integers(0, len(values) - 1))]]))
    for number in {0, draw(st.integers(0, len(values) - 1))} - {len(values) - 1}:
        b.output(f"y{number}", values[number])
    b.output("last", b.mean(values[-1], (2, 3)))
    return b.build()


# ---------------------------------------------------------------- models


def test_a_symbolic_batch_is_cut_where_it_is_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Net("symbolic")
    x = b.step(b.input("x", "f32[N, 3, 6, 5]"), 8)
    b.output("y", b.dense(b.flatten(b.step(x, 8)), b.drawn(240, 4)))
    graph = b.build()
    cut_at(2, monkeypatch)
    model = compiled(graph, threads=2)
    for count, parts in ((8, 2), (1, 1), (8, 2)):
        inputs = inputs_of(graph.bind({"N": count}))
        near(model.run(inputs), ir.interpret(graph, inputs, "float64"))
        assert len(model.stages(N=count).plan.parts) == parts
    empty = {"x": np.zeros((0, 3, 6, 5), np.float32)}
    assert model.run(empty)["y"].shape == (0, 4)


def test_a_pickled_model_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual(3)
    cut_at(3, monkeypatch)
    for by_image in (True, False):
        model = compiled(graph, threads=2, by_image=by_image)
        again = pickle.loads(pickle.dumps(model))
        assert again.options.by_image is by_image
        assert (again.executable().plan.images is not None) is by_image
        assert bits(again.run(inputs_of(graph))) == bits(model.run(inputs_of(graph)))


def test_several_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has the workers, the others run alone; each has memory of its own."""
    graph = residual(5)
    cut_at(5, monkeypatch)
    model = compiled(graph, threads=3)
    given = [inputs_of(graph, seed) for seed in range(4)]
    want = [bits(model.run(inputs)) for inputs in given]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def call(number: int) -> None:
        start.wait(60)
        wrong.extend(number for _ in range(40) if bits(model.run(given[number])) != want[number])

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not wrong and 1 <= len(model.executable()._contexts) <= 4


def test_runs_allocate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = outputs(5)
    cut_at(2, monkeypatch)
    model = compiled(graph, threads=2)
    inputs = inputs_of(graph)
    results = {name: array.copy() for name, array in model.run(inputs).items()}
    monkeypatch.setattr("convc.runtime.part.aligned", None)  # what allocates
    for _ in range(20):
        model.run(inputs, results)
    near(results, ir.interpret(graph, inputs, "float64"))
    assert len(model.executable()._contexts) == 1
