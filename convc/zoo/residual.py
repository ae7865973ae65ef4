"""Classifiers with batch normalisation whose layers read more than the layer before them."""

from __future__ import annotations

from collections.abc import Sequence

from convc.zoo.layers import Net, channels
from ir import Value

BRANCH = 0.3
"""What normalisation scales a branch by before it is added, so that sums of many stay small."""


def resnet18(net: Net, batch: int | str) -> None:
    """He et al. 2015: two 3x3 convolutions to a block; 3x224x224 to 1000 classes."""
    _resnet(net, batch, (2, 2, 2, 2), deep=False)


def resnet50(net: Net, batch: int | str) -> None:
    """He et al. 2015: 1x1, 3x3 (with the stride) and 1x1 to a block; 3x224x224 to 1000 classes."""
    _resnet(net, batch, (3, 4, 6, 3), deep=True)


def _resnet(net: Net, batch: int | str, repeats: Sequence[int], deep: bool) -> None:
    x = net.image(batch, 3, 224, 224)
    x = net.conv_layer(x, 64, 7, 2, bias=False, name="conv1")
    x = net.then_relu(net.norm_layer(x, name="bn1"))
    x = net.max_pool(x, 3, 2, pad=1)
    for stage, count in enumerate(repeats):
        for number in range(count):
            stride = 2 if stage and not number else 1
            x = _block(net, x, 64 << stage, stride, deep, f"layer{stage + 1}.{number}")
    net.output("scores", net.dense_layer(net.global_average(x), 1000, 1.0, name="fc"))


def _block(net: Net, x: Value, width: int, stride: int, deep: bool, name: str) -> Value:
    """relu(x + branch(x)); x goes through a convolution where its shape would not fit."""
    outer = 4 * width if deep else width
    kernels = ((width, 1, 1), (width, 3, stride), (outer, 1, 1))
    shallow = ((width, 3, stride), (width, 3, 1))
    layers = kernels if deep else shallow
    y = x
    for number, (width, kernel, step) in enumerate(layers, 1):
        last = number == len(layers)
        y = net.conv_layer(y, width, kernel, step, bias=False, gain=1.0 if last else 2.0,
                           name=f"{name}.conv{number}")  # fmt: skip
        y = net.norm_layer(y, BRANCH if last else 1.0, name=f"{name}.bn{number}")
        y = y if last else net.then_relu(y)
    if stride > 1 or x.shape[1] != outer:
        x = net.conv_layer(x, outer, 1, stride, bias=False, gain=1.0, name=f"{name}.downsample.0")
        x = net.norm_layer(x, name=f"{name}.downsample.1")
    return net.relu(net.add(y, x, name=name), name=f"{name}.relu")


MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
          (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
"""Of each stage: expansion, channels, blocks, stride of the first block."""


def mobilenetv2(net: Net, batch: int | str) -> None:
    """Sandler et al. 2018: depthwise convolutions between 1x1; 3x224x224 to 1000 classes."""
    x = net.image(batch, 3, 224, 224)
    x = _relu6(net, x, 32, 3, 2, 1, "features.0.0", "features.0.1")
    number = 0
    for expansion, outer, count, first in MOBILE:
        for repeat in range(count):
            number += 1
            stride = 1 if repeat else first
            x = _inverted(net, x, expansion, outer, stride, f"features.{number}.conv")
    x = _relu6(net, x, 1280, 1, 1, 1, "features.18.0", "features.18.1")
    net.output("scores", net.dense_layer(net.global_average(x), 1000, 1.0, name="classifier.1"))


def _inverted(net: Net, x: Value, expansion: int, outer: int, stride: int, name: str) -> Value:
    """Many channels by 1x1, depthwise 3x3, few channels by 1x1; plus x where that fits."""
    y, number = x, 0
    inner = channels(x) * expansion
    if expansion > 1:
        y = _relu6(net, y, inner, 1, 1, 1, f"{name}.0.0", f"{name}.0.1")
        number = 1
    y = _relu6(net, y, inner, 3, stride, inner, f"{name}.{number}.0", f"{name}.{number}.1")
    y = net.conv_layer(y, outer, 1, bias=False, gain=1.0, name=f"{name}.{number + 1}")
    same = stride == 1 and x.shape[1] == outer
    y = net.norm_layer(y, BRANCH if same else 1.0, name=f"{name}.{number + 2}")
    return net.add(x, y, name=name.removesuffix(".conv")) if same else y


def _relu6(
    net: Net, x: Value, outer: int, kernel: int, stride: int, groups: int, conv: str, norm: str
) -> Value:
    y = net.conv_layer(x, outer, kernel, stride, groups=groups, bias=False, name=conv)
    return net.clip(net.norm_layer(y, name=norm), 0.0, 6.0, name=f"{norm}.relu6")


def densenet121(net: Net, batch: int | str) -> None:
    """Huang et al. 2016: a layer reads all layers of its block; 3x224x224 to 1000 classes."""
    x = net.image(batch, 3, 224, 224)
    x = net.conv_layer(x, 64, 7, 2, bias=False, name="features.conv0")
    x = net.then_relu(net.norm_layer(x, name="features.norm0"))
    x = net.max_pool(x, 3, 2, pad=1)
    for block, count in enumerate((6, 12, 24, 16), 1):
        if block > 1:
            name = f"features.transition{block - 1}"
            x = net.average_pool(_normed_conv(net, x, channels(x) // 2, 1, name), 2)
        for number in range(1, count + 1):
            name = f"features.denseblock{block}.denselayer{number}"
            y = _normed_conv(net, x, 128, 1, name, "1")
            x = net.concat([x, _normed_conv(net, y, 32, 3, name, "2")], name=name)
    x = net.then_relu(net.norm_layer(x, name="features.norm5"))
    net.output("scores", net.dense_layer(net.global_average(x), 1000, 1.0, name="classifier"))


def _normed_conv(net: Net, x: Value, outer: int, kernel: int, name: str, number: str = "") -> Value:
    """Normalisation and relu before the convolution."""
    x = net.then_relu(net.norm_layer(x, name=f"{name}.norm{number}"))
    return net.conv_layer(x, outer, kernel, bias=False, name=f"{name}.conv{number}")
