"""Pooling, dense layers, functions and losses of the fixtures."""

from collections.abc import Callable
from typing import Any

import ir
from ir.ops import CircularPad
from tests.fixture_graphs.rules import Attrs, Rule, Values, example, geometry, plain


def emit_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    where = {**geometry(attrs), "edge": attrs.get("edge", "drop")}
    if attrs["kind"] == "sum":
        return b.sum_pool(v["x"], attrs["window"], v.get("w"), **where)
    if attrs["kind"] == "weighted":
        return b.weighted_pool(v["x"], v["weights"], **where)
    pool = {"max": b.max_pool, "avg": b.average_pool, "l2": b.lp_pool}[attrs["kind"]]
    return pool(v["x"], attrs["window"], **where)


def emit_channel_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.channel_pool(v["x"], attrs["group"], attrs["kind"])


def emit_circular_max_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    around = b.apply(CircularPad(((0, attrs["window"] - 1),)), v["x"])
    return b.max_pool(around, attrs["window"], attrs["stride"])


def emit_blur_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    boundary = {"renorm": "renormalised", "circular": "circular"}[attrs["boundary"]]
    return b.blur_pool(v["x"], attrs["stride"], attrs["taps"], boundary)


def emit_pad(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    pads = {axis: tuple(pair) for axis, pair in enumerate(attrs["pad"])}
    return b.pad(v["x"], pads, attrs.get("value", 0))


def emit_changed(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return 1 - b.mean(b.equal(v["a"], v["b"]))


RULES: dict[str, Rule] = {
    "pool": Rule(
        {"x": example, "w": plain, "weights": plain},
        example,
        emit_pool,
        frozenset({"stride", "pad", "window", "edge", "kind"}),
    ),
    "channel_pool": Rule({"x": example}, example, emit_channel_pool, frozenset({"kind", "group"})),
    "max_pool_circular": Rule(
        {"x": example}, example, emit_circular_max_pool, frozenset({"window", "stride"})
    ),
    "blur_pool": Rule(
        {"x": example}, example, emit_blur_pool, frozenset({"taps", "stride", "boundary"})
    ),
    "expand": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.expand_blocks(v["x"], attrs["factors"]),
        frozenset({"factors"}),
    ),
    "downsample": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.downsample(v["x"], attrs["stride"]),
        frozenset({"stride"}),
    ),
    "changed": Rule({"a": plain, "b": plain}, plain, emit_changed),
    "pad": Rule({"x": plain}, plain, emit_pad, frozenset({"pad", "value"})),
    "slice_channels": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.slice(v["x"], {1: (attrs["start"], attrs["stop"])}),
        frozenset({"start", "stop"}),
    ),
    "concat": Rule(
        {"0": example, "1": example}, example, lambda b, v, attrs: b.concat([v["0"], v["1"]])
    ),
    "vec": Rule({"x": example}, example, lambda b, v, attrs: b.vec(v["x"])),
    "unvec": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.unvec(v["x"], attrs["shape"]),
        frozenset({"shape"}),
    ),
    "dense": Rule(
        {"x": example, "w": plain, "b": plain},
        example,
        lambda b, v, attrs: b.dense(v["x"], v["w"], v.get("b")),
    ),
    "relu": Rule({"x": example}, example, lambda b, v, attrs: b.relu(v["x"])),
    "tanh": Rule({"x": example}, example, lambda b, v, attrs: b.tanh(v["x"])),
    "softmax": Rule({"x": example}, example, lambda b, v, attrs: b.softmax(v["x"], axis=1)),
    "add": Rule({"a": example, "b": example}, example, lambda b, v, attrs: v["a"] + v["b"]),
    "squared_loss": Rule(
        {"a": example, "y": example}, plain, lambda b, v, attrs: b.squared_loss(v["a"], v["y"])
    ),
    "cross_entropy": Rule(
        {"p": example, "labels": example},
        plain,
        lambda b, v, attrs: b.cross_entropy(v["p"], v["labels"]),
        frozenset({"labels"}),
    ),
}

NOT_YET = {
    name: reason
    for reason, names in {
        "where the maximum stood, as an output": "n004.maxpool.switches n001.max_unpool",
        "a Jacobian matrix as an output": "n004.relu_jacobian n004.maxpool_onehot",
        "a size, count or cost: no tensors": """
            n001.fig9.10.geometry n001.fig9.10.geometry_drop""",
        "adaptive pooling": """
            n001.adaptive_quadrants.4x4.partition.max n001.adaptive_quadrants.5x7.partition.max
            n001.adaptive_quadrants.4x4.partition.avg n001.adaptive_quadrants.5x7.partition.avg
            n001.adaptive_quadrants.4x4.cover.max n001.adaptive_quadrants.5x7.cover.max
            n001.adaptive_quadrants.4x4.cover.avg n001.adaptive_quadrants.5x7.cover.avg
            n001.adaptive_offset n001.adaptive_3x3 n001.global_average""",
        "pooling over given regions": "n001.region_pool",
        "reading results: connected regions of labels": "n001.segment_components",
    }.items()
    for name in names.split()
}

COMPUTED: dict[str, Callable[[Attrs, dict[str, Any]], dict[str, Any]]] = {}
