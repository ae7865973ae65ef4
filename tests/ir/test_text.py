"""The textual form: one golden text, round trips, and errors with a place."""

import numpy as np
import pytest

import ir

GOLDEN = """\
graph tiny {
  input %x: f32[N, 1, H, 8]
  weight %c/1.weight: f32[2, 1, 3, 3]
  %conv = conv(%x, %c/1.weight) {stride = (2, 1), pads = ((0, 0), (1, 1)), \
dilation = (1, 1), groups = 1} : f32[N, 2, (H+1)//2-1, 8]
  %h = relu(%conv) : f32[N, 2, (H+1)//2-1, 8]
  %reshape = reshape(%h) {shape = (N, 16*((H+1)//2)-16)} : f32[N, 16*((H+1)//2)-16]
  %scale = scale(%reshape) {factor = 1e-05} : f32[N, 16*((H+1)//2)-16]
  return y = %scale
}
"""


def tiny():
    b = ir.Builder("tiny")
    x = b.input("x", "f32[N, 1, H, 8]")
    w = b.weight("c/1.weight", np.ones((2, 1, 3, 3), np.float32))
    h = b.relu(b.conv(x, w, stride=(2, 1), pad=(0, 1)), name="h")
    b.output("y", b.scale(b.flatten(h), 1e-5))
    return b.build()


def test_the_golden_text():
    assert str(tiny()) == GOLDEN
    assert ir.parse(GOLDEN, tiny().weights) == tiny()


def test_fused_ops_print_as_attributes():
    example = ir.OP_BY_NAME["fused"].examples()[2]
    b = ir.Builder()
    values = [b.input(f"i{n}", type) for n, type in enumerate(example.inputs)]
    b.output("y", b.apply(example.op, *values))
    text = str(b.build())
    assert "root = conv {stride = (2, 1)," in text
    assert "epilogue = (bias {}, add {}, relu {})" in text
    assert ir.parse(text) == b.build()


def test_symbolic_attributes_are_told_from_tuples():
    text = "graph g { input %x: f32[2*H] %y = reshape(%x) {shape = ((2*H + 1)//1 - 1,)} : f32[2*H]"
    assert ir.parse(text + " return y = %y }").nodes[0].op.shape == (2 * ir.symbol("H"),)


def test_comments_and_free_layout():
    text = "# a comment\ngraph g {\n  # more\n  input\n%x : f32[ 2 ,3 ]\nreturn #1=%x}\n"
    graph = ir.parse(text)
    assert str(graph.inputs["x"]) == "f32[2, 3]" and graph.outputs == {"#1": "x"}


def test_a_graph_without_outputs_or_nodes():
    assert ir.parse("graph g { return }").outputs == {}
    assert ir.parse(str(ir.parse("graph g { return }"))) == ir.parse("graph g { return }")


RELU = "graph g {\n  input %x: f32[2]\n  %y = relu(%x) : f32[2]\n  return y = %y\n}\n"


@pytest.mark.parametrize(
    ("change", "line", "column", "message"),
    [
        (("graph g", "grap g"), 1, 1, "expected 'graph', found 'grap'"),
        (("relu(", "rleu("), 3, 8, "unknown op 'rleu'; did you mean 'relu'"),
        (("(%x)", "(x)"), 3, 13, r"expected a value such as %x, found 'x\)'"),
        (
            (": f32[2]\n  ret", ": f32[3]\n  ret"),
            3,
            19,
            r"is written as f32\[3\], but its op infers",
        ),
        (("f32[2]", "f16[2]"), 2, 13, "element type 'f16' is not supported"),
        (("f32[2]", "f32[N/2]"), 2, 13, "cannot read extent"),
        (("f32[2]", "2"), 2, 13, "expected a type"),
        (("relu(%x)", "relu(%x) {axis = 1}"), 3, 8, "relu has no attribute 'axis'"),
        (("relu(%x)", "scale(%x)"), 3, 8, "scale needs the attributes factor"),
        (("relu(%x)", "scale(%x) {factor = 1.0, factor = 2.0}"), 3, 33, "given twice"),
        (("relu(%x)", 'sum(%x) {axes = (0, "a")}'), 3, 8, "must be an integer"),
        (("relu(%x)", "sum(%x) {axes = " + "(" * 30), 3, 44, "nested deeper"),
        (("relu(%x)", "sum(%x) {axes = (0"), 3, 27, "expected"),
        (("input", "inptu"), 2, 3, "unknown statement 'inptu'; did you mean 'input'"),
        (("return y = %y", "return y = %y, y = %x"), 4, 18, "returned twice"),
        (("%y\n}", "%y\n"), 6, 1, "expected '}', found the end"),
        (("}\n", "} x"), 5, 3, "goes on after"),
    ],
)
def test_errors_have_a_place(change, line, column, message):
    assert change[0] in RELU
    with pytest.raises(ir.ParseError, match=message) as caught:
        ir.parse(RELU.replace(*change, 1))
    assert (caught.value.line, caught.value.column) == (line, column)


def test_every_prefix_is_refused_cleanly():
    for end in range(len(GOLDEN) - 2):
        with pytest.raises(ir.Error):
            ir.parse(GOLDEN[:end], tiny().weights)


def test_graph_errors_come_through():
    with pytest.raises(ir.GraphError, match=r"node 'y' .* reads 'z'"):
        ir.parse(RELU.replace("(%x)", "(%z)"))
    with pytest.raises(ir.ParseError, match="'x' is declared twice"):
        ir.parse(RELU.replace("  %y", "  input %x: f32[2]\n  %y"))


def test_weights_must_be_exactly_the_declared_ones():
    good = np.ones((2, 1, 3, 3), np.float32)
    for weights, message in [
        ({}, r"missing weights 'c/1.weight' \(f32\[2, 1, 3, 3\]\)"),
        ({"c/1.weight": good, "c/2.weight": good}, r"'c/2.weight' is not declared.*'c/1.weight'"),
        ({"c/1.weight": good[:1]}, r"but the array is f32\[1, 1, 3, 3\]"),
        ({"c/1.weight": good.astype(np.float64)}, "but the array is f64"),
    ]:
        with pytest.raises(ir.WeightsError, match=message):
            ir.parse(GOLDEN, weights)
