"""``convc show``: every stage of a compilation as text."""

import numpy as np
import pytest

import convc
import ir
from convc.passes import PIPELINE
from convc.select import choices
from convc.tools import show
from convc.tools.table import nbytes, seconds
from tests.cli.commands import network, refused, status, weight


@pytest.mark.parametrize("stage", show.STAGES)
@pytest.mark.parametrize("more", [[], ["--gradients"]], ids=["forward", "gradients"])
def test_show_prints_every_stage(stage, more, model, capsys):
    assert status("show", model, "--at", stage, *more) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert not said.err


def test_show_prints_the_graph_as_it_is_or_for_given_sizes(model, capsys):
    assert status("show", model) == 0
    assert capsys.readouterr().out == ir.to_text(network())
    assert status("show", model, "--sizes", "N=7") == 0
    assert capsys.readouterr().out == ir.to_text(network().bind({"N": 7}))


def test_show_prints_what_each_pass_changed(model, capsys):
    assert status("show", model, "--at", "passes") == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("fuse_epilogues: "))
    assert "nodes 8 -> 6; Mflops " in line
    assert "bytes moved " in line and "predicted " in line
    assert "remove_dead_code: nothing changed" in said
    assert "+  %relu1 = fused(%x, %conv1.weight, %conv1.bias)" in said
    assert status("show", model, "--at", "passes", "--no-diff") == 0
    assert "fused" not in capsys.readouterr().out


def test_the_figures_after_the_passes_are_those_of_what_is_compiled(model, capsys):
    assert status("show", model, "--at", "passes", "--sizes", "N=2") == 0
    table = capsys.readouterr().out.split("-----\n")[-1].split("\n\n")[0].splitlines()
    made = convc.compile(network(), 1).stages(N=2)
    cost = made.optimised.cost()
    chosen = [choice.chosen for choice in choices(made.optimised, made.target)]
    assert {each.algorithm.name for each in chosen} == {a.name for a in made.algorithms.values()}
    predicted = sum(each.seconds + each.conversions for each in chosen)
    figures = (str(len(chosen)), f"{cost.flops / 1e6:.3f}", nbytes(cost.bytes), seconds(predicted))
    assert table[-1].split(maxsplit=1)[1].split() == " ".join(figures).split()
    assert [line.split()[0] for line in table[1:]] == [each.__name__ for each in PIPELINE]


def test_show_gives_a_reason_against_every_other_algorithm(model, capsys):
    assert status("show", model, "--at", "algorithms", "--node", "pool1") == 0
    said = capsys.readouterr().out
    assert "only for convolutions" in said
    assert "relu1" not in said


def test_show_follows_a_node_into_the_one_it_was_merged_into(model, capsys):
    assert status("show", model, "--at", "algorithms", "--node", "conv1") == 0
    assert "conv+bias+relu" in capsys.readouterr().out


def test_show_lays_out_the_plan(model, capsys):
    assert status("show", model, "--at", "plan", "--sizes", "N=2") == 0
    said = capsys.readouterr().out
    plan = convc.compile(network()).stages(N=2).plan
    assert all(step.kernel.name in said for step in (*plan.prepare, *plan.steps))
    for figure in (plan.constant_bytes, plan.arena_bytes, plan.live_bytes):
        assert f"{figure:,} bytes" in said


def test_show_prints_each_kernel_once(model, capsys):
    assert status("show", model, "--at", "loops") == 0
    kernels = [line for line in capsys.readouterr().out.splitlines() if line.startswith("kernel ")]
    assert len(kernels) == len(set(kernels)) > 3
    assert status("show", model, "--at", "loops", "--node", "pool1") == 0
    assert capsys.readouterr().out.count("kernel max_pool(") == 1


def test_show_prints_code_for_other_machines(model, capsys):
    assert status("show", model, "--at", "asm", "--target", "neon", "--node", "relu1") == 0
    assert "fmla" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["plan", "loops", "asm"])
