"""Where batches are cut into images, and what memory that takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import convc
import ir
from convc import images
from convc.backend.target import target_named
from convc.plan import Placed, Plan
from convc.select import choices
from convc.zoo import build
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
    shared,  # noqa: F401, a fixture of all these tests too
)
from tests.test_plan import check_memory


def large(n: int = 3) -> ir.Graph:
    """Images of half a MiB, small kernels, a dense end."""
    b = Net("large")
    x = b.input("x", f"f32[{n}, 8, 128, 128]")
    y = b.step(b.step(b.max_pool(b.step(x, 8), 3, 1, pad=1), 8), 8)
    b.output("y", b.dense(b.mean(y, (2, 3)), b.drawn(8, 10)))
    return b.build()


# ---------------------------------------------------------------- what stops the cut


def test_what_mixes_images_is_not_run_by_image() -> None:
    b = Net("mixed")
    x = b.step(b.input("x", "f32[4, 3, 6, 6]"), 5)
    b.output("across", b.sum(x, (0, 2, 3)))
    graph = improved(b.build())
    assert places(graph, 4) == list(range(1, len(graph.nodes)))
    b = Net("apart")
    x = b.max_pool(b.input("x", "f32[4, 3, 6, 6]"), 2)
    b.output("y", b.max_pool(b.mul(x, b.drawn(4, 3, 1, 1)), 2))
    assert places(improved(b.build()), 4) == [1]
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


@pytest.mark.parametrize(("first", "second"), [(4, 6), (6, 4), (2, 8), (3, 1), (4, 4)])
def test_of_images_of_two_numbers_the_first_are_run_one_by_one(
    first: int, second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to where others are read."""
    b = Net("uneven")
    x, other = b.input("x", f"f32[{first}, 3, 6, 6]"), b.input("other", f"f32[{second}, 3, 6, 6]")
    ours, theirs = b.max_pool(b.step(x, 5), 2), b.max_pool(b.step(other, 5), 2)
    b.output("y", b.sum(ours, 0) + b.sum(theirs, 0))
    graph = improved(b.build())
    most = 4 if first == second else 2
    found = places(graph, first)
    assert max(found) == most
    cut_at(max(found), monkeypatch)
    front, _ = images.pieces(graph)
    assert front.images == first and len(front.graph.nodes) == most
    inputs = inputs_of(graph)
    near(compiled(graph, threads=2).run(inputs), ir.interpret(graph, inputs, "float64"))


