"""Every form that an operator has had since opset 7, against ONNX Runtime."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from convc.frontends.onnx.importer import NEWEST, OLDEST
from ir.types import Array
from tests.onnx.models import as_runtime, node_model, onnx
from tests.oracles import SEED

RNG = np.random.default_rng(SEED)


class Case(NamedTuple):
    """A node whose form is legal from one opset to another; operands that are not given are kept
    in the model."""

    kind: str
    first: int
    last: int
    given: tuple[Array, ...]
    stored: tuple[Array, ...]
    attributes: dict[str, Any]
    results: int

    def model(self, opset: int) -> tuple[Any, dict[str, Array]]:
        """The model, which does not say what types its results have, and what it is run on."""
        given = {f"x{number}": array for number, array in enumerate(self.given)}
        stored = {f"c{number}": array for number, array in enumerate(self.stored)}
        model = node_model(self.kind, given, stored, self.results, opset, **self.attributes)
        for value in model.graph.output:
            value.ClearField("type")
        return model, given


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def case(
    kind: str,
    versions: tuple[int, int],
    given: Array | tuple[Array, ...],
    *stored: Array,
    results: int = 1,
    **attributes: Any,
) -> Case:
    operands = given if isinstance(given, tuple) else (given,)
    return Case(kind, *versions, operands, stored, attributes, results)


N = NEWEST
X, IMAGE, POSITIVE = draw(3, 4, 5), draw(2, 4, 6, 7), np.abs(draw(3, 4)) + 0.1
FOUR = tuple(np.abs(draw(4)) + 0.5 for _ in range(4))
W, B = draw(3, 4, 3, 3), draw(3)
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
              "ReduceSumSquare", "ReduceLogSumExp")  # fmt: skip
CASES = [
    case("Clip", (7, 10), X, min=-0.5, max=0.25),
    case("Clip", (7, 10), X, max=0.25),
    case("Clip", (11, N), X, np.float32(-0.5), np.float32(0.25)),
    case("Clip", (11, N), (X, np.array(-0.5, np.float32), np.array(0.25, np.float32))),
    case("Pad", (7, 10), IMAGE, pads=[0, 1, 2, 0, 0, 0, 1, 3], value=1.5),
    case("Pad", (7, 10), IMAGE, pads=[0, 0, 2, 0, 0, 0, 1, 3], mode="edge"),
    case("Pad", (11, N), IMAGE, ints(0, 1, 2, 0, 0, 0, 1, 3), np.float32(1.5)),
    case("Pad", (11, N), IMAGE, ints(0, 0, 2, 0, 0, 0, 1, 3), mode="reflect"),
    case("Pad", (18, N), IMAGE, ints(1, 2, 0, 3), np.float32(0), ints(-1, 2)),
    case("Pad", (19, N), IMAGE, ints(0, 0, 2, 0, 0, 0, 1, 3), mode="wrap"),
    case("Slice", (7, 9), X, starts=[1, -3], ends=[3, 1000], axes=[0, 2]),
    case("Slice", (7, 9), X, starts=[0, 1], ends=[-1, 3]),
    case("Slice", (10, N), X, ints(1, -3), ints(3, 1000), ints(0, 2)),
    case("Slice", (10, N), X, ints(-1, 4), ints(-1000, 0), ints(1, 2), ints(-1, -2)),
    case("Dropout", (7, 11), X, ratio=0.5),
    case("Dropout", (12, N), X, np.float32(0.5)),
    case("Squeeze", (7, 12), draw(1, 3, 1, 4), axes=[0, 2]),
    case("Squeeze", (7, N), draw(1, 3, 1, 4)),
    case("Squeeze", (13, N), draw(1, 3, 1, 4), ints(0, -2)),
    case("Unsqueeze", (7, 12), X, axes=[0, 2]),
    case("Unsqueeze", (13, N), X, ints(0, -1)),
    case("ReduceSum", (7, 12), X, axes=[0, 2], keepdims=0),
    case("ReduceSum", (7, N), X),
    case("ReduceSum", (13, N), X, ints(0, -1), keepdims=1),
    case("ReduceSum", (13, N), X, ints(), noop_with_empty_axes=1),
    *(case(kind, (7, 17), X, axes=[0, 2], keepdims=0) for kind in REDUCTIONS),
    *(case(kind, (18, N), X, ints(0, -1), keepdims=0) for kind in REDUCTIONS),
    *(case(kind, (18, N), X, ints(), noop_with_empty_axes=1) for kind in REDUCTIONS[:3]),
    case("ReduceLogSum", (7, 17), POSITIVE, axes=[1]),
    case("ReduceLogSum", (18, N), POSITIVE, ints(-1)),
    case("BatchNormalization", (7, 8), IMAGE, *FOUR, epsilon=1e-3),
    case("BatchNormalization", (9, N), IMAGE, *FOUR, epsilon=1e-3),
    case("BatchNormalization", (9, N), draw(5, 4), *FOUR),
    case("BatchNormalization", (14, N), IMAGE, *FOUR, results=3, training_mode=1, momentum=0.8),
    case("InstanceNormalization", (7, N), IMAGE, FOUR[0], FOUR[1]),
    case("LayerNormalization", (17, N), X, draw(4, 5), draw(4, 5), axis=1),
    case("GroupNormalization", (18, 20), IMAGE, draw(2), draw(2), num_groups=2),
    case("GroupNormalization", (21, N), IMAGE, draw(4), draw(4), num_groups=2),
    case("LRN", (7, N), IMAGE, size=3, alpha=0.1, beta=0.6, bias=1.5),
    case("LpNormalization", (7, N), X, axis=1, p=1),
    case("MeanVarianceNormalization", (9, N), IMAGE),
    case("Upsample", (7, 8), IMAGE, scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", (7, 8), IMAGE, scales=[1.0, 1.0, 2.0, 1.5], mode="linear"),
    case("Upsample", (9, 9), IMAGE, floats(1, 1, 2, 2.5), mode="nearest"),
    case("Resize", (10, 10), IMAGE, floats(1, 1, 2, 0.5)),
    case("Resize", (10, 10), IMAGE, floats(1, 1, 2, 1.5), mode="linear"),
    case("Resize", (11, N), IMAGE, floats(), floats(1, 1, 2, 1.5), mode="linear"),
    case("Resize", (11, N), IMAGE, floats(), floats(1, 1, 2, 0.6), mode="cubic"),
    case("Resize", (11, N), IMAGE, floats(), floats(), ints(2, 4, 9, 5), mode="linear",
         coordinate_transformation_mode="align_corners"),
    case("Resize", (11, 12), IMAGE, floats(), floats(), ints(2, 4, 9, 5),
         coordinate_transformation_mode="tf_half_pixel_for_nn"),
    case("Resize", (18, N), IMAGE, floats(), floats(2, 3), axes=[2, 3]),
    case("Resize", (18, N), IMAGE, floats(), floats(), ints(9, 9), axes=[3, 2], mode="linear",
         keep_aspect_ratio_policy="not_larger"),
    *(case(kind, (7, N), X) for kind in ("Softmax", "LogSoftmax", "Hardmax")),
    *(case(kind, (7, N), X, axis=1) for kind in ("Softmax", "LogSoftmax", "Hardmax")),
    *(case(kind, (11, N), X, axis=-2) for kind in ("Softmax", "LogSoftmax", "Hardmax")),
    case("Split", (7, 12), X, axis=2, split=[1, 4], results=2),
    case("Split", (7, 17), X, axis=1, results=2),
    case("Split", (13, N), X, ints(1, 4), axis=-1, results=2),
    case("Split", (18, N), X, axis=2, results=2, num_outputs=2),
    case("Concat", (7, N), (X, X), axis=1),
    case("Concat", (11, N), (X, X), axis=-1),
    case("Flatten", (7, N), X, axis=2),
    case("Flatten", (11, N), X, axis=-1),
    case("Gather", (7, N), X, ints(2, 0), axis=1),
    case("Gather", (11, N), X, ints(-2, 0), axis=-1),
    case("GatherElements", (11, N), X, np.zeros((2, 4, 5), np.int64), axis=0),
    case("Reshape", (7, N), X, ints(0, -1)),
    case("Reshape", (14, N), X, ints(5, 12), allowzero=1),
    case("Expand", (8, N), draw(4, 1), ints(3, 1, 5)),
    case("Tile", (7, N), draw(2, 3), ints(2, 3)),
    case("Transpose", (7, N), X, perm=[2, 0, 1]),
    case("DepthToSpace", (7, N), IMAGE, blocksize=2),
    case("DepthToSpace", (11, N), IMAGE, blocksize=2, mode="CRD"),
    case("SpaceToDepth", (7, N), draw(2, 3, 4, 6), blocksize=2),
    case("Gemm", (7, N), draw(3, 4), draw(4, 5), draw(5), alpha=0.5, beta=2.0),
    case("Gemm", (7, N), draw(4, 3), draw(5, 4), draw(3, 1), transA=1, transB=1),
    case("Gemm", (11, N), draw(3, 4), draw(4, 5)),
    case("MatMul", (7, N), X, draw(5, 2)),
    case("Einsum", (12, N), (X, draw(5, 3)), equation="bij,jb->ib"),
    case("Einsum", (12, N), (X, X), equation="...j,...j"),
    case("Trilu", (14, N), X, np.array(-1), upper=0),
    case("MaxPool", (7, 7), IMAGE, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    case("MaxPool", (8, N), IMAGE, kernel_shape=[2, 3], strides=[2, 1], results=2),
    case("MaxPool", (10, N), IMAGE, kernel_shape=[2, 2], dilations=[2, 3], ceil_mode=1),
    case("AveragePool", (7, N), IMAGE, kernel_shape=[2, 3], pads=[1, 0, 0, 1]),
    case("AveragePool", (7, N), IMAGE, kernel_shape=[2, 3], pads=[1, 0, 0, 1],
         count_include_pad=1),
    case("AveragePool", (10, N), IMAGE, kernel_shape=[2, 3], strides=[3, 2], ceil_mode=1),
    case("AveragePool", (19, N), IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("LpPool", (7, N), IMAGE, kernel_shape=[2, 3], strides=[2, 2], p=2),
    case("LpPool", (18, N), IMAGE, kernel_shape=[2, 2], dilations=[2, 2], p=1),
    case("GlobalAveragePool", (7, N), IMAGE),
    case("GlobalMaxPool", (7, N), IMAGE),
    case("GlobalLpPool", (7, 21), IMAGE, p=2),
    case("Conv", (7, N), IMAGE, W, B, pads=[1, 0, 1, 2], strides=[2, 1]),
    case("Conv", (7, N), IMAGE, W, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("ConvTranspose", (7, N), draw(2, 3, 4, 5), W, strides=[2, 2], output_padding=[1, 0]),
    case("ConvTranspose", (7, N), draw(2, 3, 4, 5), W, strides=[2, 2], output_shape=[9, 12]),
    case("Cast", (7, N), X, to=11),
    case("Cast", (7, N), 5 * X, to=7),
    case("Cast", (9, N), np.trunc(X), to=9),
    case("CastLike", (15, N), (X, ints(1))),
    case("ArgMax", (7, N), X, axis=1, keepdims=0),
    case("ArgMin", (11, N), X, axis=-1),
    case("ArgMax", (12, N), np.sign(X), axis=1, select_last_index=1),
    case("Pow", (7, N), POSITIVE, floats(2.5)),
    case("Pow", (12, N), X, ints(3)),
    case("Mod", (10, N), (X, draw(5)), fmod=1),
    case("Shape", (7, N), X),
    case("Shape", (15, N), X, start=-2, end=3),
    case("Size", (7, N), X),
    case("PRelu", (7, N), X, draw(4, 1)),
    case("PRelu", (7, N), X, draw(1)),
    *(case(kind, (8, N), (X, draw(5), draw(4, 1))) for kind in ("Max", "Min", "Mean", "Sum")),
    *(case(kind, (7, N), (X, draw(4, 1))) for kind in ("Add", "Sub", "Mul", "Div")),
    *(case(kind, (7, N), (np.sign(X), draw(4, 1))) for kind in ("Greater", "Less")),
    *(case(kind, (12, N), (X, draw(4, 1))) for kind in ("GreaterOrEqual", "LessOrEqual")),
    case("Equal", (11, N), (np.sign(X), np.sign(draw(4, 1)))),
    case("Where", (9, N), (X > 0, X, draw(4, 1))),
    case("IsNaN", (9, N), X),
    case("IsInf", (10, N), floats(1, np.inf, -np.inf), detect_negative=0),
    *(case(kind, (7, N), X) for kind in (
        "Relu", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "Sigmoid", "Tanh", "Softplus",
        "Softsign", "Exp", "Abs", "Neg", "Floor", "Ceil", "Reciprocal", "Identity")),
    *(case(kind, (7, N), POSITIVE) for kind in ("Sqrt", "Log")),
    *(case(kind, (9, N), X) for kind in ("Erf", "Sign")),
    case("ThresholdedRelu", (10, N), X, alpha=0.7),
    case("Shrink", (9, N), X, lambd=0.4, bias=0.1),
    case("Round", (11, N), floats(0.5, 1.5, -0.5, 2.4)),
    case("Celu", (12, N), X, alpha=1.7),
    case("HardSwish", (14, N), X),
    case("Mish", (18, N), X),
    case("Gelu", (20, N), X, approximate="tanh"),
]  # fmt: skip


@cache
def newest() -> int:
    """The last opset that ONNX Runtime knows."""
    engine: Any = pytest.importorskip("onnxruntime")
    for opset in range(min(NEWEST, onnx.defs.onnx_opset_version()), OLDEST, -1):
        model = node_model("Relu", {"x": X}, opset=opset)
        try:
            engine.InferenceSession(model.SerializeToString())
        except Exception:  # of a type of its own
            continue
        return opset
    raise AssertionError("ONNX Runtime loads nothing")


@cache
def changes() -> dict[str, list[int]]:
    """The opsets in which each operator changed."""
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema.since_version)
    return found


def opsets(which: Case) -> list[int]:
    """The first, the last and those in between in which the operator changed."""
    last = min(which.last, newest())
    between = {n for n in changes()[which.kind] if which.first < n <= last}
    return sorted({which.first, last, *between}) if which.first <= last else []


@pytest.mark.parametrize("which", CASES, ids=lambda which: f"{which.kind}-{which.first}")
def test_all_forms_of_an_operator(which: Case) -> None:
    for opset in opsets(which):
        model, given = which.model(opset)
        try:
            as_runtime(model, given)
        except Exception as error:
            error.add_note(f"in opset {opset}")
            raise
