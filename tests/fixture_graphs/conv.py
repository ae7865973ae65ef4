"""Convolutions of the fixtures."""

import numpy as np

import ir
from tests.fixture_graphs.rules import Array, Attrs, Rule, Values, example, geometry, plain


def window(array: Array, attrs: Attrs) -> Array:
    """An operand of a dot product, which is a convolution with a single position."""
    return array.reshape((1,) * max(1, 3 - array.ndim) + array.shape)


def kernel(array: Array, attrs: Attrs) -> Array:
    """A kernel bank; the fixtures store grouped ones dense, with blocks that are never read."""
    if "connections" not in attrs:
        return array
    groups = groups_of(attrs["connections"])
    blocks = array.reshape(groups, array.shape[0] // groups, groups, -1, *array.shape[2:])
    return np.concatenate([row[:, column] for column, row in enumerate(blocks)])


def bias(array: Array, attrs: Attrs) -> Array:
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


def emit_conv(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    groups = groups_of(attrs["connections"]) if "connections" in attrs else 1
    y = b.conv(v["x"], v["k"], groups=groups, **geometry(attrs))
    if "b" not in v:
        return y
    return b.bias(y, v["b"]) if len(v["b"].shape) == 1 else y + v["b"]


def emit_conv_transpose(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.conv_transpose(v["k"], v["g"], size=attrs["out_size"], **geometry(attrs))


def emit_conv_kernel_grad(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.conv_weight_grad(v["g"], v["x"], kernel=attrs["kernel"], **geometry(attrs))


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
    "dot": Rule({"a": window, "b": window}, example, lambda b, v, attrs: b.conv(v["a"], v["b"])),
}

NOT_YET = {
    name: reason
    for reason, names in {
        "a Jacobian matrix as an output": "n004.conv_jacobian_k4_n6",
        "a size, count or cost: no tensors": """
            n001.transpose_sizes n001.transpose_sizes_s3 n001.fig9.13.valid n001.fig9.13.padded
            n001.influence.valid n001.influence.same n001.influence.full
            n001.receptive_field.fig9.4 n001.receptive_field.strided n004.params.fc5x5
            n004.params.conv3x3 n004.params.k2plus1 n001.fig9.11.fc_units n002.connection_count
            n001.fig9.15.count n001.fig9.6.cost n001.fig9.14.params n001.sparse_cost
            n001.separable.cost_w3_d2 n001.separable.cost_w2_d2 n001.separable.cost_w5_d3""",
        "circular boundary": "n001.circular_conv n001.doubly_block_circulant",
        "flipped kernels": """
            n001.flip_stride_pad n001.causal_smoothing n001.conv2d_flipped n001.conv2d_commuted
            n001.toeplitz_flipped_valid""",
        "a convolution as a matrix": "n001.fig9.2_9.3.matrix n001.doubly_block_toeplitz",
        "connections that are no equal groups": "n002.connection_matrix n002.full_network",
        "bias tiled over positions": "n001.bias_tiled",
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
    }.items()
    for name in names.split()
}
