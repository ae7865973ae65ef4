"""Graphs as ONNX models, for the two engines that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.tools.peers.packages import needed
from convc.tools.peers.steps import (
    Array,
    Inputs,
    Step,
    UntranslatableError,
    fits,
    is_global,
    steps,
    unread,
)
from convc.tools.timing import Call
from ir import ops
from ir.ops.conv import ConvAttributes
from ir.ops.pool import PoolAttributes

OPSET = 17


def onnxruntime(model: bytes, inputs: Inputs, threads: int) -> Call:
    """A call of ONNX Runtime."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = dict(inputs)
    return lambda: session.run(None, given)[0]


def openvino(model: bytes, inputs: Inputs, threads: int) -> Call:
    """A call of OpenVINO."""
    core = needed("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    given = dict(inputs)
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)[0]


def onnx_model(graph: ir.Graph) -> bytes:
    """A static graph as an ONNX model; ``UntranslatableError`` where ONNX has no such op."""
    onnx = needed("onnx")
    if any(0 in type.shape for type in graph.types.values()):
        raise UntranslatableError("ONNX: engines crash on empty tensors")
    writer = Writer(graph)
    for step in steps(graph):
        if type(step.op) not in ONNX:
            raise UntranslatableError(f"ONNX: {step.op.name}")
        ONNX[type(step.op)](writer, step)
    info = onnx.helper.make_tensor_value_info
    outputs = {name: graph.types[name] for name in graph.outputs.values()}

    def kind(type: ir.TensorType) -> int:
        return int(onnx.helper.np_dtype_to_tensor_dtype(type.dtype.numpy))

    built = onnx.helper.make_graph(
        writer.nodes, "graph",
        [info(name, kind(type), type.static_shape) for name, type in graph.inputs.items()],
        [info(name, kind(type), type.static_shape) for name, type in outputs.items()],
        [onnx.numpy_helper.from_array(np.array(a), name) for name, a in writer.weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(built, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


class Writer:
    """The nodes and constants of an ONNX model in the making."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.weights: dict[str, Array] = dict(graph.weights)
        self.nodes: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], result: str, **attributes: Any) -> None:
        """Append a node."""
        make = needed("onnx").helper.make_node
        self.nodes.append(make(kind, list(inputs), [result], **attributes))

    def constant(self, step: Step, array: object, name: str = "constant") -> str:
        """A constant beside a step."""
        full = f"{step.result}.{name}"
        self.weights[full] = np.asarray(array)
        return full

    def number(self, step: Step, value: float, name: str = "constant") -> str:
        """A number of the element type of the step's result."""
        return self.constant(step, self._dtype(step).type(value), name)

    def reshaped(self, step: Step, value: str, shape: Sequence[int], result: str) -> str:
        """A value under another shape."""
        wanted = self.constant(step, np.array(shape, np.int64), f"{result}.shape")
        self.node("Reshape", (value, wanted), result)
        return result

    def _dtype(self, step: Step) -> np.dtype[Any]:
        return self.graph.types[step.result].dtype.numpy


def _conv(w: Writer, step: Step) -> None:
    op = step.op
    assert isinstance(op, ConvAttributes)
    if any(pad < 0 for pair in op.pads for pad in pair):
        raise UntranslatableError("ONNX: a convolution that crops")
    attributes: dict[str, Any] = {
        "strides": op.stride,
        "pads": [lo for lo, _ in op.pads] + [hi for _, hi in op.pads],
        "dilations": op.dilation,
        "group": op.groups,
    }
    if isinstance(op, ops.Conv):
        w.node("Conv", step.operands, step.result, **attributes)
        return
    kernel, image, *bias = step.operands
    attributes["output_padding"] = unread(w.graph, step)
    w.node("ConvTranspose", (image, kernel, *bias), step.result, **attributes)


def _pool(w: Writer, step: Step) -> None:
    op = step.op
    assert isinstance(op, PoolAttributes)
    wide = any(pad >= k for pair, k in zip(op.pads, op.window, strict=True) for pad in pair)
    if wide or not fits(w.graph, step):
        raise UntranslatableError("ONNX: windows that lie outside of the image")
    attributes: dict[str, Any] = {
        "kernel_shape": op.window,
        "strides": op.stride,
        "pads": [lo for lo, _ in op.pads] + [hi for _, hi in op.pads],
        "ceil_mode": int(op.edge == "partial"),
    }
    if isinstance(op, ops.MaxPool):
        w.node("MaxPool", step.operands, step.result, dilations=op.dilation, **attributes)
        return
    assert isinstance(op, ops.AveragePool)
    beyond = op.divisor == "padded" and op.edge == "partial"
    if op.divisor == "one" or beyond or any(d > 1 for d in op.dilation):
        raise UntranslatableError("ONNX: such an average")
    included = int(op.divisor == "padded")
    w.node("AveragePool", step.operands, step.result, count_include_pad=included, **attributes)


def _dense(w: Writer, step: Step) -> None:
    op = step.op
    assert isinstance(op, ops.Dense)
    flags = {"transA": int(op.transpose_x), "transB": int(op.transpose_w)}
    w.node("Gemm", step.operands, step.result, **flags)


def _matmul(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.MatMul)
    if step.op.transpose_x or step.op.transpose_w:
        raise UntranslatableError("ONNX: a product of transposed matrices")
    w.node("MatMul", step.operands, step.result)


def _reshape(w: Writer, step: Step) -> None:
    w.reshaped(step, step.operands[0], w.graph.types[step.result].static_shape, step.result)


def _transpose(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Transpose)
    perm = {"perm": step.op.perm} if step.op.perm else {}  # it has no empty lists
    w.node("Transpose", step.operands, step.result, **perm)


def _slice(w: Writer, step: Step) -> None:
    op = step.op
    assert isinstance(op, ops.Slice)
    sizes = w.graph.types[step.result].static_shape
    if not sizes:
        w.node("Identity", step.operands, step.result)
        return
    starts = np.array(op.starts, np.int64)
    parts = {"starts": starts, "ends": starts + np.array(sizes) * op.steps,
             "axes": np.arange(len(sizes)), "steps": np.array(op.steps, np.int64)}  # fmt: skip
    names = [w.constant(step, array, name) for name, array in parts.items()]
    w.node("Slice", (*step.operands, *names), step.result)


def _pad(w: Writer, step: Step) -> None:
    op = step.op
    assert isinstance(op, ops.Pad)
    if any(op.interior):
        raise UntranslatableError("ONNX: a pad between elements")
    if not op.pads:
        w.node("Identity", step.operands, step.result)
        return
    pads = w.constant(step, np.array(op.pads, np.int64).reshape(-1, 2).T.reshape(-1), "pads")
    w.node("Pad", (*step.operands, pads, w.number(step, op.value)), step.result)


def _expand(w: Writer, step: Step) -> None:
    shape = np.array(w.graph.types[step.result].static_shape, np.int64)
    w.node("Expand", (*step.operands, w.constant(step, shape)), step.result)


def _take(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Take)
    w.node("Gather", step.operands, step.result, axis=step.op.axis)


def _concat(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Concat)
    w.node("Concat", step.operands, step.result, axis=step.op.axis)


def _softmax(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Softmax)
    w.node("Softmax", step.operands, step.result, axis=step.op.axis)


def _mean(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Mean)
    if is_global(w.graph, step):
        w.node("GlobalAveragePool", step.operands, f"{step.result}.kept")
        w.node("Flatten", (f"{step.result}.kept",), step.result)
    elif step.op.axes:
        w.node("ReduceMean", step.operands, step.result, axes=step.op.axes, keepdims=0)
    else:
        w.node("Identity", step.operands, step.result)


def _sum(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Sum)
    axes = w.constant(step, np.array(step.op.axes, np.int64))
    w.node("ReduceSum", (*step.operands, axes), step.result, keepdims=0, noop_with_empty_axes=1)


def _bias(w: Writer, step: Step) -> None:
    x, bias = step.operands
    shape = (-1, *(1,) * (w.graph.types[x].rank - 2))
    w.node("Add", (x, w.reshaped(step, bias, shape, f"{step.result}.column")), step.result)


def _scale(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Scale)
    w.node("Mul", (*step.operands, w.number(step, step.op.factor)), step.result)


def _shift(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Shift)
    w.node("Add", (*step.operands, w.number(step, step.op.term)), step.result)


def _clip(w: Writer, step: Step) -> None:
    assert isinstance(step.op, ops.Clip)
    bounds = w.number(step, step.op.low, "low"), w.number(step, step.op.high, "high")
    w.node("Clip", (*step.operands, *bounds), step.result)


def _batch_norm(w: Writer, step: Step) -> None:
    """ONNX wants the scale and the shift before the statistics."""
    assert isinstance(step.op, ops.BatchNorm)
    x, mean, variance, *rest = step.operands
    channels = w.graph.types[mean].static_shape
    dtype = w.graph.types[x].dtype.numpy
    scale = rest[0] if rest else w.constant(step, np.ones(channels, dtype), "scale")
    shift = rest[1] if rest[1:] else w.constant(step, np.zeros(channels, dtype), "shift")
    operands = (x, scale, shift, mean, variance)
    w.node("BatchNormalization", operands, step.result, epsilon=step.op.epsilon)


Emit: TypeAlias = Callable[[Writer, Step], None]


def _plainly(kind: str) -> Emit:
    """An operator that takes the operands of the op and has no attributes."""
    return lambda w, step: w.node(kind, step.operands, step.result)


ONNX: dict[type[ir.Op], Emit] = {
    ops.Conv: _conv,
    ops.ConvInputGrad: _conv,
    ops.MaxPool: _pool,
    ops.AveragePool: _pool,
    ops.Dense: _dense,
    ops.MatMul: _matmul,
    ops.BatchNorm: _batch_norm,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Pad: _pad,
    ops.Expand: _expand,
    ops.Take: _take,
    ops.Softmax: _softmax,
    ops.Mean: _mean,
    ops.Sum: _sum,
    ops.Bias: _bias,
    ops.Scale: _scale,
    ops.Shift: _shift,
    ops.Clip: _clip,
    ops.Relu: _plainly("Relu"),
    ops.Logistic: _plainly("Sigmoid"),
    ops.Tanh: _plainly("Tanh"),
    ops.Exp: _plainly("Exp"),
    ops.Log: _plainly("Log"),
    ops.Sqrt: _plainly("Sqrt"),
    ops.Reciprocal: _plainly("Reciprocal"),
    ops.Abs: _plainly("Abs"),
    ops.Erf: _plainly("Erf"),
    ops.Identity: _plainly("Identity"),
    ops.Add: _plainly("Add"),
    ops.Sub: _plainly("Sub"),
    ops.Mul: _plainly("Mul"),
    ops.Div: _plainly("Div"),
}
"""How each op is written."""
