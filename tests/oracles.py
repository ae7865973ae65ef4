"""Other implementations to compare with, and numbers to give them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.types import Array

Shape = tuple[int, ...]
Function = Callable[..., Any]  # of a builder or of PyTorch, then operands
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


def agree(
    make: Function,
    twin: Function,
    arrays: list[Array],
    dtype: str,
    *labels: Array,
    target: str | None = None,
    threads: int | None = None,
) -> None:
    """The native results and gradients of `make` are PyTorch's of `twin` in float64, but rounded.

    Its operands are the arrays, then labels, which are integers.
    """
    torch = torch_or_skip()
    b = ir.Builder("one")
    values = [b.input(f"x{i}", text_of(array.shape, dtype)) for i, array in enumerate(arrays)]
    whole = [b.input(f"n{i}", text_of(array.shape, "i64")) for i, array in enumerate(labels)]
    b.output("y", make(b, *values, *whole))
    model = convc.compile(ir.vjp(b.build()), threads, target=target)
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    y = twin(torch, *leaves, *map(torch.tensor, labels))
    g = np.random.default_rng(1).standard_normal(tuple(y.shape)).astype(arrays[0].dtype)
    y.backward(torch.tensor(g, dtype=torch.float64))
    inputs = {f"x{i}": array for i, array in enumerate(arrays)} | {"grad_y": g}
    got = model.run(inputs | {f"n{i}": array for i, array in enumerate(labels)})
    wanted = {"y": y, **{f"grad_x{i}": leaf.grad for i, leaf in enumerate(leaves)}}
    tolerance = 2e-5 if dtype == "f32" else 1e-12
    for name, tensor in wanted.items():
        want = tensor.detach().numpy()
        scale = max(1.0, np.abs(want).max(initial=0))
        np.testing.assert_allclose(got[name], want, rtol=0, atol=tolerance * scale, err_msg=name)


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
