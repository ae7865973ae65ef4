"""Measured choices: records, the database, selection by measurement, and tuning itself."""

import json
import logging
import math
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import convc
import ir
from convc import select as selection
from convc import settings
from convc.algorithms import Direct, Winograd
from convc.backend.target import target_named
from convc.errors import InputError, LoadError
from convc.select import choices, select
from convc.tuning import tuner
from convc.tuning.database import FILE, Database, database, measured
from convc.tuning.records import REFUSED, Context, read_lines, rows, signature, to_lines
from convc.tuning.trial import BETWEEN, Trial, alone, workspace_bytes
from convc.tuning.tuner import tune
from ir.ops import Relu

ROOT = Path(__file__).parents[1]
HERE = Context.of(target_named(), 1)


def network(channels=32, size=10, pad=1, relu=True):
    """Two equal convolutions, and one of another kernel."""
    rng = np.random.default_rng(0)
    b = ir.Builder("network")
    h = b.input("x", ir.TensorType.parse(f"f32[1, {channels}, {size}, {size}]"))
    for number, kernel in enumerate((3, 3, 1)):
        shape = (channels, channels, kernel, kernel)
        w = b.weight(f"w{number}", rng.standard_normal(shape).astype(np.float32) / channels)
        h = b.conv(h, w, pad=pad if kernel == 3 else 0, name=f"conv{number}")
        h = b.relu(h, name=f"relu{number}") if relu else h
    b.output("y", h)
    return b.build()


def single(channels=32):
    """One convolution, and nothing else."""
    w = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    b = ir.Builder("single")
    x = b.input("x", ir.TensorType.parse(f"f32[1, {channels}, 14, 14]"))
    b.output("y", b.conv(x, b.weight("w", w), pad=1, name="y"))
    return b.build()


def names(graph, **how):
    """The chosen algorithms of a graph, by node."""
    chosen = select(graph, target_named(), **how)
    return {node: algorithm.name for node, algorithm in chosen.items()}


def options(graph, **how):
    return convc.compile(graph, 1, **how).options


@pytest.fixture
def instant(monkeypatch):
    """A few algorithms, measured without running: a time is what the test says, else 1 ms."""
    times, calls = {}, []
    few = (Direct(), Direct("plain"), Direct("rows"), Winograd(2))
    monkeypatch.setattr(selection, "algorithms", lambda: few)

    def measure(contenders, others, rounds, seconds):
        calls.append(tuple(contenders))
        return {name: times.get(name, 1e-3) for name in contenders}

    monkeypatch.setattr(tuner, "measure", measure)
    return times, calls


# ---------------------------------------------------------------- records


def test_a_signature_tells_apart_what_may_take_another_time():
    graph = network()
    fused = convc.compile(graph).stages().optimised
    assert [node.name for node in fused.nodes] == ["relu0", "relu1", "relu2"]
    texts = [signature(fused, node) for node in fused.nodes]
    assert texts[0] == texts[1] != texts[2]
    assert "relu" in texts[0] and "const f32[32, 32, 3, 3]" in texts[0]
    others = [network(relu=False), network(size=15), network(pad=0), graph.weights_as_inputs()]
    found = {signature(other, other.nodes[0]) for other in (graph, *others, fused)}
    assert len(found) == 5  # a relu apart does not change the convolution before it


def sample():
    return [
        *rows(HERE, "conv {a} : ()", {"winograd2": 2.00004e-3, "direct": 1e-3, "bad": REFUSED}),
        *rows(replace(HERE, threads=2), "conv {a} : ()", {"direct": 6e-4}),
        *rows(HERE, 'another "one"', {"direct": 3.25}),
    ]


def test_lines_are_sorted_and_come_back_as_they_were(tmp_path):
    text = to_lines(sample())
    assert text == to_lines(reversed(sample()))
    assert text.splitlines() == sorted(text.splitlines())
    assert json.loads(text.splitlines()[1])["seconds"] is None
    assert "0.002," not in text and '"seconds": 0.002}' in text
    file = tmp_path / "times.jsonl"
    file.write_text(text)
    assert sorted(read_lines(file)) == sorted(sample())
    store = Database(tmp_path / FILE)
    store.add(read_lines(file))
    assert to_lines(store.rows()) == text


