"""The three classifiers of Goodfellow et al. 2016, figure 9.11: of one size, of any size, and
without a dense layer."""

from __future__ import annotations

from convc.zoo.layers import Net
from ir import Value

CLASSES = 1000


def classifier_fixed(net: Net, batch: int | str) -> None:
    """3x256x256 to probabilities: the dense layer reads 16384 numbers, so the size is fixed."""
    x = _features(net, net.image(batch, 3, 256, 256))
    x = net.flatten(net.max_pool(x, 4))
    net.output("probabilities", net.softmax(net.dense_layer(x, CLASSES, 1.0, name="dense")))


def classifier_adaptive(net: Net, batch: int | str) -> None:
    """3xHxW to probabilities: whatever the size, pooling leaves 3x3 regions, 576 numbers."""
    x = _features(net, net.image(batch, 3, "H", "W"))
    x = net.flatten(net.adaptive_pool(x, 3))
    net.output("probabilities", net.softmax(net.dense_layer(x, CLASSES, 1.0, name="dense")))


def classifier_convolutional(net: Net, batch: int | str) -> None:
    """3xHxW to probabilities: a map for each class, and the mean of each map."""
    x = net.max_pool(_features(net, net.image(batch, 3, "H", "W")), 4)
    x = net.conv_layer(x, CLASSES, gain=1.0, name="classes")
    net.output("probabilities", net.softmax(net.global_average(x)))


def _features(net: Net, x: Value) -> Value:
    x = net.max_pool(net.then_relu(net.conv_layer(x, 64, name="conv1")), 4)
    return net.then_relu(net.conv_layer(x, 64, name="conv2"))
