"""The two engines that read models of ONNX."""

from __future__ import annotations

import ir
from convc.errors import ExportError
from convc.frontends.onnx.export import to_onnx
from convc.tools.peers.base import Inputs, UntranslatableError
from convc.tools.peers.packages import needed
from convc.tools.timing import Call


def onnxruntime(model: bytes, inputs: Inputs, threads: int) -> Call:
    """A call of ONNX Runtime; ``UntranslatableError`` where it lacks an operator."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    refusal = runtime.capi.onnxruntime_pybind11_state.NotImplemented
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except refusal as error:
        raise UntranslatableError(f"ONNX Runtime: {error}") from error
    given = dict(inputs)
    return lambda: session.run(None, given)[0]


def openvino(model: bytes, inputs: Inputs, threads: int) -> Call:
    """A call of OpenVINO; ``UntranslatableError`` where it lacks an operator."""
    core = needed("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
    except RuntimeError as error:
        raise UntranslatableError(f"OpenVINO: {error}") from error
    request = compiled.create_infer_request()
    read = {name for port in compiled.inputs for name in port.names}
    given = {name: array for name, array in inputs.items() if name in read}
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)[0]


def onnx_model(graph: ir.Graph) -> bytes:
    """A static graph as an ONNX model; ``UntranslatableError`` where ONNX has no such op."""
    if any(0 in type.shape for type in graph.types.values()):
        raise UntranslatableError("ONNX: engines crash on empty tensors")
    try:
        return bytes(to_onnx(graph).SerializeToString())
    except ExportError as error:
        raise UntranslatableError(f"ONNX: {error}") from error
