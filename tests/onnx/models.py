"""Small ONNX models, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.tools.peers.onnx import onnx_model
from ir.types import Array
from tests.oracles import options

onnx: Any = pytest.importorskip("onnx")
make = onnx.helper
FLOAT, DOUBLE, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
OPSET = 21


def info(name: str, shape: Sequence[int | str | None] | None, element: int = FLOAT) -> Any:
    """The declaration of an input or output."""
    return make.make_tensor_value_info(name, element, shape)


def model_of(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Mapping[str, Array] | None = None,
    opset: int = OPSET,
    **others: Any,
) -> Any:
    """A model of some nodes; weights become initialisers."""
    stored = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    graph = make.make_graph(list(nodes), "tested", list(inputs), list(outputs), stored)
    opsets = [make.make_opsetid("", opset), make.make_opsetid("ai.onnx.preview.training", 1)]
    return make.make_model(graph, opset_imports=opsets, ir_version=10, **others)


def node_model(
    kind: str,
    given: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    results: int = 1,
    opset: int = OPSET,
    element: int | None = None,
    **attributes: Any,
) -> Any:
    """One node whose operands are the inputs `given`, then `constants`, in their order."""
    names = [*given, *(constants or {})]
    made = [f"y{number}" for number in range(results)]
    node = make.make_node(kind, names, made, name="the_node", **attributes)
    kinds = {name: make.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    inputs = [info(name, array.shape, kinds[name]) for name, array in given.items()]
    first = element or next(iter(kinds.values()), FLOAT)
    outputs = [info(name, None, INT64 if number else first) for number, name in enumerate(made)]
    return model_of([node], inputs, outputs, constants, opset)


def runtime(model: Any, given: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime makes of a model, by output."""
    engine: Any = pytest.importorskip("onnxruntime")
    session = engine.InferenceSession(
        model.SerializeToString(), options(engine), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(given)), strict=True))


def computed(
    model: Any, given: Mapping[str, Array], **arguments: Any
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What convc makes of a model: interpreted, and native."""
    graph = convc.load(model, **arguments)
    kinds = {name: type.dtype.numpy for name, type in graph.inputs.items()}
    arrays = {name: given[name].astype(kind, copy=False) for name, kind in kinds.items()}
    return ir.interpret(graph, arrays), convc.compile(graph, threads=1).run(arrays)


def agrees(
    model: Any, given: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 1e-5
) -> None:
    """Both results are those expected, within a share of the largest."""
    for results in computed(model, given):
        assert results.keys() == expected.keys()
        for name, wanted in expected.items():
            found = results[name]
            assert found.shape == wanted.shape, (name, found.shape, wanted.shape)
            finite = wanted[np.isfinite(wanted)] if wanted.dtype.kind == "f" else wanted
            scale = max(1.0, float(np.abs(finite).max(initial=0)))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


def as_runtime(model: Any, given: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    """Both results are those of ONNX Runtime."""
    agrees(model, given, runtime(model, given), tolerance)


def exported(name: str) -> bytes:
    """A network of the zoo as a file."""
    return onnx_model(convc.zoo.build(name))
