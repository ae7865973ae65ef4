"""The worked fixtures of fixtures.json as graphs.

A fixture states one op, or a small network of ops, on one example and in float64, with the outputs
it must give and often the gradients. `build` says the same with `ir.Builder`: every tensor of the
fixture becomes a graph input, and an activation gets a batch axis of one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ir

Array = np.ndarray[Any, Any]
Fixture = dict[str, Any]

FIXTURES: dict[str, Fixture] = {
    fixture["id"]: fixture
    for fixture in json.loads(
        Path(__file__).with_name("fixtures.json").read_text(encoding="utf-8")
    )["fixtures"]
}


class Case(NamedTuple):
    """A graph, the arrays to run it on, and what must come out.

    `upstream` has one array per output (zero where the fixture gives none), under the output's own
    name; `expected_grads` goes by the input's name. Both are empty where no gradient is stated.
    """

    graph: ir.Graph
    inputs: dict[str, Array]
    expected: dict[str, Array]
    upstream: dict[str, Array]
    expected_grads: dict[str, Array]


# ---------------------------------------------------------------- how a fixture's tensor stands


def plain(array: Array, attrs: dict[str, Any]) -> Array:
    """Weights, biases per channel, kernel gradients, losses: as they are."""
    return array


def example(array: Array, attrs: dict[str, Any]) -> Array:
    """An activation: one example of a batch. A number is one channel with one position."""
    if attrs.get("batched"):
        return array
    return array.reshape(1, 1, 1) if array.ndim == 0 else array[None]


def window(array: Array, attrs: dict[str, Any]) -> Array:
    """An operand of a dot product, which is a convolution with a single position."""
    return array.reshape((1,) * max(1, 3 - array.ndim) + array.shape)


def kernel(array: Array, attrs: dict[str, Any]) -> Array:
    """A kernel bank; the fixtures store grouped ones dense, with blocks that are never read."""
    if "connections" not in attrs:
        return array
    groups = groups_of(attrs["connections"])
    blocks = array.reshape(groups, array.shape[0] // groups, groups, -1, *array.shape[2:])
    return np.concatenate([row[:, column] for column, row in enumerate(blocks)])


def bias(array: Array, attrs: dict[str, Any]) -> Array:
    """One number per channel, or a whole map per channel."""
    return array if array.ndim == 1 else example(array, attrs)


def groups_of(connections: list[list[int]]) -> int:
    """The number of equal diagonal blocks a connection matrix consists of; 0 if it does not."""
    rows, columns = np.shape(connections)
    for groups in range(min(rows, columns), 1, -1):
        if rows % groups == 0 and columns % groups == 0:
            block = np.ones((rows // groups, columns // groups))
            if np.array_equal(connections, np.kron(np.eye(groups), block)):
                return groups
    return 0


# ---------------------------------------------------------------- op by op


class Rule(NamedTuple):
    """How a fixture's op is said: how its operands and its result stand, and what is emitted."""

    operands: dict[str, Callable[[Array, dict[str, Any]], Array]]
    result: Callable[[Array, dict[str, Any]], Array]
    emit: Callable[[ir.Builder, dict[str, ir.Value], dict[str, Any]], ir.Value]
    attrs: frozenset[str] = frozenset()


def geometry(attrs: dict[str, Any]) -> dict[str, Any]:
    """Stride and pad, which fixtures and builder write alike."""
    return {key: attrs[key] for key in ("stride", "pad") if key in attrs}


def emit_conv(b: ir.Builder, v: dict[str, ir.Value], attrs: dict[str, Any]) -> ir.Value:
    groups = groups_of(attrs["connections"]) if "connections" in attrs else 1
    y = b.conv(v["x"], v["k"], groups=groups, **geometry(attrs))
    if "b" not in v:
        return y
    return b.bias(y, v["b"]) if len(v["b"].shape) == 1 else y + v["b"]


def emit_conv_transpose(b: ir.Builder, v: dict[str, ir.Value], attrs: dict[str, Any]) -> ir.Value:
    return b.conv_transpose(v["k"], v["g"], size=attrs["out_size"], **geometry(attrs))


def emit_conv_kernel_grad(
    b: ir.Builder, v: dict[str, ir.Value], attrs: dict[str, Any]
) -> ir.Value:
    return b.conv_weight_grad(v["g"], v["x"], kernel=attrs["kernel"], **geometry(attrs))