def test_a_node_without_a_step_is_told_with_those_that_write_its_result(stage, tmp_path, capsys):
    b = ir.Builder("joined")
    x = b.input("x", "f32[1, 16, 6, 6]")
    rng = np.random.default_rng(0)
    left = b.conv(x, weight(b, rng, "wide", 32, 16, 3, 3), pad=1, name="left")
    right = b.conv(x, weight(b, rng, "narrow", 16, 16, 3, 3), pad=1, name="right")
    joined = b.concat([left, right], name="joined")
    b.output("y", b.max_pool(joined, 2))
    b.build().save(tmp_path / "joined.ir")
    assert status("show", tmp_path / "joined.ir", "--at", stage, "--node", "joined") == 0
    said = capsys.readouterr().out.splitlines()
    plan = convc.compile(b.build()).stages().plan
    last = {step.node: place for place, step in plan.numbered()}
    assert "joined" not in last
    assert len(said) == 3
    assert "joined (concat) has no step of its own: its parts are written where it lies" in said[0]
    for line, node in zip(said[1:], ("left", "right"), strict=True):
        assert line.split()[-4:] == [node, "conv,", "step", last[node]]
    assert status("show", tmp_path / "joined.ir", "--at", "algorithms") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = (row for row in rows if row[:2] == ["joined", "concat"])
    assert row[-1] == "-"


@pytest.fixture
def photos(tmp_path):
    """A network that runs large images one by one, and what follows over the whole batch."""
    b = ir.Builder("photos")
    rng, x = np.random.default_rng(0), b.input("x", "f32[N, 16, 128, 128]")
    for number in range(3):
        w = weight(b, rng, f"w{number}", 16, 16, 3, 3)
        x = b.relu(b.conv(x, w, pad=1, name=f"conv{number}"), name=f"relu{number}")
    x = b.max_pool(x, 16, name="pool")
    b.output("y", b.dense(b.flatten(x), weight(b, rng, "dense.weight", 1024, 5), name="dense"))
    b.build().save(tmp_path / "photos.ir")
    return tmp_path / "photos.ir"


@pytest.mark.parametrize(
    "argv",
    [
        ["show", "--at", "algorithms"],
        ["why"],
        ["tune", "--budget", "0"],
        ["profile", "--runs", "1"],
        ["check", "--no-gradients"],
    ],
    ids=lambda argv: argv[0],
)
def test_what_runs_by_image_is_marked_and_explained_alike(argv, photos, capsys):
    assert status(argv[0], photos, *argv[1:], "--sizes", "N=2") == 0
    said = capsys.readouterr().out
    note = "2 x: runs for one image of the batch after the other; "
    assert said.count(note) == 1
    assert "2 x conv+relu" in said
    assert "2 x dense" not in said
    assert status(argv[0], photos, *argv[1:], "--sizes", "N=1") == 0
    assert " x: runs for" not in capsys.readouterr().out


def test_the_names_of_steps_are_explained_where_they_occur(photos, capsys):
    for stage, mark in (("plan", ""), ("loops", "# "), ("llvm", "; ")):
        assert status("show", photos, "--at", stage, "--sizes", "N=2") == 0
        said = capsys.readouterr().out.splitlines()
        for name in ("ip0, ip1, ...", "i0, i1, ..."):
            assert sum(line.startswith(f"{mark}{name} run ") for line in said) == 1
        assert not any(line.startswith(f"{mark}p0, ") for line in said)  # no step is called so
        assert any(line.endswith("for one image after the other, 2 times") for line in said)
    assert status("show", photos, "--at", "plan", "--node", "pool", "--sizes", "N=1") == 0
    assert " run " not in capsys.readouterr().out


def test_an_unknown_node_is_refused_before_anything_is_printed(model, capsys):
    for stage in set(show.STAGES) - {"graph", "passes"}:
        assert status("show", model, "--at", stage, "--node", "conv2") == 2
        said = capsys.readouterr()
        assert not said.out
        assert "no node 'conv2'; did you mean 'conv1'?" in said.err
        assert "no node 'zzz'; there are relu1, pool1" in refused(
            capsys, "show", model, "--at", stage, "--node", "zzz"
        )
    assert "no node 'zzz'; there are relu1, pool1" in refused(capsys, "why", model, "zzz")


