"""All ops. A new op is one class in one file here and its name in `OPS`."""

from __future__ import annotations

from ir.op import Op
from ir.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.dense import Dense, MatMul
from ir.ops.fused import Fused
from ir.ops.loss import (
    CrossEntropy,
    CrossEntropyGrad,
    Softmax,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
    SoftmaxGrad,
    SquaredLoss,
)
from ir.ops.movement import Concat, Pad, Reverse, Slice
from ir.ops.pointwise import Add, Bias, Mul, Relu, ReluGrad, Scale, Sub
from ir.ops.pool import AveragePool, AveragePoolGrad, MaxPool, MaxPoolGrad, MaxPoolPick
from ir.ops.reduce import Mean
from ir.ops.shape import Expand, Reshape, Sum, Transpose

OPS: tuple[type[Op], ...] = (
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    MaxPool,
    MaxPoolGrad,
    MaxPoolPick,
    AveragePool,
    AveragePoolGrad,
    Dense,
    MatMul,
    Bias,
    Relu,
    ReluGrad,
    Add,
    Sub,
    Mul,
    Scale,
    Reshape,
    Transpose,
    Slice,
    Pad,
    Concat,
    Reverse,
    Sum,
    Mean,
    Expand,
    Softmax,
    SoftmaxGrad,
    CrossEntropy,
    CrossEntropyGrad,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
    SquaredLoss,
    Fused,
)

OP_BY_NAME: dict[str, type[Op]] = {op.name: op for op in OPS}
