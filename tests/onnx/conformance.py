"""The node cases of the suite that comes with onnx, by family, run through the backend."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from convc import onnx_backend
from tests.onnx.models import onnx

FAMILIES: dict[str, tuple[str, ...]] = {
    "conv": ("Conv", "ConvTranspose"),
    "pool": ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "MaxUnpool"),
    "linear": ("MatMul", "Gemm"),
    "activation": (
        "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "HardSwish",
        "HardSigmoid", "Sigmoid", "Tanh", "Softplus", "Softsign", "Shrink", "ThresholdedRelu",
        "Clip", "Erf", "SwiGLU",
    ),
    "norm": (
        "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization",
        "RMSNormalization", "LpNormalization", "LRN", "MeanVarianceNormalization",
    ),
    "softmax": ("Softmax", "LogSoftmax", "Hardmax"),
    "arithmetic": (
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Neg", "Abs", "Sign",
        "Floor", "Ceil", "Round", "Max", "Min", "Mean", "Sum", "Equal", "Greater", "GreaterOrEqual",
        "Less", "LessOrEqual", "Where", "IsNaN", "IsInf", "Mod",
    ),
    "reduction": (
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
    ),
    "movement": (
        "Shape", "Size", "Constant", "ConstantOfShape", "Cast", "CastLike", "Identity", "Dropout",
        "Flatten", "Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze",
        "Expand", "Tile", "Pad", "Gather", "GatherElements", "GatherND", "Resize", "Upsample",
        "CenterCropPad", "SpaceToDepth", "DepthToSpace", "Range", "EyeLike",
    ),
    "training": (
        "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Adagrad", "Adam", "Momentum",
    ),
}  # fmt: skip
FIRST = ("conv", "pool", "linear", "activation", "norm", "softmax")
EXCEPTIONS = {
    "test_training_dropout_default": "random",
    "test_training_dropout_default_mask": "random",
    "test_training_dropout": "random",
    "test_training_dropout_mask": "random",
    "test_gather_negative_indices": "indices that are computed may not be negative",
    "test_gather_elements_negative_indices": "indices that are computed may not be negative",
    "test_mod_mixed_sign_float32": "remainders of floats",
    "test_mod_float32_mixed_sign_fmod_0": "remainders of floats",
    "test_mod_float_edge_cases_fmod_0_float32": "remainders of floats",
}
"""What does not pass though its operator is known, and why."""
OLDEST = 7


@cache
def cases() -> dict[str, list[Any]]:
    """The cases on float32 tensors, and integers and booleans beside them, by family.

    "expanded" are operators written out by their definitions; "other" what no family lists.
    """
    loader: Any = pytest.importorskip("onnx.backend.test.loader")
    family_of = {kind: name for name, kinds in FAMILIES.items() for kind in kinds}
    found: dict[str, list[Any]] = {name: [] for name in (*FAMILIES, "expanded", "other")}
    for case in loader.load_model_tests(kind="node"):
        if _concerns(case.model):
            kind = case.model.graph.node[0].op_type
            expanded = "_expanded" in case.name
            found["expanded" if expanded else family_of.get(kind, "other")].append(case)
    return found


def _concerns(model: Any) -> bool:
    tensor = onnx.TensorProto
    values = [*model.graph.input, *model.graph.output]
    kinds = {value.type.tensor_type.elem_type for value in values}
    legal = {tensor.FLOAT, tensor.INT64, tensor.INT32, tensor.BOOL}
    versions = {each.domain: each.version for each in model.opset_import}
    return tensor.FLOAT in kinds and kinds <= legal and versions.get("", OLDEST) >= OLDEST


def failure(case: Any, reference: bool) -> str | None:
    """Why a case fails, interpreted or native; None where it passes."""
    runner: Any = pytest.importorskip("onnx.backend.test.runner")
    options = {} if reference else {"threads": 1}
    try:
        prepared = onnx_backend.prepare(case.model, reference=reference, **options)
        for inputs, outputs in case.data_sets:
            given, wanted = (
                list(map(runner._normalize_tensor, part)) for part in (inputs, outputs)
            )
            found = prepared.run(given)
            runner.Runner.assert_similar_outputs(wanted, found, case.rtol, case.atol)
    except Exception as error:  # whatever it is, the case has failed
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def failures(name: str, reference: bool) -> Iterator[tuple[str, str]]:
    """The names of the cases of a family that fail, and why."""
    for case in cases()[name]:
        reason = failure(case, reference)
        if reason is not None:
            yield case.name, reason
