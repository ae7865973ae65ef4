"""Measured times as text and in the database, whatever becomes of its file."""

import json
import logging
import math
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import convc
from convc import settings
from convc.backend.target import target_named
from convc.errors import LoadError
from convc.plugins import source_of
from convc.tuning import records
from convc.tuning.database import FILE, Database, database, measured
from convc.tuning.records import REFUSED, read_lines, rows, signature, to_lines
from tests.tuning_cases import HERE, network

ROOT = Path(__file__).parents[1]


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
        times = {"op": {"direct": 1.0 + number}}
        if "threads" in change:  # those of one thread count there for ops that run so
            times["one thread: op"] = {"direct": 1.0}
        assert again.times(replace(HERE, **change)) == times
    store.record(HERE, "op", {"direct": 0.5, "winograd2": REFUSED})
    assert measured(target_named(), 1) == {"op": {"direct": 0.5, "winograd2": REFUSED}}
    assert len(store.rows()) == 6 and "6 measurements" in str(store)


def test_times_of_other_code_count_no_more(monkeypatch):
    store = database()
    store.record(HERE, "op", {"direct": 1.0, "winograd2": REFUSED})
    assert len({row.source for row in store.rows()} - {""}) == 2
    sources = {"direct": source_of("direct"), "winograd2": "changed"}
    monkeypatch.setattr(records, "source_of", sources.__getitem__)
    assert store.times(HERE) == {"op": {"direct": 1.0}}
    store.record(HERE, "op", {"winograd2": 2.0})
    assert store.times(HERE) == {"op": {"direct": 1.0, "winograd2": 2.0}}
    assert len(store.rows()) == 2


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
                "INSERT INTO seconds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                ("op", *machine, name, "", value),
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
