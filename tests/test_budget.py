"""A budget of memory: algorithms with smaller weights take over, results stay."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir


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
    with pytest.raises(convc.CapacityError, match=r"memory=1000: the program keeps [\d,]+ bytes"):
        convc.compile(network(), memory=1000)


def test_forced_algorithms_stay() -> None:
    graph = network(1)
    free = convc.compile(graph, algorithms={"conv0": "winograd4"})
    memory = free.executable().plan.resident_bytes
    convc.compile(graph, algorithms={"conv0": "winograd4"}, memory=memory)
    with pytest.raises(convc.CapacityError, match="no other algorithms take less"):
        convc.compile(graph, algorithms={"conv0": "winograd4"}, memory=memory - 1)


@pytest.mark.parametrize("memory", [0, -1, 1.5, "64M", True])
def test_nonsense_is_refused(memory: object) -> None:
    with pytest.raises(convc.InputError, match="memory="):
        convc.compile(network(1), memory=memory)  # type: ignore[arg-type]
