"""``convc check`` where float32 overflows, and where functions jump: neither misses nor alarms."""

import numpy as np
import pytest

import ir
from convc.algorithms import bodies
from convc.passes import optimised
from convc.tools import verification
from ir.loops.nodes import Const
from tests.cli.commands import status

rng = np.random.default_rng(0)


def overflowing(b, x):
    """One element in a hundred is infinite in float32, and 0.01·60·x in float64."""
    return b.scale(b.log(b.shift(b.exp(b.scale(x, 60.0)), 1.0)), 0.01)


def saved(tmp_path, build, shape="f32[2, 64]"):
    b = ir.Builder("judged")
    b.output("y", build(b, b.input("x", shape)))
    b.build().save(tmp_path / "judged.ir")
    return tmp_path / "judged.ir"


def test_a_pass_that_changes_numbers_is_found_beside_others_that_overflow(tmp_path, capsys):
    model = saved(tmp_path, lambda b, x: b.concat([b.relu(x), overflowing(b, x)], 1))
    (tmp_path / "drop.py").write_text(
        "from dataclasses import replace\n"
        "def drop_relu(graph):\n"
        "    gone = {n.name: n.inputs[0] for n in graph.nodes if n.op.name == 'relu'}\n"
        "    nodes = tuple(replace(n, inputs=tuple(gone.get(i, i) for i in n.inputs))\n"
        "                  for n in graph.nodes if n.name not in gone)\n"
        "    return graph.replace(nodes=nodes)\n"
    )
    passes = f"{tmp_path / 'drop.py'}:drop_relu,default"
    how = ("--no-gradients", "--without", "fuse_elementwise")
    assert status("check", model, *how) == 0
    assert "of 256 elements not compared: numpy is as far off" in capsys.readouterr().out
    assert status("check", model, *how, "--passes", passes) == 1
    assert "pass drop_relu changes the meaning" in capsys.readouterr().out


@pytest.mark.parametrize(
    "build",
    [
        overflowing,
        lambda b, x: b.sign(b.logistic(b.scale(x, 200.0))),
        lambda b, x: b.log(b.logistic(b.scale(x, 200.0))),
        lambda b, x: b.floor(b.scale(x, 1000.1)),
    ],
    ids=["overflow", "underflow", "infinite", "steps"],
)
def test_what_float32_cannot_say_is_no_fault(build, tmp_path):
    assert status("check", saved(tmp_path, build)) == 0


def test_a_step_that_rounding_may_reach_is_no_fault_but_a_wrong_one_is(monkeypatch):
    """A convolution of numbers that are rounded as they are stored: some lie between two steps."""
    b = ir.Builder("quantised")
    w = b.weight("w", rng.standard_normal((16, 16, 3, 3)).astype(np.float32))
    y = b.clip(b.scale(b.conv(b.input("x", "f32[1, 16, 128, 128]"), w, pad=1), 16.0), -128, 127)
    b.output("y", b.scale(b.round(y), 1 / 16))
    graph = optimised(b.build())
    direct = {graph.nodes[0].name: "direct"}
    inputs = {"x": rng.standard_normal((1, 16, 128, 128)).astype(np.float32)}
    (check,) = verification.check_nodes(graph, inputs, algorithms=direct)
    assert check.passed, check
    assert "not compared" in check.note
    right = bodies.BODIES[ir.ops.Round]

    def wrong(op, dtype, args):
        return right(op, dtype, args) + Const(1.0, dtype)

    monkeypatch.setitem(bodies.BODIES, ir.ops.Round, wrong)
    (check,) = verification.check_nodes(graph, inputs, algorithms=direct)
    assert not check.passed
