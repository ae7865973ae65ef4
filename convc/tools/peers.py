"""The same graphs in other engines, for side-by-side measurements; each needs its package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import ir
from convc.errors import MissingExtraError
from convc.tools.timing import Call
from ir import ops
from ir.ops.conv import ConvAttributes

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = Mapping[str, Array]
INSTALL = {
    "onnx": 'pip install "convc[bench,onnx]"',
    "onnxruntime": 'pip install "convc[bench,onnx]"',
    "openvino": 'pip install "convc[bench,onnx]"',
    "torch": "pip install torch (the CPU build)",
}
PACKAGES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "torch": ("torch",),
    "torch_nhwc": ("torch",),
}
PEERS = tuple(PACKAGES)


def contender(peer: str, graph: ir.Graph, inputs: Inputs, threads: int) -> Call | None:
    """A call that computes the only output of a static graph, or None if the peer cannot.

    Raises ``MissingExtraError`` where a package is missing.
    """
    require([peer])
    parts = steps(graph)
    if peer in ("torch", "torch_nhwc"):
        channels_last = peer == "torch_nhwc"
        if channels_last and any(type.rank in (3, 5) for type in graph.types.values()):
            return None
        return _torch(graph, parts, inputs, threads, channels_last)
    if not all(type(step.op) in ONNX for step in parts):
        return None
    make = _onnxruntime if peer == "onnxruntime" else _openvino
    return make(onnx_model(graph, parts), inputs, threads)


def require(peers: Sequence[str]) -> None:
    """Raise ``MissingExtraError`` unless the packages of these peers are there."""
    for peer in peers:
        for package in PACKAGES[peer]:
            needed(package)


def needed(package: str) -> ModuleType:
    """Import a package of an extra; ``MissingExtraError`` says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed: {INSTALL[package]}") from error


@dataclass(frozen=True)
class Step:
    """A node, with the bias after it if engines take that as one more operand."""

    op: ir.Op
    operands: tuple[str, ...]
    result: str


def steps(graph: ir.Graph) -> list[Step]:
    """The nodes in order, biases folded into what they follow."""
    made: list[Step] = []
    for node in graph.nodes:
        last = made[-1] if made else None
        if (
            isinstance(node.op, ops.Bias)
            and last is not None
            and isinstance(last.op, ops.Conv | ops.Dense)
            and last.result == node.inputs[0]
            and graph.consumers(last.result) == (node,)
        ):
            made[-1] = Step(last.op, (*last.operands, node.inputs[1]), node.name)
        else:
            made.append(Step(node.op, node.inputs, node.name))
    return made


# ---------------------------------------------------------------- ONNX: two engines read it


def _onnxruntime(model: bytes, inputs: Inputs, threads: int) -> Call:
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = dict(inputs)
    return lambda: session.run(None, given)[0]


def _openvino(model: bytes, inputs: Inputs, threads: int) -> Call:
    core = needed("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    given = dict(inputs)
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)[0]


