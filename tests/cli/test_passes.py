"""``--passes`` and ``--without``: passes of one's own, and fewer of the others."""

import json

import numpy as np
import pytest

import ir
from convc.algorithms.bodies import BODIES
from tests.cli.commands import refused, status

MINE = '''
import ir
from ir.ops import Relu
from ir.rewrite import substitute

def no_relus(graph):
    """Changes the meaning: what a wrong pass does."""
    same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if isinstance(n.op, Relu)}
    return substitute(graph, {name: [] for name in same}, same)

def nothing(graph):
    return graph
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_show_prints_what_each_pass_gains(model, capsys):
    assert status("show", model, "--at", "passes", "--no-diff") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    nodes = {row[0]: int(row[1]) for row in rows[2:] if len(row) > 1 and row[1].isdigit()}
    assert nodes["remove_dead_code"] == 8 > nodes["fuse_epilogues"]
    assert {"simplify", "fold_affine"} <= nodes.keys()


def test_a_pass_of_ones_own(model, mine, capsys):
    passes = f"default,{mine}:no_relus"
    assert status("show", model, "--at", "passes", "--no-diff", "--passes", passes) == 0
    assert capsys.readouterr().out.count("no_relus") == 1
    argv = ("check", model, "--no-gradients")
    assert status(*argv, "--passes", f"{mine}:nothing,default") == 0
    for passes in (f"{mine}:nothing,no_relus,default", f"simplify,{mine}:no_relus,default"):
        wanted = passes.replace("nothing,", f"nothing,{mine}:")
        assert status(*argv, "--passes", wanted) == 1
        assert "pass no_relus changes the meaning" in capsys.readouterr().out


def test_passes_that_are_left_out(model, capsys):
    def shown(*more):
        assert status("show", model, "--at", "algorithms", *more) == 0
        return capsys.readouterr().out

    assert "conv+bias+relu" in shown()
    assert "conv+bias+relu" not in shown("--without", "fuse_epilogues")
    assert "conv+bias+relu" in shown("--passes", "fuse_epilogues")
    plain = shown("--passes", "none")
    assert plain == shown("--without", ",".join(name for name in shown_names(model, capsys)))


def shown_names(model, capsys):
    assert status("show", model, "--at", "passes", "--no-diff") == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    return [line.split()[0] for line in lines[: lines.index("")]]


def test_every_tool_takes_them(model, arrays, mine, tmp_path, capsys):
    files, _ = arrays
    out = tmp_path / "out"
    passes = ("--passes", f"default,{mine}:no_relus")
    assert status("run", model, *files, "--output", out) == 0
    right = np.load(out / "scores.npy")
    assert status("run", model, *files, "--output", out, "--without", "simplify") == 0
    np.testing.assert_allclose(np.load(out / "scores.npy"), right, rtol=1e-5)
    assert status("run", model, *files, "--output", out, "--passes",
                  f"{mine}:no_relus,default") == 0  # fmt: skip
    assert not np.allclose(np.load(out / "scores.npy"), right)
    assert status("compile", model, "--output", out, *passes) == 0
    capsys.readouterr()
    assert status("bench", "lenet", "--rounds", 1, "--json", "--without", "fuse_epilogues") == 0
    assert "fuse_epilogues" not in json.loads(capsys.readouterr().out)["passes"]


def test_what_is_no_pass_is_refused(model, mine, capsys):
    def said(*more):
        return refused(capsys, "show", model, "--at", "passes", *more)

    assert "did you mean 'simplify'" in said("--passes", "simplfy")
    assert "did you mean 'fold_affine'" in said("--passes", "default,Fold-Afine")
    assert "'fuse_epilogues' or 'fuse_elementwise'?" in said("--passes", "fuse")
    assert "'fuse_epilogues' or 'fuse_elementwise'?" in said("--without", "fuse")
    assert "they are default, none, remove_dead_code" in said("--passes", "vectorise")
    assert "FILE.py:FUNCTION" in said("--passes", "vectorise")
    assert "they are simplify" in said("--passes", "simplify", "--without", "vectorise")
    assert "no such file" in said("--passes", "nowhere.py:mine")
    assert "there are no_relus, nothing" in said("--passes", f"{mine}:absent")
    assert "must end in .py" in said("--passes", f"{model}:mine")
    assert "did you mean 'fuse_epilogues'" in said("--without", "fuse_epilogue")
    mine.write_text("1 / 0")
    assert "ZeroDivisionError" in said("--passes", f"{mine}:mine")


OWN = """
from dataclasses import dataclass
import ir
from convc.algorithms.bodies import BODIES
from ir.ops.pointwise import Unary

@dataclass(frozen=True)
class Cube(Unary):
    name = "cube"
    formula = "y = x^3"

    def of(self, x):
        return x * x * x

    def derivative(self, b, x, y, g):
        return g * x * x * 3.0

ir.OP_BY_NAME["cube"] = Cube
BODIES[Cube] = lambda op, dtype, args: args[0] * args[0] * args[0]
CUBE = Cube()
"""


def test_a_file_of_ones_own_makes_its_ops_known(tmp_path, capsys):
    text = "graph g {\n  input %x: f32[2, 3]\n  %y = cube(%x) : f32[2, 3]\n  return y = %y\n}\n"
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "g.ir").write_text(text)
    assert "unknown op 'cube'" in refused(capsys, "check", tmp_path / "g.ir")
    own = ("--plugin", tmp_path / "own.py")
    try:
        assert status("check", tmp_path / "g.ir", *own) == 0
        assert status("show", tmp_path / "g.ir", *own, *own, "--at", "loops") == 0
    finally:
        cube = ir.OP_BY_NAME.pop("cube", None)
        BODIES.pop(cube, None)
    missing = refused(capsys, "check", tmp_path / "g.ir", "--plugin", tmp_path / "none.py")
    assert "no such file" in missing
    (tmp_path / "bad.py").write_text("1 / 0")
    failing = refused(capsys, "check", tmp_path / "g.ir", "--plugin", tmp_path / "bad.py")
    assert "ZeroDivisionError" in failing
