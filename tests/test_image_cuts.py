"""Where batches are cut into images, what memory that takes, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import convc
import ir
from convc import images
from convc.plan import Placed, Plan
from tests.test_images import (
    GRAPHS,
    Make,
    Net,
    compiled,
    cut_at,
    each_cut,
    improved,
    inputs_of,
    near,
    places,
    planned,
    residual,
)
from tests.test_plan import check_memory

# ---------------------------------------------------------------- what stops the cut


def test_what_mixes_images_is_not_run_by_image() -> None:
    b = Net("mixed")
    x = b.step(b.input("x", "f32[4, 3, 6, 6]"), 5)
    b.output("across", b.sum(x, (0, 2, 3)))
    graph = improved(b.build())
    assert places(graph, 4) == list(range(1, len(graph.nodes)))
    b = Net("trained")
    x = b.step(b.input("x", "f32[4, 3, 6, 6]"), 5)
    y, *_ = b.batch_norm_training(x, b.drawn(5), b.exp(b.drawn(5)))
    b.output("y", b.step(b.relu(y), 5))
    graph = improved(b.build())
    assert 0 < len(images._singles(graph, 4)) < len(graph.nodes) / 2


def test_an_axis_as_long_as_the_batch_is_not_taken_for_it() -> None:
    """A column of weights, kernels, and a matrix given from outside, of as many rows as images."""
    b = Net("eight")
    x, column = b.input("x", "f32[8, 8, 8, 8]"), b.input("column", "f32[8]")
    kernels, matrix = b.input("kernels", "f32[8, 8, 3, 3]"), b.input("matrix", "f32[8, 8]")
    y = b.bias(b.conv(x, kernels, pad=1), column)
    b.output("y", b.dense(b.sum(y * column, (2, 3)), matrix))
    graph = improved(b.build())
    assert places(graph, 8) == []
    assert images.pieces(graph) == (images.Piece(graph),)


def test_a_value_with_two_public_names_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Net("twice")
    twice = b.step(b.input("x", "f32[3, 2, 5, 5]"), 4)
    b.output("a", twice)
    b.output("b", twice)
    late = b.max_pool(twice, 2)
    b.output("y", late)
    assert places(improved(b.build()), 3) == []
    b = Net("later")
    x = b.step(b.input("x", "f32[3, 2, 5, 5]"), 4)
    late = b.step(x, 4)
    b.output("a", late)
    b.output("b", late)
    graph = b.build()
    inputs = inputs_of(graph)
    for cut in each_cut(graph, 3, monkeypatch):
        assert cut == 1
        near(convc.compile(graph).run(inputs), ir.interpret(graph, inputs, "float64"))


def test_more_values_than_the_runtime_passes_are_not_handed_over() -> None:
    b = Net("many")
    x = b.input("x", "f32[2, 2, 3, 3]")
    for number in range(images.MOST_BOUND):
        b.output(f"y{number}", b.max_pool(b.scale(x, number + 1.0), 2, 1))
    graph = b.build()
    for cut in places(graph, 2):
        assert len(images._crossing(graph, cut)) + 1 <= images.MOST_BOUND
    assert 2 * images.MOST_BOUND not in places(graph, 2)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_the_memory_of_both_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is alive together lies apart; values handed over are there from the first step on."""
    graph = make(3)
    for _ in each_cut(graph, 3, monkeypatch):
        plan = planned(graph)
        for part in plan.parts:
            check_memory(part)
            assert part.arena_bytes % 64 == 0
        for placed in handed_over(plan):
            assert placed.first == 0


def handed_over(plan: Plan) -> Iterator[Placed]:
    assert plan.program.images is not None
    slots = plan.program.images.bound.values()
    yield from (plan.temporaries[slot] for slot in slots if slot in plan.temporaries)