GOOD = json.loads(to_lines(sample()[:1]))


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", "{}", *(json.dumps({**GOOD, **bad}) for bad in (
        {"seconds": "1"}, {"seconds": -1.0}, {"seconds": math.nan}, {"seconds": 0},
        {"threads": 0}, {"threads": 1.5}, {"threads": 2**70}, {"algorithm": None},
        {"seconds": True}, {"seconds": 10**400},
    ))],
)  # fmt: skip
def test_lines_that_are_no_measurements_are_refused_by_number(line, tmp_path):
    file = tmp_path / "times.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(LoadError, match=r"times\.jsonl, line 3: "):
        read_lines(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("none", "binary"):
        with pytest.raises(LoadError, match=name):
            read_lines(tmp_path / name)


# ---------------------------------------------------------------- the database


def test_the_database_keeps_times_apart_by_what_they_depend_on():
    store = database()
    others = [{"version": "9"}, {"target": "abacus"}, {"triple": "x-y-z"}, {"threads": 2}]
    for number, change in enumerate([{}, *others]):
        store.record(replace(HERE, **change), "op", {"direct": 1.0 + number})
    for number, change in enumerate([{}, *others]):
        again = Database(store.path)
        assert again.times(replace(HERE, **change)) == {"op": {"direct": 1.0 + number}}
    store.record(HERE, "op", {"direct": 0.5, "winograd2": REFUSED})
    assert measured(target_named(), 1) == {"op": {"direct": 0.5, "winograd2": REFUSED}}
    assert len(store.rows()) == 6 and "6 measurements" in str(store)


def test_the_cache_folder_is_private_and_made_when_there_is_something_to_keep():
    store = database()
    assert store.times(HERE) == {} and store.rows() == []
    assert not store.path.parent.exists()
    store.record(HERE, "op", {"direct": 1.0})
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_folder_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path))
    assert settings.cache_folder() == tmp_path
    monkeypatch.delenv("CONVC_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, folder in (("/caches", "/caches"), ("caches", "/home/somebody/.cache"),
                          ("", "/home/somebody/.cache")):  # fmt: skip
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert settings.cache_folder() == Path(folder) / "convc"
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert settings.cache_folder() is None
    database().record(HERE, "op", {"direct": 1.0})
    assert database().times(HERE) == {"op": {"direct": 1.0}}
    assert "CONVC_CACHE=off" in str(database())


def damaged(path):
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)


def truncated(path):
    Database(path).add(rows(HERE, "op", {f"algorithm{n}": 1.0 for n in range(500)}))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(path.read_bytes()[:10000])


def another_table(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE seconds (a, b)")
    connection.close()


def folder_in_the_way(path):
    path.mkdir(parents=True)


def no_folder(path):
    path.parent.write_text("a file where the folder should be")


def unwritable(path):
    path.parent.mkdir()
    path.parent.chmod(0o500)


@pytest.mark.parametrize(
    "spoil", [damaged, truncated, another_table, folder_in_the_way, no_folder, unwritable]
)
def test_a_database_of_no_use_is_said_once_and_does_no_harm(spoil, tmp_path, monkeypatch, caplog):
    if spoil is unwritable and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path / "cache"))
    spoil(tmp_path / "cache" / FILE)
    graph = network()
    with caplog.at_level(logging.WARNING, "convc"):
        for _ in range(2):
            assert convc.compile(graph, 1)(np.ones((1, 32, 10, 10), np.float32)).shape
            database().record(HERE, "op", {"direct": 1.0})
            assert database().times(HERE)["op"] == {"direct": 1.0}
    assert len(caplog.records) == 1
    assert "cannot be used" in caplog.text
    assert "cannot be used" in str(database())


def test_a_folder_that_cannot_be_written_can_be_read(tmp_path, monkeypatch):
    Database(tmp_path / FILE).record(HERE, "op", {"direct": 1.0})
    for extra in tmp_path.glob("*-*"):
        if extra.name != FILE:
            extra.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = Database(tmp_path / FILE)
    assert store.times(HERE) == {"op": {"direct": 1.0}}
    assert store.problem is None
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nonsense_in_the_table_is_passed_over():
    store = database()
    store.record(HERE, "op", {"direct": 1.0})
    machine = (HERE.target, HERE.triple, 1, HERE.version)
    with sqlite3.connect(store.path) as connection:
        for name, value in (("a", "fast"), ("b", -1.0), ("c", None), (b"d", 1.0)):
            connection.execute(
                "INSERT INTO seconds VALUES (?, ?, ?, ?, ?, ?, ?)", ("op", *machine, name, value)
            )
    connection.close()
    assert store.times(HERE) == {"op": {"direct": 1.0}}


WRITER = """
import sys
from pathlib import Path
from convc.tuning.database import Database
from convc.tuning.records import Context
store = Database(Path(sys.argv[1]))
for number in range(40):
    context = Context("t", "x-y-z", 1, "0")
    store.record(context, f"op{number}", {sys.argv[2]: 1.0, "shared": float(number + 1)})
assert store.problem is None, store.problem
"""


def test_processes_may_write_at_the_same_time(tmp_path):
    path = tmp_path / "cache" / FILE
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"algorithm{n}"], cwd=ROOT)
        for n in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(Database(path).rows()) == 40 * 4


# ---------------------------------------------------------------- selection


def times_for(graph, **seconds):
    return {signature(graph, graph.nodes[0]): seconds}


def test_measurements_take_the_place_of_predictions():
    graph = single()
    (choice,) = choices(graph, target_named())
    rivals = {c.algorithm.name for c in choice.applicable if math.isfinite(c.seconds)}
    assert {"direct", "direct_plain", "winograd2", "winograd4"} <= rivals
    for name in rivals:
        known = {**dict.fromkeys(rivals, 1.0), name: 1e-9}
        assert names(graph, measured=times_for(graph, **known)) == {"y": name}
    assert names(graph, measured={"another": {"direct": 1e-9}}) == names(graph)


