"""What the tests of tuning share: small graphs, and what is chosen for them."""

import numpy as np

import convc
import ir
from convc.backend.target import target_named
from convc.tuning.records import Context
from tests.examples import select

HERE = Context.of(target_named(), 1)


def network(channels=32, size=10, pad=1, relu=True):
    """Two equal convolutions, and one of another kernel."""
    rng = np.random.default_rng(0)
    b = ir.Builder("network")
    h = b.input("x", ir.TensorType.parse(f"f32[1, {channels}, {size}, {size}]"))
    for number, kernel in enumerate((3, 3, 1)):
        shape = (channels, channels, kernel, kernel)
        w = b.weight(f"w{number}", rng.standard_normal(shape).astype(np.float32) / channels)
        h = b.conv(h, w, pad=pad if kernel == 3 else 0, name=f"conv{number}")
        h = b.relu(h, name=f"relu{number}") if relu else h
    b.output("y", h)
    return b.build()


def single(channels=32):
    """One convolution, and nothing else."""
    w = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    b = ir.Builder("single")
    x = b.input("x", ir.TensorType.parse(f"f32[1, {channels}, 14, 14]"))
    b.output("y", b.conv(x, b.weight("w", w), pad=1, name="y"))
    return b.build()


def names(graph, **how):
    """The chosen algorithms of a graph, by node."""
    chosen = select(graph, target_named(), **how)
    return {node: algorithm.name for node, algorithm in chosen.items()}


def options(graph, **how):
    return convc.compile(graph, 1, **how).options


def chosen_by(model):
    return {node: algorithm.name for node, algorithm in model.stages().algorithms.items()}
