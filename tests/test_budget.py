"""A budget of memory: algorithms with smaller weights take over, results stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc import images
from convc import select as selection
from convc.lowering import Lowering


def network(layers: int = 3, channels: int = 64, size: int = 28) -> ir.Graph:
    rng = np.random.default_rng(0)
    b = ir.Builder("layers")
    x = b.input("x", f"f32[1, {channels}, {size}, {size}]")
    for number in range(layers):
        w = rng.standard_normal((channels, channels, 3, 3), np.float32) / 24
        x = b.relu(b.conv(x, b.weight(f"w{number}", w), pad="same", name=f"conv{number}"))
    b.output("y", x)
    return b.build()


def test_less_memory_means_other_algorithms_and_the_same_answer() -> None:
    graph = network()
    x = np.random.default_rng(1).standard_normal((1, 64, 28, 28), np.float32)
    (wanted,) = ir.interpret(graph, {"x": x}, "float64").values()
    free = convc.compile(graph, threads=1)
    most = free.executable().plan.resident_bytes
    seen = set()
    for share in (1.0, 0.9, 0.75, 0.6):
        memory = int(share * most)
        model = convc.compile(graph, threads=1, memory=memory)
        plan = model.executable().plan
        assert plan.resident_bytes <= memory
        seen.add(tuple(step.algorithm for step in plan.steps))
        np.testing.assert_allclose(model(x), wanted, atol=1e-4 * np.abs(wanted).max())
    assert len(seen) > 2, "one layer after the other takes less"


def test_a_budget_that_nothing_meets_says_what_is_needed() -> None:
    with pytest.raises(convc.CapacityError, match=r"memory=1000: the least .* is [\d,]+ bytes"):
        convc.compile(network(), memory=1000)


def needed(graph: ir.Graph, **how: Any) -> int:
    """The least that a program is said to keep; the message says too where it goes."""
    with pytest.raises(convc.CapacityError, match="allow as many") as raised:
        convc.compile(graph, memory=1, **how).stages()
    pattern = (
        r"is ([\d,]+) bytes \(weights ([\d,]+), intermediate results ([\d,]+)(, image by .*)?\)"
    )
    found = re.search(pattern, str(raised.value))
    assert found is not None
    least, weights, results = (int(number.replace(",", "")) for number in found.groups()[:3])
    assert least == weights + results
    return least


def test_refusing_asks_algorithms_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many plans are tried; no kernel of the same key is made twice."""
    asked: list[str] = []
    made: list[tuple[object, tuple[Any, ...]]] = []
    candidates, kernel = selection.candidates, Lowering.kernel

    def remembered(site: Any, *how: Any) -> Any:
        asked.append(site.name)
        return candidates(site, *how)

    def counted(self: Lowering, key: object, stored: Any, make: Callable[[], Any]) -> Any:
        def told() -> Any:
            made.append((key, tuple(stored)))
            return make()

        return kernel(self, key, stored, told)

    monkeypatch.setattr(selection, "candidates", remembered)
    monkeypatch.setattr(Lowering, "kernel", counted)
    needed(network(), threads=1)
    assert len(asked) == len(set(asked)) == 3
    kinds = {(key, tuple((s.type, s.layout) for s in stored)) for key, stored in made}
    assert len(made) == len(kinds) > 3


def batch(count: int = 4, size: int = 64) -> ir.Graph:
    """A few images whose values are large beside the weights."""
    graph = network(2, 8, size)
    types = {"x": graph.inputs["x"].with_shape(count, *graph.inputs["x"].shape[1:])}
    return graph.replace(inputs=types)


@pytest.mark.parametrize(
    "how",
    [
        {"threads": 1},
        {"threads": 2},
        {"threads": 8},
        {"threads": 2, "by_image": False},
        {"threads": 1, "accuracy": "exact"},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [network, batch])
def test_what_is_said_to_be_the_least_is_enough_and_the_least(
    make: Callable[[], ir.Graph], how: dict[str, Any]
) -> None:
    graph = make()
    least = needed(graph, **how)
    model = convc.compile(graph, memory=least, **how)
    assert model.stages().plan.kept_bytes(how["threads"]) == least
    with pytest.raises(convc.CapacityError, match=f"{least:,} bytes"):
        convc.compile(graph, memory=least - 1, **how)


def test_a_batch_is_cut_into_images_where_that_takes_less() -> None:
    """Also where it does not pay, and as often as threads have images of their own."""
    graph = batch()
    assert convc.compile(graph, threads=1).stages().plan.images is None
    whole, images = needed(graph, threads=1, by_image=False), needed(graph, threads=1)
    assert images < whole * 0.6
    model = convc.compile(graph, threads=1, memory=whole - 1)
    assert model.stages().plan.images is not None
    x = np.random.default_rng(1).standard_normal((4, 8, 64, 64), np.float32)
    (wanted,) = ir.interpret(graph, {"x": x}, "float64").values()
    np.testing.assert_allclose(model(x), wanted, atol=1e-4 * np.abs(wanted).max())
    assert images < needed(graph, threads=2) < needed(graph, threads=4) < 1.5 * whole


def test_what_no_machine_can_hold_is_not_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that needs more than there is does not end the search for one that needs less."""
    graph = batch()
    least = needed(graph, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr("convc.plan.total_bytes", lambda: 2 * least)
        with pytest.raises(convc.CapacityError, match="the plan needs"):
            convc.compile(graph, threads=1)
        assert convc.compile(graph, threads=1, memory=least).stages().plan.images is not None


def test_a_batch_stays_whole_where_that_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in its middle, what all images hand over there is alive beside what threads work on."""
    graph = batch()
    whole = needed(graph, threads=4, by_image=False)
    monkeypatch.setattr(images._Front, "best", lambda _: 1)
    monkeypatch.setattr(images._Front, "least", lambda *_: 1)
    assert convc.compile(graph, threads=4).stages().plan.images is not None
    assert needed(graph, threads=4) == whole
    assert convc.compile(graph, threads=4, memory=whole).stages().plan.images is None


def test_algorithms_that_work_on_much_memory_are_given_up() -> None:
    """Where they prepare no weights: what is alive at their steps is what is too much."""
    b = ir.Builder("workspace")
    x, w = b.input("x", "f32[1, 32, 64, 64]"), b.input("w", "f32[32, 32, 3, 3]")
    b.output("y", b.conv(x, w, pad=1))
    graph = b.build()
    usual = convc.compile(graph, threads=1).stages()
    least = needed(graph, threads=1)
    assert least < usual.plan.arena_bytes / 2
    lean = convc.compile(graph, threads=1, memory=least).stages()
    assert lean.algorithms != usual.algorithms


def test_forced_algorithms_stay() -> None:
    graph = network(1)
    free = convc.compile(graph, algorithms={"conv0": "winograd4"})
    memory = free.executable().plan.resident_bytes
    convc.compile(graph, algorithms={"conv0": "winograd4"}, memory=memory)
    with pytest.raises(convc.CapacityError, match="the least that"):
        convc.compile(graph, algorithms={"conv0": "winograd4"}, memory=memory - 1)


@pytest.mark.parametrize("memory", [0, -1, 1.5, "64M", True])
def test_nonsense_is_refused(memory: object) -> None:
    with pytest.raises(convc.InputError, match="memory="):
        convc.compile(network(1), memory=memory)  # type: ignore[arg-type]
