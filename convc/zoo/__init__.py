"""Networks that are widely used, with weights drawn from a seed: to try, test and measure on.

``build("resnet50")`` makes one. Topologies and the names of weights are those of the papers and of
torchvision; what a dense layer multiplies by lies transposed, [inputs, outputs].
"""

from __future__ import annotations

from collections.abc import Callable

import ir
from convc.errors import InputError
from convc.zoo.chapter import classifier_adaptive, classifier_convolutional, classifier_fixed
from convc.zoo.layers import Net
from convc.zoo.plain import alexnet, lenet, squeezenet, vgg16
from convc.zoo.residual import densenet121, mobilenetv2, resnet18, resnet50
from convc.zoo.shapes import autoencoder, c3d, tcn, unet
from ir.errors import did_you_mean
from ir.types import described

Network = Callable[[Net, int | str], None]
NETWORKS: dict[str, Network] = {
    network.__name__: network
    for network in (
        lenet, alexnet, vgg16, resnet18, resnet50, mobilenetv2, squeezenet, densenet121,
        unet, tcn, c3d, autoencoder, classifier_fixed, classifier_adaptive,
        classifier_convolutional,
    )
}  # fmt: skip
NAMES = tuple(NETWORKS)
"""What ``build`` knows."""


def build(name: str, batch: int | str = 1, seed: int = 0) -> ir.Graph:
    """A network in float32: input ``x``, one output. ``batch`` may be a symbol such as "N".

    Raises ``InputError`` for a name that is none of ``NAMES``, and arguments of other types.
    """
    wanted = {
        "name of a network, such as 'lenet'": (name, isinstance(name, str)),
        "batch, a whole number or a symbol such as 'N'": (batch, isinstance(batch, int | str)),
        "seed, a whole number from 0 on": (seed, isinstance(seed, int) and seed >= 0),
    }
    for what, (given, fits) in wanted.items():
        if not fits:
            raise InputError(f"zoo.build takes the {what}; got {described(given)}")
    if name not in NETWORKS:
        hint = did_you_mean(name, NAMES) or f"; there are {', '.join(NAMES)}"
        raise InputError(f"no network {name!r} in the zoo{hint}")
    net = Net(name, seed)
    NETWORKS[name](net, batch)
    return net.build()
