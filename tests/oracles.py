"""Other implementations to compare with, and numbers to give them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ir.types import Array

SEED = 20160


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def text_of(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "f64") -> Array:
    """Small whole numbers: sums of their products are exact."""
    return rng.integers(-4, 5, shape).astype({"f32": np.float32, "f64": np.float64}[dtype])


def torch_or_skip() -> ModuleType:
    torch: Any = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


def onnx_runtime(kind: str, attributes: dict[str, Any], *operands: Array | None) -> Array:
    """What ONNX Runtime makes of one node; an operand that is None is left out."""
    onnx: Any = pytest.importorskip("onnx")
    runtime: Any = pytest.importorskip("onnxruntime")
    make = onnx.helper
    given = {f"in{i}": array for i, array in enumerate(operands) if array is not None}
    names = [f"in{i}" if array is not None else "" for i, array in enumerate(operands)]
    values = [
        make.make_tensor_value_info(name, make.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    result = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = make.make_node(kind, names, ["y"], **attributes)
    graph = make.make_graph([node], "one", values, [result])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(
        model.SerializeToString(), options(runtime), providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)[0]


def options(runtime: Any) -> Any:
    chosen = runtime.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


def onnx_pads(pads: tuple[tuple[int, int], ...]) -> list[int]:
    return [lo for lo, _ in pads] + [hi for _, hi in pads]
