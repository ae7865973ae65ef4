"""The same graphs in other engines, for side-by-side measurements; each needs its package."""

from __future__ import annotations

from collections.abc import Sequence

import ir
from convc.tools.peers import onnx, torch
from convc.tools.peers.base import Inputs, UntranslatableError
from convc.tools.peers.packages import needed
from convc.tools.timing import Call

__all__ = ["PACKAGES", "PEERS", "contender", "needed", "require"]
PACKAGES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "torch": ("torch",),
    "torch_nhwc": ("torch",),
}
PEERS = tuple(PACKAGES)


def contender(peer: str, graph: ir.Graph, inputs: Inputs, threads: int) -> Call | None:
    """A call that computes the only output of a static graph, or None if the peer cannot.

    Composite ops that the peer lacks are written out. Raises ``MissingExtraError`` where a
    package is missing.
    """
    require([peer])
    for form in (graph, ir.expand(graph)):
        try:
            if peer.startswith("torch"):
                return torch.contender(form, inputs, threads, peer == "torch_nhwc")
            make = onnx.onnxruntime if peer == "onnxruntime" else onnx.openvino
            return make(onnx.onnx_model(form), inputs, threads)
        except UntranslatableError:
            continue
    return None


def require(peers: Sequence[str]) -> None:
    """Raise ``MissingExtraError`` unless the packages of these peers are there."""
    for peer in peers:
        for package in PACKAGES[peer]:
            needed(package)
