"""Tuning: one node alone, and the loop over a graph."""

import logging
import pickle
import time
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest

import convc
import ir
from convc import images, plugins
from convc import select as selection
from convc.algorithms import Direct, Winograd
from convc.backend.target import target_named
from convc.select import choices
from convc.tuning import records, tuner
from convc.tuning.database import database, measured
from convc.tuning.records import REFUSED, signature
from convc.tuning.stopwatch import ENOUGH, SHORTEST, elsewhere, measure
from convc.tuning.trial import BETWEEN, Entry, Trial, alone, workspace_bytes
from convc.tuning.tuner import tune
from ir.ops import Relu
from tests.tuning_cases import HERE, chosen_by, names, network, options, single


@pytest.fixture
def instant(monkeypatch):
    """A few algorithms, measured without running: a time is what the test says, else 1 ms."""
    times, calls = {}, []
    few = (Direct(), Direct("plain"), Direct("rows"), Winograd(2))
    monkeypatch.setattr(selection, "algorithms", lambda: few)

    def told(contenders, others, rounds, seconds):
        calls.append(tuple(contenders))
        return {name: times.get(name, 1e-3) for name in contenders}

    monkeypatch.setattr(tuner, "measure", told)
    return times, calls


# ---------------------------------------------------------------- one node alone


