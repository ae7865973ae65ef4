"""Fixtures that state sizes, counts, costs or arrays: from attributes and inputs to outputs."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

import ir
from convc.algorithms.separable import RANK_ONE, beyond, unfoldings
from convc.train.kernels import k_means, reverse_correlation
from ir import filters
from ir.analysis import parameters, receptive_fields
from ir.matrix import convolution_matrix
from ir.ops import ConnectedConv
from ir.ops.window import named_pads, output_size, transposed_sizes
from tests.fixture_graphs.conv import gabor
from tests.fixture_graphs.rules import Array, Attrs

Numbers = dict[str, Any]


# ---------------------------------------------------------------- sizes


def size(attrs: Attrs, inputs: Numbers) -> Numbers:
    return {"size": output_size(attrs["n"], attrs["k"], attrs["s"], attrs["p"], attrs["p"])}


def size_chain(attrs: Attrs, inputs: Numbers) -> Numbers:
    """Layer after layer, until the kernel does not fit."""
    sizes = list(sizes_of_layers(attrs["n"], attrs["k"], attrs["pad_total"]))
    sizes = sizes[: 1 + attrs.get("max_layers", len(sizes))]
    return {"sizes": sizes, "layers": len(sizes) - 1}


def sizes_of_layers(n: ir.Dim, k: int, pad: int) -> Iterator[ir.Dim]:
    for _ in range(9):
        yield n
        try:
            n = output_size(n, k, 1, 0, pad)
        except ir.ShapeError:
            return


def transpose_sizes(attrs: Attrs, inputs: Numbers) -> Numbers:
    sizes = transposed_sizes(attrs["out"], attrs["k"], attrs["s"], hi=attrs["pad_total"])
    return {"sizes": list(sizes)}


def influence(attrs: Attrs, inputs: Numbers) -> Numbers:
    """How many outputs an input reaches, and how many inputs reach an output."""
    pads = named_pads(attrs["pad"], (attrs["k"],), (1,))
    matrix = convolution_matrix(np.ones((1, 1, attrs["k"])), (attrs["n"],), pad=pads)
    return {"outputs_per_input": matrix.sum(axis=0), "inputs_per_output": matrix.sum(axis=1)}


def receptive_field(attrs: Attrs, inputs: Numbers) -> Numbers:
    b = ir.Builder()
    values = [b.input("x", "f32[1, 1, 64]")]
    for k, stride in attrs["layers"]:
        values.append(b.conv(values[-1], weight(b, 1, 1, k), stride))
    b.output("y", values[-1])
    found = receptive_fields(b.build(), "x")
    fields = [found[value.name] for value in values[1:]]
    return {"size": [f.size[0] for f in fields], "jump": [f.jump[0] for f in fields]}


# ---------------------------------------------------------------- parameters and costs


def weight(b: ir.Builder, *shape: int) -> ir.Value:
    return b.weight(b.fresh("w"), np.zeros(shape, np.float32))


def built(make: Callable[[ir.Builder], ir.Value]) -> ir.Graph:
    b = ir.Builder()
    b.output("y", make(b))
    return b.build()


def dense_parameters(attrs: Attrs, inputs: Numbers) -> Numbers:
    def layer(b: ir.Builder) -> ir.Value:
        x = b.input("x", f"f32[1, {attrs['n_in']}]")
        bias = weight(b, attrs["n_out"]) if attrs["bias"] else None
        return b.dense(x, weight(b, attrs["n_in"], attrs["n_out"]), bias)

    return {"params": parameters(built(layer))}


def conv_parameters(attrs: Attrs, inputs: Numbers) -> Numbers:
    def layer(b: ir.Builder) -> ir.Value:
        x = b.input("x", f"f32[1, {attrs['in_ch']}, 9, 9]")
        y = b.conv(x, weight(b, attrs["out_ch"], attrs["in_ch"], *attrs["kernel"]))
        return b.bias(y, weight(b, attrs["out_ch"])) if attrs["bias"] else y

    return {"params": parameters(built(layer))}


def connection_count(attrs: Attrs, inputs: Numbers) -> Numbers:
    outputs, channels = np.shape(attrs["connections"])
    kernels = int(np.sum(attrs["connections"]))
    b = ir.Builder()
    x = b.input("x", f"f32[1, {channels}, 5]")
    b.connected_conv(x, weight(b, kernels, 3), attrs["connections"])
    (node,) = b.build().nodes
    assert isinstance(node.op, ConnectedConv)
    full = parameters(
        built(lambda b: b.conv(x_of(b, channels, 5), weight(b, outputs, channels, 1)))
    )
    fan_out = node.op.fan_out(channels)
    return {"kernels": node.op.count, "full": full, "fan_in": node.op.fan_in, "fan_out": fan_out}


def x_of(b: ir.Builder, channels: int, *size: int) -> ir.Value:
    return b.input("x", ir.TensorType(ir.DType.FLOAT32, (1, channels, *size)))


def sharing(attrs: Attrs, inputs: Numbers) -> Numbers:
    """Parameters of one layer with kernels shared less and less."""
    n, out, k = attrs["n_in"], attrs["n_out"], attrs["k"]
    pad = [((out + k - 1 - n) // 2, (out + k - n) // 2)]
    layers: dict[str, Callable[[ir.Builder], ir.Value]] = {
        "conv": lambda b: b.conv(x_of(b, 1, n), weight(b, 1, 1, k), pad=pad),
        "tiled": lambda b: b.tiled_conv(x_of(b, 1, n), weight(b, 1, 1, k, attrs["t"]), pad=pad),
        "local": lambda b: b.local_conv(x_of(b, 1, n), weight(b, 1, out, 1, k), pad=pad),
        "full": lambda b: b.dense(b.input("x", f"f32[1, {n}]"), weight(b, n, out)),
    }
    return {name: parameters(built(layer)) for name, layer in layers.items()}


def separable_cost(attrs: Attrs, inputs: Numbers) -> Numbers:
    """Products per output of a kernel of width w on d axes: at once, or an axis at a time."""
    w, d, size = attrs["w"], attrs["d"], 8

    def per_output(*kernels: Sequence[int]) -> float:
        def layers(b: ir.Builder) -> ir.Value:
            y = x_of(b, 1, *(size,) * d)
            for kernel in kernels:
                y = b.conv(y, weight(b, 1, 1, *kernel), pad="same")
            return y

        return built(layers).cost().flops / 2 / size**d

    passes = [tuple(w if a == axis else 1 for a in range(d)) for axis in range(d)]
    return {"naive": per_output((w,) * d), "separable": per_output(*passes)}


def edge_cost(attrs: Attrs, inputs: Numbers) -> Numbers:
    """Neighbours subtracted by a convolution or by a matrix; n products take n - 1 additions."""
    rows, columns = attrs["h"], attrs["w"]
    conv = built(lambda b: b.conv(x_of(b, 1, rows, columns), weight(b, 1, 1, 1, 2)))
    (_, _, *out) = conv.types[conv.outputs["y"]].static_shape
    n, m = rows * columns, prod(out)
    product = built(lambda b: b.dense(b.input("x", f"f32[1, {n}]"), b.input("w", f"f32[{n}, {m}]")))
    few, many = (graph.cost().flops - m for graph in (conv, product))
    entries = product.inputs["w"].size
    return {
        "conv_flops": few,
        "matrix_entries": entries,
        "matrix_nonzeros": conv.cost().flops // 2,
        "matmul_flops": many,
        "flop_ratio": many / few,
        "storage_ratio": entries / parameters(conv),
    }


# ---------------------------------------------------------------- arrays


def conv_matrix(attrs: Attrs, inputs: Numbers) -> Numbers:
    rest = {key: attrs[key] for key in ("pad", "flip", "boundary") if key in attrs}
    return {"M": convolution_matrix(np.array(inputs["k"]), attrs["in_shape"][1:], **rest)}


def conv_jacobian(attrs: Attrs, inputs: Numbers) -> Numbers:
    """Row by row what each weight does to the outputs: the kernel gradient for unit vectors."""
    x = np.array(inputs["x"], float)
    out = output_size(len(x), attrs["k"], 1, 0, 0)
    b = ir.Builder()
    g = b.input("g", f"f64[1, {out}, {out}]")
    b.output("J", b.conv_weight_grad(g, b.input("x", f"f64[1, 1, {len(x)}]"), (attrs["k"],)))
    given = {"g": np.eye(out)[None], "x": x[None, None]}
    return {"J": ir.interpret(b.build(), given)["J"][:, 0].T}


def ranks(attrs: Attrs, inputs: Numbers) -> Numbers:
    kernels = np.array(inputs["k"], float)[None]
    found = [np.linalg.matrix_rank(matrices[0]) for matrices in unfoldings(kernels)]
    return {"unfolding_ranks": found, "separable": beyond(kernels, 1) <= RANK_ONE["f64"]}


def outer(attrs: Attrs, inputs: Numbers) -> Numbers:
    return {"k": filters.outer(*(inputs[key] for key in sorted(inputs)))}


def gabor_image(attrs: Attrs, inputs: Numbers) -> Numbers:
    return {"w": gabor(attrs).on(attrs["xs"], attrs["ys"])}


def centroids(attrs: Attrs, inputs: Numbers) -> Numbers:
    points, start = (np.array(inputs[key], float) for key in ("patches", "init"))
    centres, labels = k_means(points, start, attrs["max_iter"])
    return {"centroids": centres, "labels": labels}


def seen_filter(attrs: Attrs, inputs: Numbers) -> Numbers:
    stimuli, responses = (np.array(inputs[key], float) for key in ("stimuli", "responses"))
    w: Array = reverse_correlation(stimuli, responses)
    return {"w": w}


COMPUTED: dict[str, Callable[[Attrs, Numbers], Numbers]] = {
    "output_size": size,
    "size_chain": size_chain,
    "transpose_sizes": transpose_sizes,
    "influence_counts": influence,
    "receptive_field": receptive_field,
    "fc_params": dense_parameters,
    "conv_params": conv_parameters,
    "connection_count": connection_count,
    "share_params": sharing,
    "separable_cost": separable_cost,
    "edge_cost": edge_cost,
    "conv_matrix": conv_matrix,
    "conv_jacobian_w": conv_jacobian,
    "kernel_rank": ranks,
    "outer": outer,
    "gabor": gabor_image,
    "kmeans": centroids,
    "reverse_correlation": seen_filter,
}
