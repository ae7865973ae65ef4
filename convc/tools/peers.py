"""The same networks in other engines, for side-by-side measurements; each needs its package."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import ir
from convc.errors import MissingExtraError
from convc.tools.timing import Call

INSTALL = {
    "onnx": 'pip install "convc[bench]"',
    "onnxruntime": 'pip install "convc[bench]"',
    "torch": "pip install torch (the CPU build)",
}


def needed(package: str) -> ModuleType:
    """Import a package of an extra; ``MissingExtraError`` says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed: {INSTALL[package]}") from error


def onnxruntime_lenet(graph: ir.Graph, x: npt.NDArray[Any], threads: int) -> Call:
    """A call of ``convc.train.lenet``'s network in ONNX Runtime."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(_onnx_lenet(graph), options)
    return lambda: session.run(None, {"x": x})[0]


def _onnx_lenet(graph: ir.Graph) -> bytes:
    onnx = needed("onnx")
    make = onnx.helper.make_node
    nodes, value = [], "x"
    for number in (1, 2):
        conv = [value, f"conv{number}.weight", f"conv{number}.bias"]
        nodes += [
            make("Conv", conv, [f"conv{number}"]),
            make("Relu", [f"conv{number}"], [f"relu{number}"]),
            make("MaxPool", [f"relu{number}"], [f"pool{number}"],
                 kernel_shape=[2, 2], strides=[2, 2]),
        ]  # fmt: skip
        value = f"pool{number}"
    nodes += [
        make("Flatten", [value], ["flat"]),
        make("Gemm", ["flat", "dense1.weight", "dense1.bias"], ["dense1"]),
        make("Relu", ["dense1"], ["hidden"]),
        make("Gemm", ["hidden", "dense2.weight", "dense2.bias"], ["scores"]),
    ]
    info = onnx.helper.make_tensor_value_info
    shapes = {name: graph.types[name].static_shape for name in graph.inputs}
    weights = [onnx.numpy_helper.from_array(np.array(a), n) for n, a in graph.weights.items()]
    built = onnx.helper.make_graph(
        nodes, "lenet",
        [info("x", onnx.TensorProto.FLOAT, shapes["x"])],
        [info("scores", onnx.TensorProto.FLOAT, graph.types[graph.outputs["scores"]].static_shape)],
        weights,
    )  # fmt: skip
    model = onnx.helper.make_model(built, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def torch_lenet(graph: ir.Graph, x: npt.NDArray[Any], threads: int) -> Call:
    """A call of the network in PyTorch, in inference mode."""
    torch = needed("torch")
    torch.set_num_threads(threads)
    w = {name: torch.from_numpy(np.array(array)) for name, array in graph.weights.items()}
    image, f = torch.from_numpy(x), torch.nn.functional

    def call() -> Any:
        with torch.inference_mode():
            value = image
            for number in (1, 2):
                value = f.conv2d(value, w[f"conv{number}.weight"], w[f"conv{number}.bias"])
                value = f.max_pool2d(f.relu(value), 2)
            hidden = f.relu(value.flatten(1) @ w["dense1.weight"] + w["dense1.bias"])
            return (hidden @ w["dense2.weight"] + w["dense2.bias"]).numpy()

    return call
