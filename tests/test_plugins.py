"""Algorithms of other packages: entry points as installed packages have them."""

import logging
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import convc
import ir
from convc import answers, plugins
from convc.algorithms import Direct, Site, Wish
from convc.algorithms.bodies import BODIES
from convc.algorithms.movement import PlainData
from convc.backend.target import target_named
from convc.errors import AlgorithmError
from convc.plugins import algorithms, plug_ins, register, source_of
from ir.loops import KernelBuilder
from ir.loops.nodes import Const
from tests.cli.commands import status

MODULE = """
from convc.algorithms import Direct

class Mine(Direct):
    def __init__(self):
        super().__init__("plain")
        self.name = "mine"

class Twin(Direct):
    pass

class Stranger:
    name = "stranger"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with entry points; gives back its module."""

    def install(**points):
        (tmp_path / "others_algorithms.py").write_text(MODULE)
        info = tmp_path / "others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[convc.algorithms]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        forget()
        return tmp_path / "others_algorithms.py"

    yield install
    sys.modules.pop("others_algorithms", None)
    monkeypatch.undo()
    forget()


def forget():
    for each in (plug_ins, plugins._installed, algorithms, source_of):
        each.cache_clear()


def graph():
    b = ir.Builder("one")
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3), np.float32)
    b.output("y", b.conv(b.input("x", "f32[1, 3, 8, 9]"), b.weight("w", w), name="y"))
    return b.build()


def test_an_algorithm_of_another_package_is_one_like_any(package, capsys):
    package(mine="others_algorithms:Mine")
    assert algorithms()[-1].name == "mine"
    model = convc.compile(graph(), 1, algorithms={"y": "mine"})
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 9), np.float32)
    np.testing.assert_allclose(model(x), ir.interpret(graph(), {"x": x})["y"], atol=1e-4)
    assert status("doctor") == 0
    assert "others_algorithms:Mine, of others" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:Mine", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("others_algorithms:Absent", "AttributeError"),
        ("others_algorithms:Twin", "there is an algorithm 'direct' already"),
        ("others_algorithms:Stranger", "Stranger is no convc.algorithms.Algorithm: no reorders"),
    ],
)
def test_a_plug_in_of_no_use_is_named_and_left_out(value, reason, package, caplog, capsys):
    package(broken=value, mine="others_algorithms:Mine")
    with caplog.at_level(logging.WARNING, "convc"):
        assert [each.name for each in algorithms()][-1] == "mine"
        convc.compile(graph(), 1)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"plug-in 'broken' ({value}, of others) is left out: ")
    assert reason in said and len(algorithms()) == len(plugins.ALGORITHMS) + 1
    assert status("doctor") == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("broken"))
    assert "WRONG, left out" in line and reason in line


class Own(Direct):
    def __init__(self, name):
        super().__init__("plain")
        self.name = name


