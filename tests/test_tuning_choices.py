"""Selection by measured times: of the database, of a file."""

import logging
import math
import pickle
from dataclasses import replace

import pytest

import convc
from convc import select as selection
from convc.backend.target import target_named
from convc.errors import InputError, LoadError
from convc.select import choices
from convc.tuning.database import database
from convc.tuning.records import REFUSED, rows, signature, to_lines
from tests.tuning_cases import HERE, chosen_by, names, single


def times_for(graph, **seconds):
    return {signature(graph, graph.nodes[0]): seconds}


def beside_the_usual(graph, **seconds):
    """Times of some algorithms, and a long one of that which predictions choose."""
    return {**dict.fromkeys(names(graph).values(), 10.0), **seconds}


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
    known = times_for(graph, **beside_the_usual(graph, direct=9.0))
    assert names(graph, measured=known) == {"y": "direct"}


def test_measurements_count_only_beside_that_of_the_usual_choice():
    graph = single()
    assert names(graph, measured=times_for(graph, direct=1e-9)) == names(graph)


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
    known = times_for(graph, **beside_the_usual(graph, direct=1.0, winograd2=1e-6))
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
        known = {**dict.fromkeys(extra, 1.0), "direct": 1e-3, "direct_rows": 1e-3 + share * more}
        assert names(graph, measured=times_for(graph, **known)) == {"y": chosen}


def lockfile(tmp_path, graph, context=HERE, **seconds):
    file = tmp_path / "times.jsonl"
    file.write_text(to_lines(rows(context, signature(graph, graph.nodes[0]), seconds)))
    return file


def test_compilation_goes_by_the_database():
    graph = single()
    name = signature(graph, graph.nodes[0])
    database().record(HERE, name, beside_the_usual(graph, direct=1e-9))
    others = beside_the_usual(graph, winograd2=1e-9)
    database().record(replace(HERE, threads=2), name, others)
    assert chosen_by(convc.compile(graph, 1)) == {"y": "direct"}
    assert chosen_by(convc.compile(graph, 2)) == {"y": "winograd2"}
    assert chosen_by(convc.compile(graph, 3)) == names(graph)


def test_compilation_goes_by_a_file_and_then_by_nothing_else(tmp_path):
    graph = single()
    known = beside_the_usual(graph, direct=1e-9)
    database().record(HERE, signature(graph, graph.nodes[0]), known)
    file = lockfile(tmp_path, graph, **beside_the_usual(graph, winograd2=1e-3))
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
