"""Networks of Goodfellow et al. 2016, chapter 9: of any size, with shared weights, with gradients.

Every one is run native beside the interpreter, results and gradients alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import convc
import ir
from convc.regions import connected_parts
from convc.train import Trainer
from ir.filters import Gabor, quadrature_bank
from ir.types import Array

Arrays = dict[str, Array]


class Net(ir.Builder):
    """A builder that draws weights."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.rng = np.random.default_rng(len(name))

    def drawn(self, name: str, *shape: int) -> ir.Value:
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        return self.weight(name, (scale * self.rng.standard_normal(shape)).astype(np.float32))

    def layer(self, x: ir.Value, channels: int, kernel: int = 3, **how: object) -> ir.Value:
        """Convolution, bias, rectifier: the linear stage and the detector stage."""
        axes = x.type.rank - 2
        w = self.drawn(self.fresh("w"), channels, int(x.shape[1]), *(kernel,) * axes)  # type: ignore[call-overload]
        y = self.conv(x, w, **{"pad": "same", **how})  # type: ignore[arg-type]
        return self.relu(self.bias(y, self.drawn(self.fresh("b"), channels)))

    def classes(self, x: ir.Value, count: int) -> ir.Value:
        return self.softmax(self.dense(x, self.drawn("dense", int(x.shape[1]), count)))  # type: ignore[call-overload]


def agree(graph: ir.Graph, inputs: Arrays, model: convc.Model | None = None) -> Arrays:
    """The native results, which are the interpreter's in float64 but for rounding."""
    got = (model or convc.compile(graph, 1)).run(inputs)
    for name, want in ir.interpret(graph, inputs, dtype="float64").items():
        scale = np.max(np.abs(want), initial=1.0)
        assert got[name].shape == want.shape, name
        np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-4 * scale, err_msg=name)
    return got


def with_gradients(graph: ir.Graph, inputs: Arrays) -> Arrays:
    """`agree` for a network and its gradient in all weights, for some upstream."""
    rng = np.random.default_rng(3)
    types = graph.bind(ir.check_inputs(graph, inputs)).types if graph.symbols else graph.types
    back = ir.vjp(graph, [name for name in graph.weights if graph.types[name].dtype.is_float])
    upstream = {
        f"grad_{name}": rng.standard_normal(types[value].static_shape).astype(np.float32)
        for name, value in graph.outputs.items()
        if types[value].dtype.is_float
    }
    return agree(back, inputs | upstream)