def test_a_prediction_does_not_compete_with_a_measurement():
    graph = single()
    assert names(graph) != {"y": "direct"}
    assert names(graph, measured=times_for(graph, direct=10.0)) == {"y": "direct"}


def test_what_computes_wrong_numbers_is_not_chosen():
    graph = single()
    (usual,) = names(graph).values()
    known = times_for(graph, **{usual: REFUSED})
    (instead,) = names(graph, measured=known).values()
    assert instead != usual
    known = times_for(graph, **{usual: REFUSED, "direct": 1.0})
    assert names(graph, measured=known) == {"y": "direct"}
    assert names(graph, measured=known, forced={"y": usual}) == {"y": usual}


def test_accuracy_and_requests_stand_above_measurements():
    graph = single()
    known = times_for(graph, direct=1.0, winograd2=1e-6)
    assert names(graph, measured=known) == {"y": "winograd2"}
    assert names(graph, measured=known, accuracy="exact") == {"y": "direct"}
    (choice,) = choices(graph, target_named(), measured=known)
    asked = replace(choice.considered[0], seconds=math.inf, reason=None, measured=1e-9)
    assert selection._choose(choice.site, [asked, choice.chosen]) is choice.chosen


def test_conversions_count_beside_measurements():
    graph = single()
    (choice,) = choices(graph, target_named())
    extra = {c.algorithm.name: c.conversions for c in choice.applicable}
    more = extra["direct"] - extra["direct_rows"]
    assert more > 0
    for share, chosen in ((0.5, "direct_rows"), (2.0, "direct")):
        known = times_for(graph, direct=1e-3, direct_rows=1e-3 + share * more)
        assert names(graph, measured=known) == {"y": chosen}


def lockfile(tmp_path, graph, context=HERE, **seconds):
    file = tmp_path / "times.jsonl"
    file.write_text(to_lines(rows(context, signature(graph, graph.nodes[0]), seconds)))
    return file


def chosen_by(model):
    return {node: algorithm.name for node, algorithm in model.stages().algorithms.items()}


def test_compilation_goes_by_the_database():
    graph = single()
    name = signature(graph, graph.nodes[0])
    database().record(HERE, name, {"direct": 1e-9})
    database().record(replace(HERE, threads=2), name, {"winograd2": 1e-9})
    assert chosen_by(convc.compile(graph, 1)) == {"y": "direct"}
    assert chosen_by(convc.compile(graph, 2)) == {"y": "winograd2"}
    assert chosen_by(convc.compile(graph, 3)) == names(graph)


def test_compilation_goes_by_a_file_and_then_by_nothing_else(tmp_path):
    graph = single()
    database().record(HERE, signature(graph, graph.nodes[0]), {"direct": 1e-9})
    file = lockfile(tmp_path, graph, winograd2=1e-3)
    model = convc.compile(graph, 1, tuning=file)
    file.unlink()
    assert chosen_by(model) == chosen_by(pickle.loads(pickle.dumps(model))) == {"y": "winograd2"}
    file.write_text("")
    assert chosen_by(convc.compile(graph, 1, tuning=file)) == names(graph)


def test_a_file_for_another_machine_is_said_to_be_of_no_use(tmp_path, caplog):
    graph = single()
    file = lockfile(tmp_path, graph, replace(HERE, target="abacus"), direct=1e-9)
    with caplog.at_level(logging.WARNING, "convc"):
        assert chosen_by(convc.compile(graph, 1, tuning=file)) == names(graph)
    assert "no times for" in caplog.text


def test_what_cannot_be_meant_is_refused(tmp_path):
    graph = single()
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(InputError, match="tune="):
            convc.compile(graph, tune=wrong)
    with pytest.raises(InputError, match="give one"):
        convc.compile(graph, tune=True, tuning=lockfile(tmp_path, graph, direct=1.0))
    with pytest.raises(LoadError, match="none"):
        convc.compile(graph, tuning=tmp_path / "none")


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
    entry.call()
    if "plain" in algorithm or "rows" in algorithm:  # the node writes the output itself
        np.testing.assert_array_equal(kept[0], entry.results["y"].reshape(-1))


def test_packing_counts_where_weights_are_not_constant():
    graph = single().weights_as_inputs()
    entry = Trial(graph, graph.nodes[0], options(graph)).entry("direct")
    assert [step.algorithm for step in entry.call.args[0].plan.steps] == ["pack", "direct"]


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
    assert tune(graph, how, again=True).measured > 0
    assert names(fused, measured=measured(target_named(), 1))["relu0"] == "direct"


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


def test_an_interrupt_loses_nothing(monkeypatch, instant):
    _, calls = instant
    quick = tuner.measure

    def measure(contenders, *how):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quick(contenders, *how)

    monkeypatch.setattr(tuner, "measure", measure)
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
        assert tune(single(), options(single())).measured == 2
    assert "cheat cannot be measured: AssertionError: never finished" in caplog.text


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
