"""Names are any text: written, read back, saved, and shown in one line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ir
from ir.names import printable, written

ODD = ["input:0", "a/b c", 'say "x"', "a\\b", "\\", "a\nb", "%", "%y = relu(%x)", "# x", "{}", "=",
       "return", "π", "é\u0301", "\u2028", "\x85", "\x1b[31m", "\0", "😀", "\U000e0001", "a\\u0041",
       "../x", " ", "__metadata__x"]  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = st.one_of(TEXTS, st.text('"\\%\n\t :/={}()#uab', min_size=1), st.sampled_from(ODD))

ANY = settings(deadline=None)


def graph_of(names):
    """A graph all of whose names are given: its own, of an input, a weight, a node, an output."""
    b = ir.Builder(names[0])
    x = b.input(names[1], "f32[N, 2]")
    y = b.apply(ir.ops.Mul(), x, b.weight(names[2], np.float32([[2, 3]])), name=names[3])
    b.output(names[4], y)
    return b.build()


@ANY
@given(st.lists(NAMES, min_size=5, max_size=5, unique=True))
def test_a_graph_is_read_back_whatever_its_names_are(names):
    graph = graph_of(names)
    text = str(graph)
    assert ir.parse(text, graph.weights) == graph
    assert len(text.splitlines()) == 6
    assert all(line.isprintable() for line in text.splitlines())


@ANY
@given(NAMES)
def test_what_is_in_quotes_is_a_string_of_json(name):
    text = written(name)
    assert text == name or json.loads(text) == name
    assert '"' in text or not set(text) & set(' %(){}=,:;"')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conv/1.weight-α", "conv/1.weight-α"),
        ("input:0", '"input:0"'),
        ("a\\b", "a\\b"),
        ('a\\ "b"\n', r'"a\\ \"b\"\n"'),
        ("\u2028\U000e0001", r'"\u2028\udb40\udc01"'),
    ],
)
def test_only_names_that_need_quotes_have_them(name, text):
    assert written(name) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('%"y', "expected a name directly after '%'"),
        (r'%"\q"', r"line 1, column 29: .*\\q.* is no string of JSON; after \\ comes"),
        ('%"\t"', "is no string of JSON"),
        ('% "y"', "expected a name directly after '%'"),
    ],
)
def test_quotes_that_cannot_be_read_have_a_place(value, message):
    with pytest.raises(ir.ParseError, match=message):
        ir.parse(f"graph g {{ input %x: f32[2] {value} = relu(%x) : f32[2] return y = %y }}")


def test_a_name_in_quotes_is_the_name_without_them():
    text = 'graph "g" { input %"x": f32[2] %y = relu(%x) : f32[2] return "out" = %"\\u0079" }'
    assert ir.parse(text).outputs == {"out": "y"}
    with pytest.raises(ir.ParseError, match="'x' is declared twice"):
        ir.parse('graph g { input %x: f32[2] input %"x": f32[2] return }')


@pytest.mark.parametrize("name", ODD)
def test_graphs_of_any_names_are_saved_and_loaded(name, tmp_path):
    graph = graph_of([name, f"{name}1", f"{name}2", f"{name}3", name])
    graph.save(tmp_path / "g.ir")
    assert ir.load(tmp_path / "g.ir") == graph
    back = ir.vjp(graph)
    assert list(back.outputs) == [name, f"grad_{name}1", f"grad_{name}2"]
    assert ir.parse(str(back), back.weights) == back
    view = graph.to_networkx()
    assert view.name == name and view.nodes[f"{name}1"]["kind"] == "input"


def test_the_name_that_the_format_of_weights_keeps_is_refused(tmp_path):
    graph = graph_of(["g", "x", "__metadata__", "y", "y"])
    with pytest.raises(ir.WeightsError, match="has no tensor '__metadata__'"):
        graph.save(tmp_path / "g.ir")
    assert not list(tmp_path.iterdir())


@ANY
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_shown_can_be_printed(text):
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
