"""Operands written where their concatenation lies, and slices read where they lie."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available, target_named
from convc.cost import MEMORY
from convc.select import choices
from ir.ops import Concat
from tests.loops_runner import natively, run
from tests.oracles import SEED
from tests.test_plan import check_memory

RNG = np.random.default_rng(SEED)
NUMBER = count()


def layer(b: ir.Builder, x: ir.Value, channels: int, taps: int = 3) -> ir.Value:
    """A convolution with a rectifier, of the size of its input."""
    inner = x.type.static_shape[1]
    w = RNG.standard_normal((channels, inner, taps, taps)) / (taps * inner**0.5)
    return b.relu(b.conv(x, b.weight(f"w{next(NUMBER)}", w.astype(np.float32)), pad="same"))


def siblings(b: ir.Builder, x: ir.Value) -> ir.Value:
    return layer(b, b.concat([layer(b, x, 32, 1), layer(b, x, 16)]), 5)


def chain(b: ir.Builder, x: ir.Value) -> ir.Value:
    x = layer(b, x, 16)
    for _ in range(3):
        x = b.concat([x, layer(b, layer(b, x, 32, 1), 16)])
    return b.max_pool(x, 2)


def remainder_last(b: ir.Builder, x: ir.Value) -> ir.Value:
    return layer(b, b.concat([layer(b, x, 32), layer(b, x, 7)]), 20)


def remainder_first(b: ir.Builder, x: ir.Value) -> ir.Value:
    return layer(b, b.concat([layer(b, x, 7), layer(b, x, 32)]), 20)


def twice(b: ir.Builder, x: ir.Value) -> ir.Value:
    y = layer(b, x, 16)
    return layer(b, b.concat([y, y, layer(b, x, 16)]), 16)


def in_two(b: ir.Builder, x: ir.Value) -> ir.Value:
    y, z = layer(b, x, 16), layer(b, x, 16)
    return layer(b, b.concat([y, z]), 16) + layer(b, b.concat([z, y]), 16)


def wide_reader(b: ir.Builder, x: ir.Value) -> ir.Value:
    """A part is read with a wider halo than the whole."""
    y = layer(b, x, 16)
    return layer(b, b.concat([y, layer(b, x, 16)]), 16, 1) + layer(b, y, 16, 5)


def given(b: ir.Builder, x: ir.Value) -> ir.Value:
    return layer(b, b.concat([x, layer(b, x, 16), b.weight("c", np.ones((1, 16, 9, 7), "f"))]), 3)


def result(b: ir.Builder, x: ir.Value) -> ir.Value:
    return b.concat([layer(b, x, 16), layer(b, x, 16)])


def along_rows(b: ir.Builder, x: ir.Value) -> ir.Value:
    return layer(b, b.concat([layer(b, x, 16), layer(b, x, 16)], axis=2), 16)


def split(b: ir.Builder, x: ir.Value) -> ir.Value:
    y = layer(b, x, 48)
    parts = [b.slice(y, {1: (at, at + 16)}) for at in (0, 16, 32)]
    return b.concat([layer(b, parts[0], 16), b.relu(parts[2]), layer(b, parts[1], 4)])


def split_unevenly(b: ir.Builder, x: ir.Value) -> ir.Value:
    y = layer(b, x, 32)
    return layer(b, b.slice(y, {1: (5, 21)}), 16)


MOVED: dict[Callable[[ir.Builder, ir.Value], ir.Value], int] = {
    siblings: 0, chain: 0, remainder_last: 0, remainder_first: 1, twice: 1, in_two: 1,
    wide_reader: 0, given: 1, result: 1, along_rows: 1, split: 1, split_unevenly: 1,
}  # fmt: skip
"""How many steps only move data, where there is one image."""


def graph_of(make: Callable[[ir.Builder, ir.Value], ir.Value], batch: int = 1) -> ir.Graph:
    b = ir.Builder(make.__name__)
    b.output("y", make(b, b.input("x", f"f32[{batch}, 16, 9, 7]")))
    return b.build()


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("make", MOVED, ids=lambda make: make.__name__)
def test_what_lies_in_place_is_not_moved(
    make: Callable[[ir.Builder, ir.Value], ir.Value], target: str
) -> None:
    graph = graph_of(make)
    x = RNG.standard_normal((1, 16, 9, 7)).astype(np.float32)
    model = convc.compile(graph, 1, target=target, accuracy="exact")
    made = model.stages().plan
    if target == "avx512":
        assert sum(step.algorithm == "move" for step in made.steps) == MOVED[make]
    check_memory(made)
    expected = ir.interpret(graph, {"x": x}, "float64")["y"]
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    apart = run(made, {"x": x}, natively(model.options.target))  # unwritten memory holds NaN
    np.testing.assert_array_equal(apart["y"].reshape(expected.shape), model(x))


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("make", MOVED, ids=lambda make: make.__name__)
def test_only_what_is_copied_has_a_price(
    make: Callable[[ir.Builder, ir.Value], ir.Value], target: str
) -> None:
    made = convc.compile(graph_of(make), 1, target=target).stages()
    for choice in choices(made.optimised, made.target):
        if isinstance(choice.node.op, Concat):
            mine = [step for step in made.plan.steps if step.node == choice.node.name]
            copied = [len(step.reads) for step in mine if step.algorithm == "move"]
            seconds, whole = choice.chosen.seconds, choice.chosen.algorithm.seconds(choice.site)
            assert (seconds == 0) is (not copied)
            assert (seconds == whole) is (copied == [len(choice.node.inputs)])
            assert 0 <= seconds <= whole


def test_copies_take_what_memory_allows() -> None:
    """From the caches at least twice as fast."""
    rates = {}
    for channels in (64, 4096):
        b = ir.Builder("copy")
        x = b.input("x", f"f32[1, {channels}, 64, 64]")
        b.output("y", b.concat([x, x]))
        graph = b.build()
        (choice,) = choices(graph, target_named())
        rates[channels] = graph.cost().bytes / choice.chosen.seconds
    assert rates[4096] == MEMORY < rates[64] / 2


def test_parts_of_several_images_are_not_contiguous() -> None:
    graph = graph_of(siblings, batch=2)
    x = RNG.standard_normal((2, 16, 9, 7)).astype(np.float32)
    model = convc.compile(graph, 1)
    assert sum(step.algorithm == "move" for step in model.stages().plan.steps) == 1
    expected = ir.interpret(graph, {"x": x}, "float64")["y"]
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [(0, 32), (16, 32), (16, 20), (3, 9)])
@pytest.mark.parametrize("image", [0, 1, 2])
def test_a_slice_of_one_image_of_a_batch_is_that_image(
    image: int, channels: tuple[int, int], target: str
) -> None:
    rng = np.random.default_rng(1)
    b = ir.Builder("image")
    x = b.input("x", "f32[3, 8, 6, 5]")
    w = b.weight("w", rng.standard_normal((32, 8, 3, 3)).astype(np.float32))
    y = b.conv(x, w, pad=1)
    b.output("y", b.tanh(b.slice(y, {0: (image, image + 1), 1: channels})))
    b.output("z", b.sum(b.slice(b.exp(x), {0: (image, image + 1)}), (2, 3)))
    graph, inputs = b.build(), {"x": rng.standard_normal((3, 8, 6, 5)).astype(np.float32)}
    want = ir.interpret(graph, inputs, "float64")
    for passes in ((), None):
        how = {} if passes is None else {"passes": passes}
        found = convc.compile(graph, 1, target=target, **how).run(inputs)
        for name, array in want.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)


def test_split_along_the_batch_and_joined_again() -> None:
    b = ir.Builder("split")
    first, second, third = b.split(b.exp(b.input("x", "f32[3, 4, 5, 5]")), (1, 1, 1), 0)
    b.output("y", b.concat([first - third, second], 0))
    graph = b.build()
    inputs = {"x": RNG.standard_normal((3, 4, 5, 5)).astype(np.float32)}
    for each in (graph, ir.vjp(graph)):
        given = inputs | {n: np.ones(t.static_shape, np.float32)
                          for n, t in each.inputs.items() if n != "x"}  # fmt: skip
        want = ir.interpret(each, given, "float64")
        for name, array in convc.compile(each, 1).run(given).items():
            np.testing.assert_allclose(array, want[name], rtol=1e-5, atol=1e-5)