def test_an_algorithm_can_be_registered_and_again_and_not_as_another(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    register(Own("own"))
    assert convc.compile(graph(), 1, algorithms={"y": "own"}).stages().algorithms["y"].name == "own"
    first = algorithms()
    register(Own("own"))
    assert len(algorithms()) == len(first) and algorithms()[-1] is not first[-1]
    with pytest.raises(AlgorithmError, match="algorithm 'winograd2' already"):
        register(Own("winograd2"))
    with pytest.raises(AlgorithmError, match=r"is no convc\.algorithms\.Algorithm: no name"):
        register(3)
    forget()


class Forgetful(Own):
    """Makes room for its result at most, and writes nothing there."""

    def __init__(self, how):
        super().__init__("forgetful")
        self.how = how

    def lower(self, site, into):
        if self.how == "room":
            into.write()
        elif self.how == "elsewhere":
            room = into.write()
            super().lower(site, into)
            into.stored[site.name] = room


@pytest.mark.parametrize("how", ["nothing", "room", "elsewhere"])
def test_a_result_that_is_not_written_is_named(how, monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    register(Forgetful(how))
    message = (
        r"node 'y' \(conv\): the algorithm 'forgetful' leaves its result 'y' "
        r"\(f32\[1, 4, 6, 7\]\) unwritten; lower has to"
    )
    with pytest.raises(AlgorithmError, match=message):
        convc.compile(graph(), 1, algorithms={"y": "forgetful"})
    forget()


def test_an_exception_names_the_algorithm_and_the_node(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    own = Own("own")
    own.lower = lambda site, into: {}["missing"]
    register(own)
    with pytest.raises(KeyError, match="missing") as raised:
        convc.compile(graph(), 1, algorithms={"y": "own"})
    assert raised.value.__notes__ == ["raised by the algorithm 'own' for node 'y' (conv)"]
    forget()


@pytest.mark.parametrize("method", ["supports", "seconds", "block", "wishes"])
def test_an_exception_of_the_choice_names_the_algorithm_too(method, monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    own = Own("own")
    setattr(own, method, lambda *asked: {}["missing"])
    register(own)
    with pytest.raises(KeyError, match="missing") as raised:
        convc.compile(graph(), 1).stages()
    assert raised.value.__notes__ == ["raised by the algorithm 'own' for node 'y' (conv)"]
    forget()


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("supports", True, "gives True; it must be None or a reason"),
        ("supports", 3, "gives 3; it must be None or a reason"),
        ("seconds", None, "gives None; it must be a number from 0"),
        ("seconds", "1", "gives '1'; it must be a number from 0"),
        ("seconds", float("nan"), "gives nan; it must be a number from 0"),
        ("seconds", -1.0, r"gives -1\.0; it must be a number from 0"),
        ("block", 0, "gives 0; it must be a number of channels from 1"),
        ("block", "16", "gives '16'; it must be a number of channels"),
        ("block", True, "gives True; it must be a number of channels"),
        ("block", 1.0, r"gives 1\.0; it must be a number of channels"),
        ("wishes", None, "gives None; it must be a tuple with a Wish for each of the 2 operands"),
        ("wishes", Wish(), r"gives a value of type Wish; .* for each of the 2 operands"),
        ("wishes", (Wish(),), r"gives \(Wish\(.*\)\); .* for each of the 2 operands"),
        ("wishes", (Wish(), 1), r"gives \(Wish\(.*\), 1\); it must be a tuple with a Wish"),
        ("wishes", (Wish(), Wish(())), ".*: blocks from 1, and a halo"),
        ("wishes", (Wish(), Wish((0,))), ".*: blocks from 1, and a halo"),
        ("wishes", (Wish(), Wish(1)), ".*: blocks from 1, and a halo"),
        ("wishes", (Wish((1,), ((1, 1),)), Wish()), ".* a pair from 0 for each spatial axis"),
        ("wishes", (Wish((1,), ((1, -1), (0, 0))), Wish()), ".* a pair from 0 for each"),
        ("wishes", (Wish((1,), (1, 1)), Wish()), ".* a pair from 0 for each"),
    ],
)
def test_answers_that_no_choice_can_use_name_the_algorithm(method, answer, message, monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    own = Own("own")
    setattr(own, method, lambda *asked: answer)
    register(own)
    where = rf"node 'y' \(conv\): {method} of the algorithm 'own' {message}"
    with pytest.raises(AlgorithmError, match=where):
        convc.compile(graph(), 1).stages()
    forget()


@pytest.mark.parametrize("answer", [None, -1e-6, float("inf"), float("nan"), "1e-6", True])
def test_what_cannot_be_promised_names_the_algorithm(answer, monkeypatch, tmp_path, capsys):
    """Where results are compared: by ``convc check`` too."""
    monkeypatch.setattr(plugins, "_registered", {})
    own = Own("own")
    own.tolerance = lambda site: answer
    register(own)
    site = Site.of(graph(), graph().nodes[0], target_named())
    message = rf"node 'y' \(conv\): tolerance of the algorithm 'own' gives {answer!r}; it must be"
    with pytest.raises(AlgorithmError, match=message):
        answers.tolerance(own, site)
    graph().save(tmp_path / "one.ir")
    assert status("check", tmp_path / "one.ir", "--algorithm", "y=own") == 2
    assert "tolerance of the algorithm 'own'" in capsys.readouterr().err
    forget()


def test_an_answer_about_a_part_of_a_composite_op_is_checked_too(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    b = ir.Builder("tiled")
    w = b.weight("w", np.ones((3, 2, 3, 3, 2, 1), np.float32))
    b.output("y", b.tiled_conv(b.input("x", "f32[1, 2, 12, 12]"), w, name="tc"))
    own = Own("own")
    own.supports = lambda site: True
    register(own)
    with pytest.raises(AlgorithmError, match=r"supports of the algorithm 'own' gives True"):
        convc.compile(b.build(), algorithms={"tc": "own"})
    own.supports = lambda site: {}["missing"]
    with pytest.raises(KeyError) as raised:
        convc.compile(b.build(), algorithms={"tc": "own"})
    assert "raised by the algorithm 'own' for node 'tc" in raised.value.__notes__[0]
    forget()


@pytest.mark.parametrize("seconds", [0, np.float32(1e-12), 0.0])
def test_any_real_number_will_do_as_a_prediction(seconds, monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    own = Own("own")
    own.seconds = lambda site: seconds
    register(own)
    assert convc.compile(graph(), 1).stages().algorithms["y"].name == "own"
    forget()


class Loops(PlainData):
    """Stores to an operand and the result, declared as the test says."""

    name = "loops"

    def __init__(self, declare, given):
        self.declare, self.given = declare, given

    def supports(self, site):
        return None if site.op.name == "reverse" else "only for reverse"

    def lower(self, site, into):
        operand, result = into.read(0), into.write()
        k = KernelBuilder("own")
        x, y = self.declare(k, site.shape(0), site.result)
        with k.loop("i", min(x.shape[0], y.shape[0]), "parallel") as i:
            k.store(x[i, 0, 0, 0], k.constant(0.0, x.dtype))
            k.store(y[i, 0, 0, 0], x[i, 0, 0, 0])
        into.run(k.build(), *self.given(operand, result))


def twice(k, shape, result):
    return k.write("x", "f32", shape), k.write("y", "f32", result)


@pytest.mark.parametrize(
    ("declare", "given", "message"),
    [
        (twice, lambda x, y: (x, y), "on its operand 'a', and writes it; others read it too: "),
        (lambda k, a, b: (k.read("x", "f32", a), k.write("y", "f32", b)), lambda x, y: (x, y),
         r"'loops': kernel own: store to x: the parameter is read-only"),
        (twice, lambda x, y: (y,), "on 1 values; it has 2 parameters"),
        (lambda k, a, b: (k.write("x", "f32", (2, 1, 1, 1)), k.write("y", "f32", b)),
         lambda x, y: (y, x), r"memory; its parameter 'x' is f32\[2, 1, 1, 1\]"),
        (lambda k, a, b: (k.write("x", "f64", a), k.write("y", "f64", b)), lambda x, y: (y, y),
         "elements of f32 in memory; its parameter 'x' is f64"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["input", "plain", "blocks"])
def test_loops_that_are_wrong_name_the_algorithm(declare, given, message, before, monkeypatch):
    """An operand is not written: whether it is the caller's, or somebody else's, or a copy."""
    monkeypatch.setattr(plugins, "_registered", {})
    register(Loops(declare, given))
    b = ir.Builder("reversed")
    a = b.input("x" if before != "input" else "a", "f32[3, 16, 8, 8]")
    if before != "input":
        a = b.tanh(a, name="a") if before == "plain" else b.max_pool(a, 3, 1, pad=1, name="a")
    b.output("y", b.reverse(a, (1,), name="y"))
    b.output("z", b.max_pool(a, 2, name="z"))
    with pytest.raises(ir.Error, match=rf"^node 'y' \(reverse\): the algorithm .*{message}"):
        convc.compile(b.build(), algorithms={"y": "loops"})
    forget()


def test_two_plug_ins_have_two_names(package):
    package(first="others_algorithms:Mine", second="others_algorithms:Mine")
    problems = {each.name: each.problem for each in plug_ins()}
    assert problems["first"] is None and "'mine' already" in problems["second"]


def test_a_digest_tells_apart_the_sources_of_algorithms(package):
    file = package(mine="others_algorithms:Mine")
    before = source_of("mine"), source_of("direct"), source_of("winograd2"), source_of("unknown")
    assert len(set(before)) == 4 and before[3] == ""
    source_of.cache_clear()
    file.write_text(MODULE + "# another\n")
    assert source_of("mine") != before[0] and source_of("direct") == before[1]


@dataclass(frozen=True)
class Twice(ir.ops.pointwise.Unary):
    name = "twice"
    formula = "y = 2x"

    def of(self, x):
        return 2 * x

    def derivative(self, b, x, y, g):
        return g * 2.0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda op, dtype, x: None, r"of Twice in BODIES gives None; it must give an expression"),
        (lambda op, dtype, x: 2.0, r"of Twice in BODIES gives 2\.0; it must give an expression"),
        (lambda op, dtype, x: x, r"gives a value of type list; it must give an expression"),
        (lambda op, dtype, x: x[0] * Const(2.0, "f64"), r"kernel \w+: mul\(f32, f64\) is not def"),
        (lambda op, dtype, x: Const(2.0, "i64"), r"kernel \w+: store to .*: i64 into f32"),
    ],
)
@pytest.mark.parametrize("where", ["alone", "chain", "epilogue"])
def test_an_entry_for_an_op_that_is_no_expression_is_named(entry, message, where, monkeypatch):
    monkeypatch.setitem(BODIES, Twice, entry)
    b = ir.Builder("entry")
    x = b.input("x", "f32[1, 3, 8, 9]")
    w = b.weight("w", np.ones((4, 3, 3, 3), np.float32))
    x = x if where == "alone" else b.tanh(x) if where == "chain" else b.conv(x, w)
    b.output("y", b.apply(Twice(), x, name="y"))
    whose = r"^node '[\w.]+' \((twice|elementwise|fused)\): "
    with pytest.raises(ir.Error, match=f"{whose}.*{message}"):
        convc.compile(b.build())


def test_an_exception_of_an_entry_names_the_op(monkeypatch):
    monkeypatch.setitem(BODIES, Twice, lambda op, dtype, x: x[1])
    b = ir.Builder("entry")
    b.output("y", b.apply(Twice(), b.input("x", "f32[5]"), name="y"))
    with pytest.raises(IndexError) as raised:
        convc.compile(b.build())
    note = "raised by the entry of Twice in BODIES for node 'y' (twice)"
    assert raised.value.__notes__[0] == note