@pytest.mark.parametrize("other", ["f32[]", "f32[1, 3, 6, 6]", "f32[7]", "f32[5, 3, 3, 3]"])
@pytest.mark.parametrize("last", [False, True])
def test_the_images_are_those_that_the_first_node_reads(
    other: str, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other inputs there are, before or after."""
    b = Net("others")
    names = ["x", "other"] if last else ["other", "x"]
    given = {name: b.input(name, other if name == "other" else "f32[4, 3, 6, 6]") for name in names}
    x, rest = given["x"], given["other"]
    y = b.max_pool(b.conv(x, rest if rest.type.rank == 4 and rest.shape[0] == 5 else
                          b.drawn(5, 3, 3, 3), pad=1), 2)  # fmt: skip
    b.output("y", b.dense(b.flatten(y), b.drawn(45, 4)) * b.sum(rest))
    graph = improved(b.build())
    cut_at(1, monkeypatch)
    first, _ = images.pieces(graph)
    assert first.images == 4
    inputs = inputs_of(graph)
    near(compiled(graph).run(inputs), ir.interpret(graph, inputs, "float64"))


def test_gradients_are_of_as_many_images_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever input stands first: the images, or the gradient of the scores."""
    back = ir.vjp(residual(3), ["x"])
    turned = back.replace(inputs=dict(reversed(back.inputs.items())))
    assert list(turned.inputs) == ["grad_y", "x"]
    cut_at(2, monkeypatch)
    inputs = inputs_of(back)
    want = ir.interpret(back, inputs, "float64")
    for graph in (back, turned):
        assert images.pieces(improved(graph))[0].images == 3
        near(compiled(graph).run(inputs), want)


def test_the_least_memory_counts_what_crosses_and_each_threads_images() -> None:
    b = Net("least")
    x = b.max_pool(b.input("x", "f32[4, 8, 32, 32]"), 3, 1, pad=1)
    x = b.max_pool(b.max_pool(b.max_pool(x, 3, 1, pad=1), 2), 2)
    b.output("y", b.mean(x, (2, 3)))
    graph = b.build()
    front = images._front(graph)
    assert front is not None
    assert front.least(1) == front.least(2) == len(graph.nodes)
    sizes = {name: type.static_nbytes for name, type in graph.types.items()}
    whole = images._most_alive(graph.nodes, sizes, (), graph.outputs.values())
    assert whole == 2 * 4 * 8 * 32 * 32 * 4
    assert images._most_alive(graph.nodes[3:], sizes, [graph.nodes[2].name], ()) == (
        4 * 8 * (16 * 16 + 8 * 8) * 4
    )


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
        assert all(placed.first == 0 for placed in handed_over(plan))


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
    gone = [placed for part in plans for placed in part.passing.values()]
    assert all(placed.slot.data is None for placed in gone)


# ---------------------------------------------------------------- where it pays


def front(graph: ir.Graph) -> tuple[set[str], set[str]]:
    """The nodes that run for each image, and the others."""
    *fronts, tail = images.pieces(improved(graph))
    first = {node.name for front in fronts for node in front.graph.nodes}
    return first, {node.name for node in tail.graph.nodes}


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_what_reads_big_weights_stays_whole(name: str) -> None:
    graph = improved(build(name, 8))
    by_image, whole = front(graph)
    assert len(by_image) > len(graph.nodes) / 2 and whole
    sizes = {
        node.name: sum(graph.types[v].static_nbytes for v in node.inputs if v in graph.weights)
        for node in graph.nodes
    }
    assert max(sizes, key=sizes.__getitem__) in whole
    assert sum(map(sizes.__getitem__, by_image)) < sum(map(sizes.__getitem__, whole))


def test_small_images_and_single_ones_are_not_cut() -> None:
    for graph in (build("lenet", 8), build("resnet18", 1), ir.vjp(build("lenet", 8), ["x"])):
        by_image, _ = front(graph)
        assert not by_image


def test_dense_layers_alone_stay_whole() -> None:
    b = Net("dense")
    x = b.input("x", "f32[256, 1024]")
    b.output("y", b.relu(b.dense(b.relu(b.dense(x, b.drawn(1024, 1024))), b.drawn(1024, 1024))))
    assert not front(b.build())[0]


def test_choices_are_of_the_pieces_that_compile_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default too; where to cut is looked for once."""
    graph, looked = improved(large()), list[images._Front]()
    best = images._Front.best

    def counted(front: images._Front) -> int:
        looked.append(front)
        return best(front)

    monkeypatch.setattr(images._Front, "best", counted)
    found = [choice.piece for choice in choices(graph, target_named())]
    assert looked.pop() and {piece.images for piece in found} == {3, None}
    planned(graph, ())
    assert len(looked) == 1
    for threads, alone in ((1, False), (2, True), (3, True), (4, False)):
        (first, tail) = images.pieces(graph, True, threads)
        assert first.alone is alone and not tail.alone


def test_large_images_are_run_one_by_one() -> None:
    by_image, _ = front(large())
    assert len(by_image) >= 3
    assert len(images.pieces(improved(large()), by_image=False)) == 1


def test_what_is_saved_for_gradients_is_not_worth_a_cut() -> None:
    """All that the front makes is read again later."""
    back = improved(ir.vjp(large(8), list(large(8).weights)))
    by_image, _ = front(back)
    crossing = images._crossing(back, len(by_image))
    assert sum(crossing.values()) <= len(by_image) / 2


def test_kernels_given_as_inputs_are_not_packed_for_every_image() -> None:
    graph = build("alexnet", 8).weights_as_inputs()
    by_image, _ = front(graph)
    better = improved(graph)
    read = {v for node in better.nodes if node.name in by_image for v in node.inputs}
    assert sum(better.types[v].static_nbytes for v in read - {"x"} if v in better.inputs) < 1 << 18
