"""Pooling, dense layers, functions and losses of the fixtures."""

from collections.abc import Callable
from typing import Any

import numpy as np

import ir
from convc.regions import connected_parts
from ir.ops import AveragePool, CircularPad, MaxPoolGrad, ReluGrad
from tests.fixture_graphs.rules import Array, Attrs, Rule, Values, example, geometry, plain


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


def emit_adaptive_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    kind = {"max": "max", "avg": "average"}[attrs["kind"]]
    return b.adaptive_pool(v["x"], attrs["out"], kind, attrs["mode"], attrs.get("window"))


def places(array: Array, attrs: Attrs) -> Array:
    """Positions, for one example."""
    return example(array, attrs).astype(np.int64)


def emit_relu_jacobian(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    """A row of gradients for each output."""
    (count,) = v["x"].type.static_shape
    return b.apply(ReluGrad(), b.expand(v["x"], (count, count)), b.weight("rows", np.eye(count)))


def emit_max_jacobian(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    (count,) = v["x"].type.static_shape
    window = MaxPoolGrad((count,), (1,), ((0, 0),), (1,), "drop")
    one = b.weight("one", np.ones((1, 1, 1)))
    return b.reshape(b.apply(window, b.reshape(v["x"], (1, 1, count)), one), (count,))


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
    "adaptive_pool": Rule(
        {"x": example}, example, emit_adaptive_pool, frozenset({"kind", "out", "mode", "window"})
    ),
    "region_pool": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.region_pool(v["x"], attrs["regions"], attrs["kind"]),
        frozenset({"regions", "kind"}),
    ),
    "max_switch": Rule(
        {"x": example},
        example,
        lambda b, v, attrs: b.cast(
            b.max_pool_indices(v["x"], attrs["window"], attrs["stride"]), "f64"
        ),
        frozenset({"window", "stride"}),
    ),
    "max_unpool": Rule(
        {"x": example, "switch": places},
        example,
        lambda b, v, attrs: b.max_unpool(v["x"], v["switch"], attrs["out_size"]),
        frozenset({"out_size"}),
    ),
    "relu_jacobian": Rule({"x": plain}, plain, emit_relu_jacobian),
    "onehot_max_jacobian": Rule({"x": plain}, plain, emit_max_jacobian),
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


def pool_geometry(attrs: Attrs, inputs: dict[str, Any]) -> dict[str, Any]:
    """How many windows there are, and how many real cells each has."""
    window = AveragePool((attrs["k"],), (attrs["s"],), ((0, 0),), (1,), attrs["edge"], "real")
    out = window.pooled(ir.TensorType.parse(f"f64[1, 1, {attrs['n']}]")).static_shape[2:]
    widths = window.divisors((attrs["n"],), out, np.dtype(float))
    return {"count": out[0], "widths": widths[0, 0]}


COMPUTED: dict[str, Callable[[Attrs, dict[str, Any]], dict[str, Any]]] = {
    "pool_geometry": pool_geometry,
    "label_components": lambda attrs, inputs: {
        "regions": connected_parts(np.array(inputs["labels"]))
    },
}
