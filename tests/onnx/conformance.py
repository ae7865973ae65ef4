"""The node cases of the suite that comes with onnx, by family, run through the backend."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
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
BESIDE = {
    "MaxUnpool", "SwiGLU", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where",
    "IsNaN", "IsInf", "Mod", "CastLike", "GatherElements", "GatherND", "Range", "EyeLike",
}  # fmt: skip
"""What the families have beyond the operators of a convolutional network of floats."""
WHOLE = ("expanded", "small", "light")
FIRST = ("conv", "pool", "linear", "activation", "norm", "softmax")
EXCEPTIONS = {
    "test_training_dropout_default": "random numbers of a generator of its own",
    "test_training_dropout_default_mask": "random numbers of a generator of its own",
    "test_training_dropout": "random numbers of a generator of its own",
    "test_training_dropout_mask": "random numbers of a generator of its own",
    "test_squeezenet": "the softmax of 1000 equal sums near 1e10, which differ in the last digit",
}
"""What does not pass though it belongs to a family, and why."""
OLDEST = 7
EXPANDED = re.compile(r"_expanded(_ver\d+)?$")
SMALL = ("simple", "pytorch-operator", "pytorch-converted")
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@cache
def cases() -> dict[str, list[Any]]:
    """The cases on float32 tensors, and integers and booleans beside them, by family.

    "expanded" are operators of the families written out by their definitions, "small" the models
    made by exporters, "light" whole topologies; "other" is what no family lists.
    """
    loader: Any = pytest.importorskip("onnx.backend.test.loader")
    family_of = {kind: name for name, kinds in FAMILIES.items() for kind in kinds}
    found: dict[str, list[Any]] = {name: [] for name in (*FAMILIES, *WHOLE, "other")}
    listed = [case for case in loader.load_model_tests(kind="node") if _concerns(case.model)]
    plain = [case for case in listed if not EXPANDED.search(case.name)]
    for case in plain:
        found[family_of.get(case.model.graph.node[0].op_type, "other")].append(case)
    known = {case.name for name in FAMILIES for case in found[name]}
    for case in listed:
        if EXPANDED.search(case.name):
            family = "expanded" if EXPANDED.sub("", case.name) in known else "other"
            found[family].append(case)
    small = (_small(case) for kind in SMALL for case in loader.load_model_tests(kind=kind))
    found["small"] = [case for case in small if case is not None]
    found["light"] = [_light(case) for case in loader.load_model_tests(kind="real")]
    return found


@cache
def core() -> frozenset[str]:
    """The cases of the operators of a convolutional network, as such (590 in onnx 1.23) or written
    out by their definitions (227), of small models (14) and of topologies (9)."""
    beside = {
        case.name
        for name in FAMILIES
        for case in cases()[name]
        if case.model.graph.node[0].op_type in BESIDE
    }
    return frozenset(
        case.name
        for name in (*FAMILIES, *WHOLE)
        for case in cases()[name]
        if EXPANDED.sub("", case.name) not in beside
    )


def _concerns(model: Any) -> bool:
    """Whether all inputs and outputs are tensors of these types, and one of them is float32."""
    tensor = onnx.TensorProto
    values = [*model.graph.input, *model.graph.output]
    if any(not value.type.HasField("tensor_type") for value in values):
        return False
    kinds = {value.type.tensor_type.elem_type for value in values}
    legal = {tensor.FLOAT, tensor.INT64, tensor.INT32, tensor.BOOL}
    versions = {each.domain: each.version for each in model.opset_import}
    return tensor.FLOAT in kinds and kinds <= legal and versions.get("", OLDEST) >= OLDEST


def _small(case: Any) -> Any:
    """A case whose model and arrays are files; None where it does not concern us."""
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    if not _concerns(model) or any("Sequence" in node.op_type for node in model.graph.node):
        return None
    sets = [
        tuple(_stored(sorted(data.glob(f"{kind}_*.pb"))) for kind in ("input", "output"))
        for data in sorted(folder.glob("test_data_set*"))
    ]
    return replace(case, model=model, data_sets=sets)


def _stored(paths: list[Path]) -> list[Any]:
    return [onnx.TensorProto.FromString(path.read_bytes()) for path in paths]


def _light(case: Any) -> Any:
    """A topology, with the input that the suite gives it and the output that comes with it."""
    runner: Any = pytest.importorskip("onnx.backend.test.runner")
    path = LIGHT / Path(case.url).name
    model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [
        runner.Runner.generate_dummy_data(value, seed=0, name=case.model_name, random=False)
        for value in model.graph.input
        if value.name not in stored
    ]
    return replace(case, model=model, data_sets=[(given, _stored([_output(path)]))])


def _output(path: Path) -> Path:
    return path.with_name(f"{path.stem}_output_0.pb")


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


def failures(name: str, reference: bool) -> dict[str, str]:
    """Why cases of a family fail, by their names."""
    found = {case.name: failure(case, reference) for case in cases()[name]}
    return {name: reason for name, reason in found.items() if reason is not None}