def test_show_refuses_what_it_cannot_show(model, tmp_path, capsys):
    assert "'pool1'?" in refused(capsys, "show", model, "--at", "plan", "--node", "pool")
    assert "--node" in refused(capsys, "show", model, "--node", "pool1")
    b = ir.Builder("whole")
    b.output("y", b.transpose(b.input("x", "i64[N, H]"), (1, 0)))
    b.build().save(tmp_path / "whole.ir")
    said = refused(capsys, "show", tmp_path / "whole.ir", "--gradients")
    assert "graph 'whole' has no float inputs or weights" in said


def test_sizes_that_do_not_fit_are_named(tmp_path, capsys):
    b = ir.Builder("sized")
    x = b.input("x", "f32[N, 1, H, H]")
    b.output("y", b.conv(x, b.weight("w", np.zeros((1, 1, 75, 75), np.float32))))
    b.build().save(tmp_path / "sized.ir")
    argv = ("show", tmp_path / "sized.ir", "--at", "plan")
    said = refused(capsys, *argv)
    assert "with H=64, N=1 (choose others with --sizes H=...,N=...): " in said
    said = refused(capsys, *argv, "--sizes", "H=5")
    assert "with H=5, N=1 (choose others with --sizes N=...): " in said
    assert "with H=5, N=2 (set by --sizes): " in refused(capsys, *argv, "--sizes", "H=5,N=2")
    assert status(*argv, "--sizes", "H=75") == 0


@pytest.mark.parametrize("argv", [["show", "--at", "plan"], ["compile"], ["profile"], ["check"]],
                         ids=lambda argv: argv[0])  # fmt: skip
def test_a_network_for_any_size_needs_no_option(argv, tmp_path, capsys):
    b = ir.Builder("any")
    x = b.input("x", "f32[N, 1, H, W]")
    b.output("y", b.max_pool(b.max_pool(x, 4), 4))
    b.build().save(tmp_path / "any.ir")
    output = ["--output", tmp_path] if argv == ["compile"] else []
    assert status(argv[0], tmp_path / "any.ir", *argv[1:], *output) == 0
    capsys.readouterr()


def test_show_ops_tells_how_every_op_is_computed(capsys):
    assert status("show", "--ops") == 0
    said = capsys.readouterr().out
    paragraphs = said.strip().split("\n\n")
    assert [text.split(":")[0] for text in paragraphs] == [op.name for op in ir.OPS]
    for text in paragraphs:
        how = text.splitlines()[-1].split()
        assert how[0] in ("algorithms", "expands") and len(how) > 1, text
    assert status("show", "--ops", "max_pool") == 0
    assert "max_pool_grad" in capsys.readouterr().out
    assert "'max_pool'?" in refused(capsys, "show", "--ops", "maxpool")
    assert "MODEL, or --ops" in refused(capsys, "show")


def test_show_ops_tells_what_methods_of_the_builder_are_made_of(capsys):
    assert status("show", "--ops", "conv_transpose", "depthwise_conv", "max") == 0
    said = capsys.readouterr().out
    made = [line.split("of ")[1].strip() for line in said.splitlines() if "made of" in line]
    assert made == ["reverse, conv, conv_input_grad", "conv", "reduce_max"]
    assert "'conv_transpose'?" in refused(capsys, "show", "--ops", "convtranspose")
    assert "no op 'apply'" in refused(capsys, "show", "--ops", "apply")


def test_show_ops_counts_algorithms_that_weights_have_to_suit(capsys):
    assert status("show", "--ops", "conv") == 0
    assert ", separable" in capsys.readouterr().out


def test_a_pool_that_is_made_as_its_operand_is_stored_says_so(tmp_path, capsys):
    b = ir.Builder("pooled")
    w = weight(b, np.random.default_rng(0), "w", 16, 3, 3, 3)
    y = b.conv(b.input("x", "f32[1, 3, 8, 8]"), w, pad=1, name="conv")
    b.output("y", b.softmax(b.max_pool(y, 2, name="pool"), 1))
    b.build().save(tmp_path / "pooled.ir")
    where = ("show", tmp_path / "pooled.ir", "--at", "plan", "--node", "pool")
    assert status(*where, "--algorithm", "conv=winograd2") == 0
    said = capsys.readouterr().out
    assert "pool (max_pool) has no step of its own: it is made as its operand is stored" in said
    assert "conv  conv, step " in said