def onnx_model(graph: ir.Graph, parts: Sequence[Step]) -> bytes:
    """A static graph as an ONNX model; its ops must be among ``ONNX``."""
    onnx = needed("onnx")
    weights = dict(graph.weights)
    nodes = []
    for step in parts:
        kind, more, attributes = ONNX[type(step.op)](graph, step)
        extra = [f"{step.result}.{number}" for number in range(len(more))]
        weights.update(zip(extra, more, strict=True))
        names = _onnx_order(step)
        nodes.append(onnx.helper.make_node(kind, [*names, *extra], [step.result], **attributes))
    info, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    built = onnx.helper.make_graph(
        nodes, "graph",
        [info(name, floats, type.static_shape) for name, type in graph.inputs.items()],
        [info(name, floats, graph.types[name].static_shape) for name in graph.outputs.values()],
        [onnx.numpy_helper.from_array(np.array(a), name) for name, a in weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(built, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def _onnx_order(step: Step) -> tuple[str, ...]:
    """ConvTranspose takes the image first."""
    return step.operands[::-1] if isinstance(step.op, ops.ConvInputGrad) else step.operands


Translated: TypeAlias = tuple[str, tuple[Array, ...], dict[str, Any]]
"""An ONNX operator, arrays it takes as further inputs, its attributes."""


def _onnx_conv(graph: ir.Graph, step: Step) -> Translated:
    assert isinstance(step.op, ConvAttributes)
    op = step.op
    attributes: dict[str, Any] = {
        "strides": op.stride,
        "pads": [lo for lo, _ in op.pads] + [hi for _, hi in op.pads],
        "dilations": op.dilation,
        "group": op.groups,
    }
    if isinstance(op, ops.Conv):
        return "Conv", (), attributes
    return "ConvTranspose", (), {**attributes, "output_padding": unread(graph, step)}


def unread(graph: ir.Graph, step: Step) -> list[int]:
    """Cells at the high end of a transposed convolution's result beyond the smallest result."""
    op = step.op
    assert isinstance(op, ops.ConvInputGrad)
    w, g = (graph.types[name].static_shape[2:] for name in step.operands)
    size = graph.types[step.result].static_shape[2:]
    axes = zip(size, g, w, op.stride, op.pads, op.dilation, strict=True)
    return [n - ((m - 1) * s - lo - hi + (k - 1) * d + 1) for n, m, k, s, (lo, hi), d in axes]


def _onnx_pool(graph: ir.Graph, step: Step) -> Translated:
    op = step.op
    assert isinstance(op, ops.MaxPool)
    assert op.edge == "drop"
    pads = [lo for lo, _ in op.pads] + [hi for _, hi in op.pads]
    attributes = {"kernel_shape": op.window, "strides": op.stride, "pads": pads}
    return "MaxPool", (), {**attributes, "dilations": op.dilation}


def _onnx_reshape(graph: ir.Graph, step: Step) -> Translated:
    return "Reshape", (np.array(graph.types[step.result].static_shape, np.int64),), {}


ONNX: dict[type[ir.Op], Callable[[ir.Graph, Step], Translated]] = {
    ops.Conv: _onnx_conv,
    ops.ConvInputGrad: _onnx_conv,
    ops.MaxPool: _onnx_pool,
    ops.Reshape: _onnx_reshape,
    ops.Relu: lambda graph, step: ("Relu", (), {}),
    ops.Dense: lambda graph, step: ("Gemm", (), {}),
}


# ---------------------------------------------------------------- PyTorch

Tensors: TypeAlias = Callable[..., Any]


def _torch(
    graph: ir.Graph, parts: Sequence[Step], inputs: Inputs, threads: int, channels_last: bool
) -> Call | None:
    torch = needed("torch")
    if not all(type(step.op) in TORCH for step in parts):
        return None
    torch.set_num_threads(threads)
    form = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(array: Array) -> Any:
        made = torch.from_numpy(np.array(array))
        return made.contiguous(memory_format=form) if made.ndim == 4 else made

    known = {name: tensor(array) for name, array in {**graph.weights, **inputs}.items()}
    todo = [(TORCH[type(s.op)](torch, graph, s, form), s.operands, s.result) for s in parts]
    (output,) = graph.outputs.values()

    def call() -> Any:
        values = dict(known)
        with torch.inference_mode():
            for function, operands, result in todo:
                values[result] = function(*[values[name] for name in operands])
            return values[output].numpy()

    return call


def _torch_conv(torch: ModuleType, graph: ir.Graph, step: Step, form: Any) -> Tensors:
    assert isinstance(step.op, ConvAttributes)
    op, axes = step.op, len(step.op.stride)
    pads = _symmetric(op)
    if isinstance(op, ops.Conv):
        conv = getattr(torch.nn.functional, f"conv{axes}d")
        return lambda x, w, bias=None: conv(x, w, bias, op.stride, pads, op.dilation, op.groups)
    if isinstance(op, ops.ConvInputGrad) and step.operands[0] in graph.weights:
        transposed = getattr(torch.nn.functional, f"conv_transpose{axes}d")
        more = unread(graph, step)
        return lambda w, g: transposed(g, w, None, op.stride, pads, more, op.groups, op.dilation)
    return _torch_backward(torch, graph, step, form)


def _torch_backward(torch: ModuleType, graph: ir.Graph, step: Step, form: Any) -> Tensors:
    """One of the two gradients, as autograd computes it; of its own operand it reads the shape."""
    assert isinstance(step.op, ConvAttributes)
    shape = graph.types[step.result].static_shape
    own = torch.empty(shape)
    own = own.contiguous(memory_format=form) if own.ndim == 4 else own
    op, pads, zeros = step.op, _symmetric(step.op), [0] * len(step.op.stride)
    rest = (None, op.stride, pads, op.dilation, False, zeros, op.groups)
    backward = torch.ops.aten.convolution_backward
    if isinstance(op, ops.ConvInputGrad):
        return lambda w, g: backward(g, own, w, *rest, [True, False, False])[0]
    return lambda g, x: backward(g, x, own, *rest, [False, True, False])[1]


def _symmetric(op: ConvAttributes) -> list[int]:
    assert all(lo == hi for lo, hi in op.pads), "PyTorch pads both ends alike"
    return [lo for lo, _ in op.pads]


def _torch_pool(torch: ModuleType, graph: ir.Graph, step: Step, form: Any) -> Tensors:
    op = step.op
    assert isinstance(op, ops.MaxPool)
    assert op.edge == "drop"
    assert all(lo == hi for lo, hi in op.pads), "PyTorch pads both ends alike"
    pool, pads = getattr(torch.nn.functional, f"max_pool{len(op.window)}d"), op.pads
    return lambda x: pool(x, op.window, op.stride, [lo for lo, _ in pads], op.dilation)


def _torch_reshape(torch: ModuleType, graph: ir.Graph, step: Step, form: Any) -> Tensors:
    shape = graph.types[step.result].static_shape
    return lambda x: x.reshape(shape)


def _torch_dense(torch: ModuleType, graph: ir.Graph, step: Step, form: Any) -> Tensors:
    return lambda x, w, *bias: torch.addmm(*bias, x, w) if bias else x @ w


TORCH: dict[type[ir.Op], Callable[[ModuleType, ir.Graph, Step, Any], Tensors]] = {
    ops.Conv: _torch_conv,
    ops.ConvInputGrad: _torch_conv,
    ops.ConvWeightGrad: _torch_conv,
    ops.MaxPool: _torch_pool,
    ops.Reshape: _torch_reshape,
    ops.Dense: _torch_dense,
    ops.Relu: lambda torch, graph, step, form: torch.nn.functional.relu,
}
