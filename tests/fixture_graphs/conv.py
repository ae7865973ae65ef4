"""Convolutions of the fixtures."""

import numpy as np

import ir
from ir import filters
from tests.fixture_graphs.rules import Array, Attrs, Rule, Values, example, plain, single


def window(array: Array, attrs: Attrs) -> Array:
    """An operand of a dot product, which is a convolution with a single position."""
    return array.reshape((1,) * max(1, 3 - array.ndim) + array.shape)


def kernel(array: Array, attrs: Attrs) -> Array:
    """A kernel bank; those of a connection matrix stand dense in the fixtures, compact here."""
    return array[np.asarray(attrs["connections"], bool)] if "connections" in attrs else array


def local_kernel(array: Array, attrs: Attrs) -> Array:
    """Kernels [K, *out, C, *k]; under a connection matrix one row of them for each connection."""
    if "connections" not in attrs:
        return array
    by_channel = np.moveaxis(array, array.ndim // 2, 1)
    return by_channel[np.asarray(attrs["connections"], bool)]


def arguments(attrs: Attrs) -> Attrs:
    """What fixtures and builder write alike."""
    alike = ("stride", "pad", "flip", "boundary", "connections")
    return {key: attrs[key] for key in alike if key in attrs}


def emit_conv(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    conv = b.connected_conv if "connections" in attrs else b.conv
    y = conv(v["x"], v["k"], **arguments(attrs))
    if "bias_tile" in attrs:
        return b.tiled_bias(y, v["b"])
    return b.bias(y, v["b"]) if "b" in v else y


def emit_true_conv(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.conv(v["x"], v["w"], pad="full", flip=True)


def emit_local_conv(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    y = b.local_conv(v["x"], v["w"], **arguments(attrs))
    return b.bias(y, v["b"]) if "b" in v else y


def emit_tiled_conv(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    phase = attrs.get("phase", 0)
    y = b.tiled_conv(v["x"], v["k"], phase=phase, **arguments(attrs))
    return b.tiled_bias(y, v["b"], phase) if "b" in v else y


def emit_complex_cell(b: ir.Builder, v: Values, attrs: Attrs) -> Values:
    """Cells that see the whole image, so a position each."""
    halves = (half.on(attrs["xs"], attrs["ys"]) for half in gabor(attrs).quadrature())
    w = b.weight("filters", filters.bank(*halves, dtype="float64"))
    s = b.reshape(b.conv(v["image"], w), (1, 2, 1))
    c = b.reshape(b.complex_cells(v["image"], w), (1, 1, 1))
    return {"s0": b.slice(s, {1: (0, 1)}), "s1": b.slice(s, {1: (1, 2)}), "c": c}


def gabor(attrs: Attrs) -> filters.Gabor:
    return filters.Gabor(
        attrs["bx"], attrs["by"], attrs["f"], attrs["phi"], attrs["tau"], attrs["x0"], attrs["y0"],
        attrs["alpha"],
    )  # fmt: skip


def emit_stft(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    waves = b.weight("waves", filters.fourier_bank(attrs["frame"], dtype="float64"))
    return b.complex_cells(v["x"], waves, stride=attrs["hop"])


def emit_conv_transpose(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.conv_transpose(v["g"], v["k"], size=attrs["out_size"], **arguments(attrs))


def emit_conv_kernel_grad(b: ir.Builder, v: Values, attrs: Attrs) -> ir.Value:
    return b.conv_weight_grad(v["g"], v["x"], kernel=attrs["kernel"], **arguments(attrs))


RULES: dict[str, Rule] = {
    "conv": Rule(
        {"x": example, "k": kernel, "b": plain},
        example,
        emit_conv,
        frozenset({"stride", "pad", "batched", "connections", "flip", "boundary", "bias_tile"}),
    ),
    "true_conv": Rule({"x": single, "w": single}, single, emit_true_conv),
    "local_conv": Rule(
        {"x": example, "w": local_kernel, "b": plain},
        example,
        emit_local_conv,
        frozenset({"stride", "pad", "connections"}),
    ),
    "tiled_conv": Rule(
        {"x": example, "k": plain, "b": plain}, example, emit_tiled_conv, frozenset({"phase"})
    ),
    "complex_cell": Rule(
        {"image": single},
        example,
        emit_complex_cell,
        frozenset({"xs", "ys", "x0", "y0", "alpha", "bx", "by", "f", "phi", "tau"}),
    ),
    "stft_mag": Rule({"x": single}, example, emit_stft, frozenset({"frame", "hop"})),
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
