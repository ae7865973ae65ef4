"""Pooling, dense layers, functions and losses of the fixtures."""

from collections.abc import Callable
from typing import Any

import ir
from tests.fixture_graphs.rules import Attrs, Rule, Values, example, geometry, plain


def emit_pool(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    pool = {"max": b.max_pool, "avg": b.average_pool}[attrs["kind"]]
    return pool(v["x"], attrs["window"], edge=attrs.get("edge", "drop"), **geometry(attrs))


RULES: dict[str, Rule] = {
    "pool": Rule(
        {"x": example},
        example,
        emit_pool,
        frozenset({"stride", "pad", "window", "edge", "kind"}),
    ),
    "dense": Rule(
        {"x": example, "w": plain, "b": plain},
        example,
        lambda b, v, attrs: b.dense(v["x"], v["w"], v.get("b")),
    ),
    "relu": Rule({"x": example}, example, lambda b, v, attrs: b.relu(v["x"])),
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
        "column-major vec and its inverse": """
            n004.flatten.cross3x3 n004.flatten.abcd n002.vec_two_maps n002.unvec""",
        "padding as an op of its own": "n004.pad.p2 n004.pad.filler_value",
        "where the maximum stood, as an output": "n004.maxpool.switches n001.max_unpool",
        "a Jacobian matrix as an output": "n004.relu_jacobian n004.maxpool_onehot",
        "a size, count or cost: no tensors": """
            n001.fig9.10.geometry n001.fig9.10.geometry_drop""",
        "a report: the fraction of entries that changed": """
            n001.fig9.8.changed_detectors n001.fig9.8.changed_pools""",
        "tanh": "n001.autoencoder.tied n001.fig9.17.recurrent",
        "circular boundary": """
            n004.maxpool_s2.circ n004.maxpool_s2.circ_shifted n004.maxblurpool
            n004.maxblurpool_shifted""",
        "blur before subsampling": "n004.blur_pool.edge",
        "pooling by a scaled sum": "n002.avgpool_w n002.avgpool_w_true_average",
        "pooling by the L2 norm": "n001.pool_l2 n001.pool_l2_zero_window",
        "pooling by distance weights": "n001.pool_distance_weighted",
        "pooling across channels": "n001.maxout n001.maxout_three_filters n001.channel_l2",
        "adaptive pooling": """
            n001.adaptive_quadrants.4x4.partition.max n001.adaptive_quadrants.5x7.partition.max
            n001.adaptive_quadrants.4x4.partition.avg n001.adaptive_quadrants.5x7.partition.avg
            n001.adaptive_quadrants.4x4.cover.max n001.adaptive_quadrants.5x7.cover.max
            n001.adaptive_quadrants.4x4.cover.avg n001.adaptive_quadrants.5x7.cover.avg
            n001.adaptive_offset n001.adaptive_3x3 n001.global_average""",
        "pooling over given regions": "n001.region_pool",
        "slices and concatenation of channels": "n001.mixed_pooling",
        "repeating or skipping positions": "n002.expand n001.fig9.12.two_step",
        "reading results: connected regions of labels": "n001.segment_components",
    }.items()
    for name in names.split()
}

COMPUTED: dict[str, Callable[[Attrs, dict[str, Any]], dict[str, Any]]] = {}