def image(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- figure 9.11: classifiers


def features(net: Net, x: ir.Value) -> ir.Value:
    return net.layer(net.max_pool(net.layer(x, 64), 4), 64)


def adaptive_classifier() -> ir.Graph:
    """Figure 9.11, centre: 3x3 statistics per channel, 576 units, whatever the size."""
    net = Net("adaptive_classifier")
    x = net.adaptive_pool(features(net, net.input("x", "f32[N, 3, H, W]")), 3)
    flat = net.flatten(x)
    assert flat.shape[1] == 576
    net.output("probabilities", net.classes(flat, 10))
    return net.build()


def dense_free_classifier() -> ir.Graph:
    """Figure 9.11, right: a map per class, then its mean."""
    net = Net("dense_free_classifier")
    x = net.max_pool(features(net, net.input("x", "f32[N, 3, H, W]")), 4)
    maps = net.conv(x, net.drawn("classes", 10, 64, 1, 1))
    net.output("probabilities", net.softmax(net.flatten(net.global_average_pool(maps))))
    return net.build()


@pytest.mark.parametrize("make", [adaptive_classifier, dense_free_classifier])
def test_one_set_of_weights_classifies_images_of_many_sizes(
    make: Callable[[], ir.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_SPECIALISATIONS", "2")
    graph = make()
    model = convc.compile(graph, 1)
    for shape in ((2, 3, 16, 16), (1, 3, 17, 40), (3, 3, 29, 16), (1, 3, 16, 16)):
        got = agree(graph, {"x": image(*shape)}, model)["probabilities"]
        np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
        assert len(model._special) <= 2  # code for the last sizes only is kept
    assert not graph.bind({"N": 1, "H": 16, "W": 40}).symbols


def test_a_classifier_of_any_size_has_gradients() -> None:
    graph = adaptive_classifier()
    for shape in ((2, 3, 13, 16), (1, 3, 20, 15)):
        with_gradients(graph, {"x": image(*shape)})


def test_pixel_labels_scale_with_the_image() -> None:
    """Unit stride everywhere, pooling too: a label for each pixel, and the regions they make."""
    net = Net("pixels")
    x = net.layer(net.input("x", "f32[N, 3, H, W]"), 8)
    x = net.layer(net.max_pool(x, 3, stride=1, pad="same"), 8)
    net.output("labels", net.softmax(net.conv(x, net.drawn("classes", 5, 8, 1, 1)), axis=1))
    graph = net.build()
    for shape in ((1, 3, 7, 9), (2, 3, 12, 5)):
        got = with_gradients(graph, {"x": image(*shape)})["labels"]
        assert got.shape == (shape[0], 5, *shape[2:])
        regions = connected_parts(got[0].argmax(0))
        assert regions.shape == shape[2:] and regions.max() < np.prod(shape[2:])


# ---------------------------------------------------------------- shared weights


def untied(graph: ir.Graph, name: str) -> tuple[ir.Graph, list[str]]:
    """The graph with an input of its own for each use of the weight `name`."""
    copies, nodes = [], []
    for node in graph.nodes:
        operands = list(node.inputs)
        for place, value in enumerate(operands):
            if value == name:
                operands[place] = f"{name}.{len(copies)}"
                copies.append(operands[place])
        nodes.append(ir.Node(node.op, tuple(operands), node.outputs))
    weights = {copy: graph.weights[name] for copy in copies}
    rest = {other: array for other, array in graph.weights.items() if other != name}
    return graph.replace(nodes=tuple(nodes), weights={**rest, **weights}), copies


def assert_gradients_of_uses_add_up(graph: ir.Graph, inputs: Arrays, **uses: int) -> None:
    got = with_gradients(graph, inputs)
    for name, count in uses.items():
        apart, copies = untied(graph, name)
        assert len(copies) == count
        parts = with_gradients(apart, inputs)
        total = sum(parts[f"grad_{copy}"] for copy in copies)
        np.testing.assert_allclose(got[f"grad_{name}"], total, rtol=1e-3, atol=1e-4)


def recurrent(steps: int, labelled: bool = False) -> ir.Graph:
    """Figure 9.17: labels of pixels, refined by looking at the labels before."""
    net = Net("recurrent")
    x = net.input("x", "f32[N, 2, H, W]")
    u, v, w = (net.drawn(name, *shape, 3, 3)
               for name, shape in (("u", (4, 2)), ("v", (3, 4)), ("w", (4, 3))))  # fmt: skip
    seen = net.bias(net.conv(x, u, pad="same"), net.drawn("bias", 4))
    hidden = net.tanh(seen)
    for _ in range(steps - 1):
        guess = net.softmax(net.conv(hidden, v, pad="same"), axis=1)
        hidden = net.tanh(seen + net.conv(guess, w, pad="same"))
    scores = net.conv(hidden, v, pad="same")
    net.output("labels", net.softmax(scores, axis=1))
    if labelled:
        net.output("loss", net.softmax_cross_entropy(scores, net.input("truth", "i64[N, H, W]")))
    return net.build()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_of_a_recurrent_network_share_their_kernels(steps: int) -> None:
    inputs = {"x": image(2, 2, 5, 7)}
    assert_gradients_of_uses_add_up(recurrent(steps), inputs, u=1, v=steps, w=steps - 1)


def test_a_recurrent_network_learns_to_label_pixels() -> None:
    x = image(4, 2, 8, 8)
    truth = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 1)
    trainer = Trainer(recurrent(3, labelled=True), threads=1)
    losses = [trainer.step({"x": x, "truth": truth}, 0.05) for _ in range(80)]
    assert losses[-1] < 0.4 * losses[0]
    labels = convc.compile(trainer.trained(), 1).run({"x": x, "truth": truth})["labels"]
    assert np.mean(labels.argmax(1) == truth) > 0.9


def test_an_autoencoder_uses_one_kernel_both_ways() -> None:
    """Equation 9.14: the decoder is the transpose of the encoder, its gradient their sum."""
    net = Net("tied_autoencoder")
    x = net.input("x", "f32[N, 1, 9, 9]")
    k = net.drawn("k", 5, 1, 3, 3)
    code = net.tanh(net.conv(x, k, stride=2))
    net.output("loss", net.squared_loss(net.conv_transpose(code, k, (9, 9), stride=2), x))
    graph = net.build()
    assert_gradients_of_uses_add_up(graph, {"x": image(3, 1, 9, 9)}, k=2)
    trainer = Trainer(graph, momentum=0.5, threads=1)
    losses = [trainer.step({"x": image(3, 1, 9, 9)}, 1e-3) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


def test_two_images_go_through_the_same_layers() -> None:
    net = Net("siamese")
    pair = net.input("left", "f32[2, 3, 6, 5]"), net.input("right", "f32[2, 3, 4, 7]")
    w, b = net.drawn("w", 4, 3, 3, 3), net.drawn("b", 4)
    codes = [net.global_max_pool(net.relu(net.bias(net.conv(x, w), b))) for x in pair]
    net.output("distance", net.squared_loss(*codes))
    inputs = {"left": image(2, 3, 6, 5), "right": image(2, 3, 4, 7, seed=1)}
    assert_gradients_of_uses_add_up(net.build(), inputs, w=2, b=2)


# ---------------------------------------------------------------- other kinds of pooling


def maxout(net: Net) -> ir.Value:
    x = net.input("x", "f32[N, 2, 9, 8]")
    return net.max_pool(net.channel_pool(net.conv(x, net.drawn("w", 12, 2, 3, 3)), 3), 2)


def v1(net: Net) -> ir.Value:
    """Simple cells, complex cells, pooling over places: twice."""
    gabors = [Gabor(0.2, 0.2, 1.5, orientation=angle) for angle in (0.0, 0.8, 1.6)]
    bank = net.weight("bank", quadrature_bank(gabors, 5))
    cells = net.complex_cells(net.input("x", "f32[N, 1, 20, 20]"), bank, pad="same")
    pooled = net.lp_pool(cells, 2)
    second = net.complex_cells(pooled, net.drawn("second", 8, 3, 3, 3))
    return net.average_pool(second, 3, edge="partial")


def time_delay(net: Net) -> ir.Value:
    x = net.layer(net.input("x", "f32[N, 5, T]"), 8, 5, pad=0, stride=2)
    return net.classes(net.flatten(net.adaptive_pool(net.layer(x, 6, 3), 4)), 3)


def unshared(net: Net) -> ir.Value:
    x = net.input("x", "f32[N, 2, 9, 9]")
    local = net.relu(net.local_conv(x, net.drawn("local", 4, 7, 7, 2, 3, 3)))
    tiled = net.relu(net.tiled_conv(local, net.drawn("tiled", 6, 4, 2, 2, 2, 2)))
    return net.max_pool(tiled, 2)


def anti_aliased(net: Net) -> ir.Value:
    x = net.layer(net.input("x", "f32[N, 3, 12, 10]"), 6)
    return net.max_blur_pool(net.max_blur_pool(x, 2), 3)


def mixed(net: Net) -> ir.Value:
    x = net.layer(net.input("x", "f32[N, 2, 8, 8]"), 8)
    pooled, kept = net.split(x, (3, 5))
    return net.concat([net.distance_pool(pooled, 3, stride=1, pad="same"), kept])


def normalised(net: Net) -> ir.Value:
    x = net.layer(net.input("x", "f32[N, 3, 9, 7]"), 8)
    by = [net.drawn(name, 8) for name in ("scale", "shift")]
    x = net.relu(net.group_norm(x, 4, *by))
    small = net.average_pool(x, 3, 2, 1, divisor="padded")
    return net.concat([x, net.resize(small, size=(9, 7), mode="linear")])


def scaled_sums(net: Net) -> ir.Value:
    x = net.tanh(net.conv(net.input("x", "f32[N, 1, 8, 8]"), net.drawn("w", 4, 1, 3, 3)))
    return net.tanh(net.bias(net.sum_pool(x, 2, net.drawn("gain", 4)), net.drawn("b", 4)))


def switched(net: Net) -> ir.Value:
    """Down by maxima, up to where they were."""
    x = net.layer(net.input("x", "f32[N, 3, 8, 6]"), 5)
    switches = net.max_pool_indices(x, 2)
    return net.conv(
        net.max_unpool(net.max_pool(x, 2), switches, (8, 6)), net.drawn("up", 3, 5, 1, 1)
    )


NETWORKS = [
    maxout,
    v1,
    time_delay,
    unshared,
    anti_aliased,
    mixed,
    normalised,
    scaled_sums,
    switched,
]


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_networks_and_their_gradients_run_native(
    make: Callable[[Net], ir.Value], batch: int
) -> None:
    net = Net(make.__name__)
    net.output("y", make(net))
    graph = net.build()
    shape = graph.inputs["x"].bind({"N": batch, "T": 33}).static_shape
    with_gradients(graph, {"x": image(*shape)})


def test_statistics_pooled_for_each_quadrant_ignore_where_in_it_a_feature_lies() -> None:
    net = Net("quadrants")
    net.output("y", net.adaptive_pool(net.input("x", "f32[N, 1, H, W]"), 2))
    model = convc.compile(net.build(), 1)
    x = np.zeros((1, 1, 8, 10), np.float32)
    x[0, 0, 1, 7] = 5
    for rows, columns in ((0, 0), (2, 1), (-1, -2)):
        got = model(np.roll(x, (rows, columns), (2, 3)))
        assert got.ravel().tolist() == [0, 5, 0, 0]
    assert model(np.roll(x, 4, 2)).ravel().tolist() == [0, 0, 0, 5]


def test_half_of_the_pools_change_where_all_detectors_do() -> None:
    """Figure 9.8: pooling is nearly invariant to a shift by one."""
    detectors = np.array([0.3, 0.1, 1.0, 0.2, 0.1], np.float32)
    b = ir.Builder("pools")
    x = b.input("x", "f32[1, 1, 4]")
    b.output("y", b.max_pool(x, 3, stride=1, pad="same"))
    model = convc.compile(b.build(), 1)
    before, after = (model(part[None, None]) for part in (detectors[1:], detectors[:4]))
    assert np.all(detectors[1:] != detectors[:4])
    assert np.mean(before != after) == 0.5