def test_uneven_parts_end_where_what_they_lie_in_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels whose planes are no multiple of a cache line, joined in place."""
    b = Net("uneven")
    x = b.input("x", "f32[4, 11, 2, 2]")
    few = b.slice(x, {1: (0, 5)})
    b.output("y", b.sum(b.concat([b.relu(few), b.tanh(x)]), (2, 3)))
    graph = b.build()
    inputs = inputs_of(graph)
    for _ in each_cut(graph, 4, monkeypatch):
        model = compiled(graph, threads=3, passes=())
        for part in planned(graph, passes=()).parts:
            check_memory(part)
            assert part.arena_bytes % 64 == 0
        near(model.run(inputs), ir.interpret(graph, inputs, "float64"))


def test_weights_that_are_packed_are_not_kept_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(3, monkeypatch)
    executable = compiled(residual(2), threads=1).executable()
    plans = executable.plan.parts
    programs = [part.program for part in plans]
    assert executable.plan.program.images is not None
    programs.append(executable.plan.program.images.program)
    kept = [slot for program in programs for slot in program.slots if slot.data is not None]
    read = {slot for part in plans for slot in part.constants}
    assert {slot.number for slot in kept} <= read
    assert not any(part.passing for part in plans)


# ---------------------------------------------------------------- where it pays


def front(graph: ir.Graph) -> tuple[set[str], set[str]]:
    """The nodes that run for each image, and the others."""
    *fronts, tail = images.pieces(improved(graph))
    first = {node.name for front in fronts for node in front.graph.nodes}
    return first, {node.name for node in tail.graph.nodes}


def network(name: str, batch: int = 8) -> ir.Graph:
    return convc.zoo.build(name, batch)


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_what_reads_big_weights_stays_whole(name: str) -> None:
    graph = improved(network(name))
    by_image, whole = front(network(name))
    assert len(by_image) > len(graph.nodes) / 2 and whole
    sizes = {
        node.name: sum(graph.types[v].static_nbytes for v in node.inputs if v in graph.weights)
        for node in graph.nodes
    }
    assert max(sizes, key=sizes.__getitem__) in whole
    assert sum(map(sizes.__getitem__, by_image)) < sum(map(sizes.__getitem__, whole))


def test_small_images_and_single_ones_are_not_cut() -> None:
    for graph in (network("lenet"), network("resnet18", 1), ir.vjp(network("lenet"), ["x"])):
        by_image, _ = front(graph)
        assert not by_image


def test_dense_layers_alone_stay_whole() -> None:
    b = Net("dense")
    x = b.input("x", "f32[256, 1024]")
    b.output("y", b.relu(b.dense(b.relu(b.dense(x, b.drawn(1024, 1024))), b.drawn(1024, 1024))))
    assert not front(b.build())[0]


def large(n: int = 8) -> ir.Graph:
    """Images of 1 MiB, small kernels, a dense end."""
    b = Net("large")
    x = b.input("x", f"f32[{n}, 16, 128, 128]")
    y = b.step(b.step(b.step(x, 16), 16), 16)
    b.output("y", b.dense(b.mean(y, (2, 3)), b.drawn(16, 10)))
    return b.build()


def test_large_images_are_run_one_by_one() -> None:
    by_image, _ = front(large())
    assert len(by_image) >= 3
    assert len(images.pieces(improved(large()), by_image=False)) == 1


def test_what_is_saved_for_gradients_is_not_worth_a_cut() -> None:
    """All that the front makes is read again later."""
    graph = large()
    weights = list(graph.weights)
    by_image, _ = front(ir.vjp(graph, weights))
    back = improved(ir.vjp(graph, weights))
    crossing = images._crossing(back, len(by_image))
    assert sum(crossing.values()) <= len(by_image) / 2


def test_kernels_given_as_inputs_are_not_packed_for_every_image() -> None:
    graph = network("alexnet").weights_as_inputs()
    by_image, _ = front(graph)
    better = improved(graph)
    read = {v for node in better.nodes if node.name in by_image for v in node.inputs}
    assert sum(better.types[v].static_nbytes for v in read - {"x"} if v in better.inputs) < 1 << 18
