"""Networks for other things than classes of images: labels of pixels, sound, video, codes."""

from __future__ import annotations

from convc.zoo.layers import Net, channels
from ir import Value


def unet(net: Net, batch: int | str) -> None:
    """Ronneberger et al. 2015, smaller and padded: 3x256x256 to scores of 2 classes per pixel."""
    x = net.image(batch, 3, 256, 256)
    skipped = []
    for level in range(3):
        x = _twice(net, x, 32 << level, f"down{level}")
        skipped.append(x)
        x = net.max_pool(x, 2)
    x = _twice(net, x, 256, "bottom")
    for level, skip in reversed(list(enumerate(skipped))):
        x = net.up_layer(x, 32 << level, name=f"up{level}.up")
        x = _twice(net, net.concat([skip, x]), 32 << level, f"up{level}")
    net.output("scores", net.conv_layer(x, 2, 1, gain=1.0, name="head"))


def _twice(net: Net, x: Value, outer: int, name: str) -> Value:
    for number in range(2):
        x = net.then_relu(net.conv_layer(x, outer, name=f"{name}.{number}"))
    return x


def tcn(net: Net, batch: int | str) -> None:
    """Bai et al. 2018 without branches: 1x16000, six causal convolutions dilated 1 to 32."""
    x = net.image(batch, 1, 16000)
    for number in range(6):
        dilation = 1 << number
        x = net.conv_layer(x, 64, 9, pad=[(8 * dilation, 0)], dilation=dilation,
                           name=f"conv{number}")  # fmt: skip
        x = net.then_relu(x)
    net.output("features", x)


def c3d(net: Net, batch: int | str) -> None:
    """Tran et al. 2014 with three convolutions in place of eight: 3x16x56x56 to 101 classes."""
    x = net.image(batch, 3, 16, 56, 56)
    for number, (outer, window) in enumerate(((32, (1, 2, 2)), (64, (2, 2, 2)), (128, (2, 2, 2)))):
        x = net.then_relu(net.conv_layer(x, outer, name=f"conv{number}"))
        x = net.max_pool(x, window)
    net.output("scores", net.dense_layer(net.global_average(x), 101, 1.0, name="fc"))


def autoencoder(net: Net, batch: int | str) -> None:
    """1x28x28 to a code of 32x7x7 and back through the same kernels, transposed.

    Goodfellow et al. 2016, equation 9.14 in two layers.
    """
    x = net.image(batch, 1, 28, 28)
    first = net.drawn("conv1.weight", (16, 1, 3, 3), 2 / 9)
    second = net.drawn("conv2.weight", (32, 16, 3, 3), 2 / (16 * 9))
    hidden = _encoded(net, x, first, "conv1")
    code = _encoded(net, hidden, second, "conv2")
    back = net.conv_transpose(code, second, (14, 14), 2, 1, name="up2.conv")
    back = net.then_relu(net.biased(back, 16, "up2"))
    back = net.conv_transpose(back, first, (28, 28), 2, 1, name="up1.conv")
    net.output("image", net.logistic(net.biased(back, 1, "up1")))


def _encoded(net: Net, x: Value, w: Value, name: str) -> Value:
    y = net.conv(x, w, 2, 1, name=f"{name}.conv")
    return net.then_relu(net.biased(y, channels(y), name))
