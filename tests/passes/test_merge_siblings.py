"""1x1 convolutions of one image as one."""

import pytest

from convc.passes.merge_siblings import merge_siblings
from tests.passes.common import Draft, after, body, kinds


def siblings(b, outers, finish, channels=40, **attributes):
    x = b.image(2, channels, 5, 6)
    for number, outer in enumerate(outers):
        y = b.conv(x, b.whole(outer, channels, 1, 1), **attributes, name=f"conv{number}")
        for kind in finish[number]:
            y = b.relu(y) if kind == "relu" else b.bias(y, b.whole(outer))
        b.output(f"y{number}", b.scale(y, 2.0, name=f"y{number}"))
    return b.build()


def test_siblings_become_one():
    graph = siblings(Draft(), (3, 5), (["bias", "relu"], ["bias", "relu"]))
    better = after(graph, merge_siblings)
    assert body(better) == [
        "conv0.merged = conv(x, conv0.merged.weight)",
        "conv0.merged_1 = bias(conv0.merged, conv0.merged.weight_1)",
        "conv0.merged_2 = relu(conv0.merged_1)",
        "relu = slice(conv0.merged_2)",
        "relu_1 = slice(conv0.merged_2)",
        "y0 = scale(relu)",
        "y1 = scale(relu_1)",
    ]
    assert better.cost().bytes < graph.cost().bytes


def test_what_only_some_have_comes_after():
    finish = (["bias", "relu"], ["bias"], ["bias", "relu"])
    better = after(siblings(Draft(), (1, 2, 3), finish), merge_siblings)
    assert kinds(better)[:5] == ["conv", "bias", "slice", "slice", "slice"]
    assert kinds(better).count("relu") == 2


@pytest.mark.parametrize(
    "graph",
    [
        siblings(Draft(), (3, 30), ([], [])),
        siblings(Draft(), (3,), ([],)),
        siblings(Draft(), (4, 4), ([], []), channels=4, groups=1),
    ],
    ids=["much to copy", "one alone", "little to read"],
)
def test_where_it_does_not_pay_nothing_is_merged(graph):
    assert merge_siblings(graph) is graph


def test_others_are_no_siblings():
    b = Draft()
    x = b.image(2, 40, 5, 6)
    b.output("a", b.conv(x, b.whole(3, 40, 1, 1)))
    b.output("strided", b.conv(x, b.whole(3, 40, 1, 1), 2))
    b.output("larger", b.conv(x, b.whole(3, 40, 3, 3)))
    b.output("padded", b.conv(x, b.whole(3, 40, 1, 1), pad=1))
    b.output("unknown", b.conv(x, b.image(3, 40, 1, 1)))
    graph = b.build()
    assert merge_siblings(graph) is graph


@pytest.mark.parametrize("seed", range(10))
def test_random_families_keep_their_meaning(seed):
    b = Draft(seed)
    outers = [b.pick(1, 2, 3) for _ in range(b.pick(2, 3, 4))]
    finish = [b.pick([], ["bias"], ["relu"], ["bias", "relu"]) for _ in outers]
    graph = siblings(b, outers, finish, b.pick(20, 40), stride=b.pick(1, 2))
    after(graph, merge_siblings)
