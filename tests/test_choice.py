"""How good the choice without measuring is: beside the best algorithm, measured, layer by layer."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

import convc
from convc.backend.target import target_named
from convc.select import choices
from convc.tools import layers
from convc.tools.timing import measure

HOPELESS = 20.0  # times the chosen one's predicted cost: not measured


@pytest.mark.slow
def test_the_choice_by_prediction_is_near_the_best_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the geometric mean of all layers and directions: at most 15 % above the best."""
    losses = []
    for layer in layers.LAYERS:
        for direction in layers.DIRECTIONS:
            name, loss, best = loss_of(layer, direction)
            losses.append(loss)
            with capsys.disabled():
                print(f"{layer.name:32} {direction}  chose {name:12} {loss:5.2f} x {best}")
    mean = statistics.geometric_mean(losses)
    with capsys.disabled():
        print(f"geometric mean over {len(losses)}: {mean:.3f} x the best")
    assert mean <= 1.15


def loss_of(layer: layers.Layer, direction: layers.Direction) -> tuple[str, float, str]:
    """The algorithm chosen, its time over that of the best one, and which that is."""
    graph = layers.graph(layer, direction)
    (choice,) = choices(graph, target_named(None))
    tried = [c for c in choice.applicable if math.isfinite(c.seconds)]
    names = [c.algorithm.name for c in tried if c.cost <= HOPELESS * choice.chosen.cost]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.static_shape, np.float32) for t in graph.inputs.values()]
    models = {n: convc.compile(graph, threads=1, algorithms={"y": n}) for n in names}
    calls = {n: lambda model=model: model(*arrays) for n, model in models.items()}
    times = {n: timing.least for n, timing in measure(calls, rounds=5).items()}
    best = min(times, key=times.__getitem__)
    chosen = choice.chosen.algorithm.name
    return chosen, times[chosen] / times[best], best