def emit_pool(b: ir.Builder, v: dict[str, ir.Value], attrs: dict[str, Any]) -> ir.Value:
    pool = {"max": b.max_pool, "avg": b.average_pool}[attrs["kind"]]
    return pool(v["x"], attrs["window"], edge=attrs.get("edge", "drop"), **geometry(attrs))


RULES: dict[str, Rule] = {
    "conv": Rule(
        {"x": example, "k": kernel, "b": bias},
        example,
        emit_conv,
        frozenset({"stride", "pad", "batched", "connections"}),
    ),
    "conv_transpose": Rule(
        {"k": plain, "g": example},
        example,
        emit_conv_transpose,
        frozenset({"stride", "pad", "out_size"}),
    ),
    "conv_kernel_grad": Rule(
        {"g": example, "x": example},
        plain,
        emit_conv_kernel_grad,
        frozenset({"stride", "pad", "kernel"}),
    ),
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
    "dot": Rule({"a": window, "b": window}, example, lambda b, v, attrs: b.conv(v["a"], v["b"])),
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


# ---------------------------------------------------------------- a fixture as a network


class Step(NamedTuple):
    """One op of a fixture: its name, and its operands by the names of inputs or earlier steps."""

    name: str
    op: str
    operands: dict[str, str]
    attrs: dict[str, Any]


def steps_of(fixture: Fixture) -> tuple[list[Step], dict[str, str]]:
    """The ops a fixture's outputs need, in order, and the step behind each output."""
    if fixture["op"] != "graph":
        operands = {name: name for name in fixture["inputs"]}
        only = Step(f"{fixture['op']}()", fixture["op"], operands, fixture["attrs"])
        return [only], dict.fromkeys(fixture["outputs"], only.name)
    outputs = fixture["attrs"]["outputs"]
    needed, steps = set(outputs.values()), []
    for node in reversed(fixture["attrs"]["nodes"]):
        if node["name"] in needed:
            needed |= set(node["in"].values())
            steps.append(Step(node["name"], node["op"], node["in"], node.get("attrs", {})))
    return steps[::-1], outputs


def says(step: Step) -> bool:
    """Whether RULES can say this step."""
    rule, attrs = RULES.get(step.op), step.attrs
    return (
        rule is not None
        and rule.attrs >= set(attrs)
        and rule.operands.keys() >= step.operands.keys()
        and attrs.get("kind", "max") in ("max", "avg")
        and ("connections" not in attrs or groups_of(attrs["connections"]) > 0)
    )


def build(fixture: Fixture) -> Case:
    """The fixture as a graph in float64, with its numbers standing as the graph wants them."""
    steps, outputs = steps_of(fixture)
    place, tensors = places(fixture, steps)
    inputs = {name: place[name](array) for name, array in tensors.items()}

    b = ir.Builder(fixture["id"])
    values = {name: b.input(name, type_of(array)) for name, array in inputs.items()}
    for step in steps:
        operands = {key: values[name] for key, name in step.operands.items()}
        if "labels" in step.attrs:
            operands["labels"] = values["labels"]
        values[step.name] = RULES[step.op].emit(b, operands, step.attrs)
    for output, name in outputs.items():
        b.output(output, values[name])

    def placed(key: str, where: dict[str, str]) -> Iterator[tuple[str, Array]]:
        for name, numbers in fixture.get(key, {}).items():
            yield name, place[where.get(name, name)](np.array(numbers, float))

    expected = dict(placed("outputs", outputs))
    upstream = dict(placed("upstream", outputs))
    if upstream:
        upstream = {name: np.zeros_like(array) for name, array in expected.items()} | upstream
    return Case(b.build(), inputs, expected, upstream, dict(placed("gradients", {})))


def places(
    fixture: Fixture, steps: list[Step]
) -> tuple[dict[str, Callable[[Array], Array]], dict[str, Array]]:
    """How each name's numbers stand in the graph, and the tensors that are its inputs."""
    place: dict[str, Callable[[Array], Array]] = {}
    tensors: dict[str, Array] = {}
    for step in steps:
        rule = RULES[step.op]
        for key, name in step.operands.items():
            if name in fixture["inputs"]:
                tensors[name] = np.array(fixture["inputs"][name], float)
                place.setdefault(name, bind(rule.operands[key], step.attrs))
        if "labels" in step.attrs:
            tensors["labels"] = np.array(step.attrs["labels"], np.int64)
            place["labels"] = bind(rule.operands["labels"], step.attrs)
        place[step.name] = bind(rule.result, step.attrs)
    return place, tensors


def bind(
    stand: Callable[[Array, dict[str, Any]], Array], attrs: dict[str, Any]
) -> Callable[[Array], Array]:
    return lambda array: stand(array, attrs)


def type_of(array: Array) -> str:
    scalar = {"f": "f64", "i": "i64"}[array.dtype.kind]
    return f"{scalar}[{', '.join(map(str, array.shape))}]"


# ---------------------------------------------------------------- all 169 accounted for

SUPPORTED_IDS = [key for key, fixture in FIXTURES.items() if all(map(says, steps_of(fixture)[0]))]

NOT_YET: dict[str, str] = {
    name: reason
    for reason, names in {
        "column-major vec and its inverse": """
            n004.flatten.cross3x3 n004.flatten.abcd n002.vec_two_maps n002.unvec""",
        "padding as an op of its own": "n004.pad.p2 n004.pad.filler_value",
        "where the maximum stood, as an output": "n004.maxpool.switches n001.max_unpool",
        "a Jacobian matrix as an output": """
            n004.relu_jacobian n004.conv_jacobian_k4_n6 n004.maxpool_onehot""",
        "a size, count or cost: no tensors": """
            n004.size.64k2s2 n004.size.n10k3 n004.size.n4p2k1 n004.size.len5_to_3 n004.size.same5x5
            n004.size.n64pool n001.valid_width n001.full_width n001.transpose_sizes
            n001.transpose_sizes_s3 n001.fig9.10.geometry n001.fig9.10.geometry_drop
            n001.fig9.13.valid n001.fig9.13.padded n001.influence.valid n001.influence.same
            n001.influence.full n001.receptive_field.fig9.4 n001.receptive_field.strided
            n004.params.fc5x5 n004.params.conv3x3 n004.params.k2plus1 n001.fig9.11.fc_units
            n002.connection_count n001.fig9.15.count n001.fig9.6.cost n001.fig9.14.params
            n001.sparse_cost n001.separable.cost_w3_d2 n001.separable.cost_w2_d2
            n001.separable.cost_w5_d3""",
        "a report: the fraction of entries that changed": """
            n001.fig9.8.changed_detectors n001.fig9.8.changed_pools""",
        "tanh": "n001.autoencoder.tied n001.fig9.17.recurrent",
        "circular boundary": """
            n001.circular_conv n001.doubly_block_circulant n004.maxpool_s2.circ
            n004.maxpool_s2.circ_shifted n004.maxblurpool n004.maxblurpool_shifted""",
        "blur before subsampling": "n004.blur_pool.edge",
        "flipped kernels": """
            n001.flip_stride_pad n001.causal_smoothing n001.conv2d_flipped n001.conv2d_commuted
            n001.toeplitz_flipped_valid""",
        "a convolution as a matrix": "n001.fig9.2_9.3.matrix n001.doubly_block_toeplitz",
        "connections that are no equal groups": "n002.connection_matrix n002.full_network",
        "bias tiled over positions": "n001.bias_tiled",
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
        "locally connected layers": """
            n001.eq9.9.local n001.local_stride_pad n001.local_restricted n001.fig9.16.local""",
        "tiled convolution": "n001.eq9.10.tiled n001.eq9.10.tiled_literal n001.fig9.16.tiled",
        "separable kernels": """
            n001.separable.2d n001.separable.rank1 n001.separable.cross_rank2
            n001.separable.slash_rank2 n001.separable.3d n001.separable.3d_not""",
        "Gabor functions and cells": """
            n001.gabor.tau0 n001.gabor.tau45 n001.gabor.phase90 n001.gabor.shifted
            n001.complex_cell n001.complex_cell.negated""",
        "learning without gradients": "n001.kmeans_kernels n001.reverse_correlation",
        "preparing data": "n001.stft",
        "reading results: connected regions of labels": "n001.segment_components",
    }.items()
    for name in names.split()
}
