"""Classifiers that are one chain of layers, and SqueezeNet, whose links fork and join."""

from __future__ import annotations

from collections.abc import Iterable

from convc.zoo.layers import Net
from ir import Value


def lenet(net: Net, batch: int | str) -> None:
    """LeCun et al. 1998, as wide as in the Caffe examples, with relu: 1x28x28 to 10 classes."""
    x = net.image(batch, 1, 28, 28)
    for name, outer in (("conv1", 20), ("conv2", 50)):
        x = net.max_pool(net.then_relu(net.conv_layer(x, outer, 5, pad=0, name=name)), 2)
    x = net.then_relu(net.dense_layer(net.flatten(x), 500, name="ip1"))
    net.output("scores", net.dense_layer(x, 10, 1.0, name="ip2"))


def alexnet(net: Net, batch: int | str) -> None:
    """Krizhevsky 2014: 3x224x224 to 1000 classes."""
    x = net.image(batch, 3, 224, 224)
    x = net.then_relu(net.conv_layer(x, 64, 11, 4, pad=2, name="features.0"))
    x = net.max_pool(x, 3, 2)
    x = net.then_relu(net.conv_layer(x, 192, 5, name="features.3"))
    x = net.max_pool(x, 3, 2)
    for number, outer in ((6, 384), (8, 256), (10, 256)):
        x = net.then_relu(net.conv_layer(x, outer, name=f"features.{number}"))
    x = net.max_pool(x, 3, 2)
    _dense_head(net, net.flatten(x), (1, 4, 6))


def vgg16(net: Net, batch: int | str) -> None:
    """Simonyan and Zisserman 2014, configuration D: 3x224x224 to 1000 classes."""
    x = net.image(batch, 3, 224, 224)
    number = 0
    for repeats, outer in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            x = net.then_relu(net.conv_layer(x, outer, name=f"features.{number}"))
            number += 2
        x = net.max_pool(x, 2)
        number += 1
    _dense_head(net, net.flatten(x), (0, 3, 6))


def _dense_head(net: Net, x: Value, numbers: Iterable[int]) -> None:
    """Two layers of 4096 units and the scores of 1000 classes."""
    *hidden, last = numbers
    for number in hidden:
        x = net.then_relu(net.dense_layer(x, 4096, name=f"classifier.{number}"))
    net.output("scores", net.dense_layer(x, 1000, 1.0, name=f"classifier.{last}"))


def squeezenet(net: Net, batch: int | str) -> None:
    """Iandola et al. 2016, version 1.1: 3x224x224 to 1000 classes."""
    x = net.image(batch, 3, 224, 224)
    x = net.then_relu(net.conv_layer(x, 64, 3, 2, pad=0, name="features.0"))
    number = 2
    for stage in (((16, 64), (16, 64)), ((32, 128), (32, 128)),
                  ((48, 192), (48, 192), (64, 256), (64, 256))):  # fmt: skip
        x = net.max_pool(x, 3, 2, edge="partial")
        for inner, outer in stage:
            number += 1
            x = _fire(net, x, inner, outer, f"features.{number}")
        number += 1
    x = net.then_relu(net.conv_layer(x, 1000, 1, name="classifier.1"))
    net.output("scores", net.global_average(x))


def _fire(net: Net, x: Value, inner: int, outer: int, name: str) -> Value:
    """Few channels by a 1x1 convolution, from them many by 1x1 and as many by 3x3."""
    x = net.then_relu(net.conv_layer(x, inner, 1, name=f"{name}.squeeze"))
    parts = [
        net.then_relu(net.conv_layer(x, outer, kernel, name=f"{name}.expand{kernel}x{kernel}"))
        for kernel in (1, 3)
    ]
    return net.concat(parts, name=name)