@pytest.mark.parametrize("algorithm", ["direct", "direct_plain", "direct_rows", "winograd2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_node_alone_runs_without_conversions(algorithm, threads):
    graph = single()
    trial = Trial(graph, graph.nodes[0], replace(options(graph), threads=threads))
    entry = trial.entry(algorithm)
    expected = ir.interpret(graph, trial.inputs)["y"]
    np.testing.assert_allclose(entry.results["y"], expected, rtol=1e-3, atol=1e-3)
    executable, _, kept = entry.call.args
    labels = {step.algorithm for step in executable.plan.steps}
    assert labels and not labels & {*BETWEEN, "pack"}
    for array in kept:
        array[:] = np.nan
    entry.empty()
    assert all(np.isnan(array).all() for array in kept)
    entry.call()
    if "plain" in algorithm or "rows" in algorithm:  # the node writes the output itself
        np.testing.assert_array_equal(kept[0], entry.results["y"].reshape(-1))


def test_what_a_call_takes_by_itself_is_no_part_of_a_time():
    def entry(seconds):
        return Entry({}, partial(time.sleep, seconds), partial(time.sleep, 0.02), [])

    times = measure({"some": entry(0.05), "none": entry(0.01)}, np.ones(1, np.int64), 3, 0.0)
    assert 0.02 < times["some"] < 0.045
    assert times["none"] == SHORTEST


def test_packing_counts_where_weights_are_not_constant():
    graph = single().weights_as_inputs()
    entry = Trial(graph, graph.nodes[0], options(graph)).entry("direct")
    assert [step.algorithm for step in entry.call.args[0].plan.steps] == ["pack", "direct"]


def test_between_two_runs_as_much_is_read_as_the_rest_of_the_graph_works_on():
    graph = single()
    assert elsewhere(graph, graph.nodes[0]).size == 0
    more = network(relu=False)
    others = elsewhere(more, more.nodes[0])
    assert others.nbytes == 4 * (32 * 100 * 2 + 32 * 32 * 9 + 32 * 32)
    assert elsewhere(network(size=512), network(size=512).nodes[0]).nbytes == ENOUGH
    entry = Trial(graph, graph.nodes[0], options(graph)).entry("direct")
    (seconds,) = measure({"direct": entry}, others, 2, 0.0).values()
    assert 0 < seconds < 1


def test_workspace_is_what_lies_between_operands_and_results():
    made = {
        name: convc.compile(single(), 1, algorithms={"y": name}).stages().plan
        for name in ("direct", "winograd2")
    }
    assert workspace_bytes(made["direct"]) == 0 < made["direct"].arena_bytes
    assert 0 < workspace_bytes(made["winograd2"]) <= made["winograd2"].arena_bytes + (1 << 20)
    assert alone(made["direct"], {"x": np.ones((1, 32, 14, 14), np.float32)}).prepare


# ---------------------------------------------------------------- tuning


def test_tuning_measures_each_distinct_op_once_and_remembers(instant):
    times, calls = instant
    graph = network()
    how = options(graph)
    outcome = tune(graph, how)
    fused = convc.compile(graph, 1).stages().optimised
    known = measured(target_named(), 1)
    assert known.keys() == {signature(fused, node) for node in fused.nodes}
    assert outcome.measured == sum(len(each) for each in known.values()) > 4
    assert not outcome.left and not outcome.wrong
    calls.clear()
    assert tune(graph, how).measured == 0 and not calls
    times["direct"] = 1e-4
    for name in known:
        database().record(HERE, name, {"no longer there": 1.0})
    assert tune(graph, how, again=True).measured > 0
    assert all("no longer there" not in each for each in measured(target_named(), 1).values())
    assert names(fused, measured=measured(target_named(), 1))["relu0"] == "direct"


class New(Direct):
    """An algorithm that somebody adds."""

    def __init__(self):
        super().__init__("plain")
        self.name = "new"


def test_what_is_new_or_changed_is_measured_beside_what_is_known(instant, monkeypatch):
    times, calls = instant
    graph, every = single(), selection.algorithms()
    tune(graph, options(graph))
    name = signature(graph, graph.nodes[0])
    database().record(HERE, name, {"winograd2": REFUSED})
    calls.clear()
    monkeypatch.setattr(selection, "algorithms", lambda: (*every, New()))
    times["new"] = 1e-5
    assert tune(graph, options(graph)).measured == 1 and calls == [("new",)]
    assert measured(target_named(), 1)[name]["winograd2"] == REFUSED
    assert names(graph, measured=measured(target_named(), 1)) == {"y": "new"}
    calls.clear()
    before = records.source_of
    changed = {"winograd2": "mended"}
    monkeypatch.setattr(records, "source_of", lambda name: changed.get(name, before(name)))
    tune(graph, options(graph))
    assert calls == [("winograd2",)]
    assert measured(target_named(), 1)[name]["winograd2"] == 1e-3


def test_the_choice_of_predictions_is_measured_first_and_the_hopeless_are_not(instant):
    times, calls = instant
    graph = single()
    (usual,) = names(graph).values()
    (choice,) = choices(graph, target_named())
    predicted = {c.algorithm.name: c.seconds for c in choice.applicable}
    times[usual] = 1e-12
    tune(graph, options(graph))
    assert calls == [(usual,)]
    calls.clear()
    times[usual] = 1e-3
    tune(graph, options(graph), again=True)
    *single_calls, together = calls
    order = [name for (name,) in single_calls]
    assert order[0] == usual
    assert order[1:] == sorted(order[1:], key=predicted.__getitem__)
    assert sorted(together) == sorted(order)


def test_close_contenders_are_measured_again_in_turn(instant):
    times, calls = instant
    times |= {"direct": 1.3e-3, "direct_rows": 1.6e-3}
    tune(single(), options(single()))
    assert "direct" in calls[-1] and "direct_rows" not in calls[-1]


def test_tuning_begins_nothing_past_its_budget(instant):
    graph = network()
    ticks = count()
    outcome = tune(graph, options(graph), 2.5, clock=lambda: float(next(ticks)))
    assert outcome.measured == 1 and len(outcome.left) == 2
    again = tune(graph, options(graph), 0.0, clock=lambda: 7.0)
    assert again.measured == 0 and len(again.left) == 2
    assert not tune(graph, options(graph)).left
    assert len(measured(target_named(), 1)) == 2


@pytest.mark.parametrize(("threads", "alone"), [(1, False), (2, True), (4, True), (8, False)])
def test_what_runs_by_image_is_measured_on_the_one_thread_it_runs_on(
    threads, alone, instant, monkeypatch
):
    """Where there are more threads than images, they share each image."""
    measured_on = []

    def trial(graph, node, how):
        measured_on.append((graph.types[node.inputs[0]].static_shape[0], how.threads))
        return Trial(graph, node, how)

    monkeypatch.setattr(tuner, "Trial", trial)
    monkeypatch.setattr(images._Front, "best", lambda _: 1)
    times, _ = instant
    times["direct_rows"] = 1e-6
    graph = network()
    graph = graph.replace(inputs={"x": graph.inputs["x"].with_shape(4, 32, 10, 10)})
    how = replace(options(graph), threads=threads)
    tune(graph, how)
    own = 1 if alone else threads
    assert sorted(measured_on) == [(1, own), (4, threads), (4, threads)]
    assert sorted({row.threads for row in database().rows()}) == sorted({own, threads})
    made = convc.compile(graph, threads)
    assert set(chosen_by(made).values()) == {"direct_rows"}
    assert tune(graph, how).measured == 0
    rows = database().rows()
    tune(graph, how, again=True)
    assert database().rows() == rows


def test_an_interrupt_loses_nothing(monkeypatch, instant):
    _, calls = instant
    quick = tuner.measure

    def interrupted(contenders, *how):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quick(contenders, *how)

    monkeypatch.setattr(tuner, "measure", interrupted)
    graph = network()
    with pytest.raises(KeyboardInterrupt):
        tune(graph, options(graph))
    assert sum(map(len, measured(target_named(), 1).values())) == 2


def test_forced_nodes_are_left_alone(instant):
    _, calls = instant
    tune(single(), options(single(), algorithms={"y": "direct"}))
    assert not calls


def test_progress_is_told(instant):
    said = []
    tune(network(), options(network()), progress=lambda *event: said.append(event))
    assert {what.partition(":")[0] for what, _ in said} == {"relu0", "relu2"}
    assert all(0 <= share < 1 for _, share in said)


class Cheat(Direct):
    """Fast, and wrong: it leaves out negative results. Or it does not even compile."""

    def __init__(self, seconds, broken=False):
        super().__init__()
        self.name, self.predicted, self.broken = "cheat", seconds, broken

    def seconds(self, site):
        return self.predicted

    def lower(self, site, into):
        if self.broken:
            raise AssertionError("never finished")
        super().lower(replace(site, epilogue=(Relu(),)), into)


@pytest.mark.parametrize("predicted", [1e-9, 1e-4], ids=["first", "later"])
@pytest.mark.parametrize("others", [(Direct(), Winograd(2)), (Direct(),)], ids=len)
def test_an_algorithm_that_computes_wrong_numbers_is_found(
    predicted, others, instant, monkeypatch, caplog
):
    times, _ = instant
    times["cheat"] = 1e-9
    monkeypatch.setattr(selection, "algorithms", lambda: (Cheat(predicted), *others))
    graph = single()
    with caplog.at_level(logging.WARNING, "convc"):
        outcome = tune(graph, options(graph))
    assert outcome.wrong == [("y", "cheat")]
    assert "cheat computes wrong numbers" in caplog.text
    assert "it is of the class tests.test_tuning.Cheat, not part of convc" in caplog.text
    ((_, known),) = measured(target_named(), 1).items()
    assert known["cheat"] == REFUSED and 0 < known["direct"] < 1
    assert chosen_by(convc.compile(graph, 1))["y"] != "cheat"
    assert tune(graph, options(graph)).measured == 0


def test_two_that_agree_on_wrong_numbers_are_found_by_the_third(instant, monkeypatch):
    twin = Cheat(2e-9)
    twin.name = "twin"
    forced = options(single(), algorithms={"y": "direct"})
    monkeypatch.setattr(selection, "algorithms", lambda: (Cheat(1e-9), twin, Direct()))
    outcome = tune(single(), replace(forced, algorithms=()))
    assert {name for _, name in outcome.wrong} == {"cheat", "twin"}
    assert chosen_by(convc.compile(single(), 1)) == {"y": "direct"}


def test_an_algorithm_that_fails_is_passed_over(instant, monkeypatch, caplog):
    others = (Direct(), Winograd(2))
    monkeypatch.setattr(selection, "algorithms", lambda: (*others, Cheat(1e-4, broken=True)))
    with caplog.at_level(logging.WARNING, "convc"):
        outcome = tune(single(), options(single()))
    assert outcome.measured == 2 and not outcome.wrong and not outcome.left
    assert outcome.broken == [("y", "cheat", "AssertionError: never finished")]
    assert "cheat cannot be measured: AssertionError: never finished" in caplog.text
    assert "cheat is of the class tests.test_tuning.Cheat, not part of convc" in caplog.text


def test_a_promise_that_is_none_is_broken_too(instant, monkeypatch):
    own = New()
    own.tolerance = lambda site: "small"
    monkeypatch.setattr(selection, "algorithms", lambda: (own, Direct(), Winograd(2)))
    outcome = tune(single(), options(single()))
    ((node, name, why),) = outcome.broken
    assert (node, name, outcome.measured) == ("y", "new", 2)
    assert "tolerance of the algorithm 'new' gives 'small'" in why


def test_what_does_not_fit_into_memory_is_passed_over_without_blame(instant, monkeypatch):
    own = New()

    def too_large(site, into):
        raise convc.CapacityError("too large")

    own.lower = too_large
    monkeypatch.setattr(selection, "algorithms", lambda: (Direct(), Winograd(2), own))
    outcome = tune(single(), options(single()))
    assert outcome.measured == 2 and not outcome.broken


def test_faults_of_convc_are_to_be_reported_and_those_of_others_are_theirs(monkeypatch):
    assert plugins.origin(plugins.ALGORITHMS[0]) == "part of convc, please report it"
    own = New()
    other = plugins.PlugIn("own", "some_module:New", "some-package", own)
    assert plugins.origin(own) == "of the class tests.test_tuning.New, not part of convc"
    monkeypatch.setattr(plugins, "plug_ins", lambda: (other,))
    assert plugins.origin(own) == (
        "plug-in 'own' (some_module:New, of some-package), not part of convc"
    )


def test_results_stay_right_whatever_is_tuned():
    b = ir.Builder("symbolic")
    w = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    x = b.input("x", "f32[N, 8, 12, 12]")
    b.output("y", b.relu(b.conv(x, b.weight("w", w), pad=1)))
    graph = b.build()
    model = convc.compile(graph, 1, tune=20)
    assert not database().rows()  # nothing is known of N yet
    images = np.random.default_rng(1).standard_normal((2, 8, 12, 12)).astype(np.float32)
    expected = ir.interpret(graph, {"x": images})["y"]
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-3)
    assert len(measured(target_named(), 1)) == 1
    assert pickle.loads(pickle.dumps(model)).options.tune == 0


def test_gradients_are_tuned_like_any_op(instant):
    graph = ir.vjp(single(), ["x", "w"])
    tune(graph, options(graph))
    found = {name.partition(" ")[0] for name in measured(target_named(), 1)}
    assert found == {"conv", "conv_input_grad", "conv_weight_grad"}
