"""All ops. A new op is one class in one file here and its name in `OPS`."""

from __future__ import annotations

from ir.op import Op
from ir.ops.activations import Clip, Elu, Gelu, LeakyRelu, Silu, Softplus
from ir.ops.adaptive import AdaptivePool
from ir.ops.arithmetic import Div, Equal, Greater, GreaterEqual, Maximum, Minimum, Power, Where
from ir.ops.cast import Cast, Constant, Uniform
from ir.ops.circular import CircularPad
from ir.ops.composite import CompositeGrad
from ir.ops.connected import ConnectedConv, ConnectedLocalConv
from ir.ops.conv import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.dense import Dense, MatMul
from ir.ops.elementwise import Elementwise
from ir.ops.functions import (
    Abs,
    Ceil,
    Erf,
    Exp,
    Floor,
    Identity,
    Log,
    Logistic,
    Reciprocal,
    Round,
    Sign,
    Sqrt,
    Square,
    Step,
    StopGradient,
    Tanh,
)
from ir.ops.fused import Fused
from ir.ops.index import (
    ArgMax,
    ArgMin,
    MaxPoolIndices,
    Take,
    TakeAlong,
    TakeAlongGrad,
    TakeGrad,
)
from ir.ops.local import LocalConv
from ir.ops.loss import (
    CrossEntropy,
    CrossEntropyGrad,
    LogSoftmax,
    Softmax,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
    SoftmaxGrad,
    SquaredLoss,
)
from ir.ops.movement import Concat, Pad, Reverse, Slice
from ir.ops.norm import (
    BatchNorm,
    BatchNormTraining,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    RmsNorm,
)
from ir.ops.pointwise import Add, Bias, Mul, Relu, ReluGrad, Scale, Shift, Sub
from ir.ops.pool import AveragePool, AveragePoolGrad, MaxPool, MaxPoolGrad, MaxPoolPick
from ir.ops.pool_variants import ChannelPool, LpPool, WeightedPool
from ir.ops.reduce import Mean, ReduceMax, ReduceMin, ReduceProd, ReduceProdGrad
from ir.ops.resize import Resize
from ir.ops.scan import CumSum
from ir.ops.shape import Expand, Reshape, Sum, Transpose
from ir.ops.tiled import TiledBias, TiledConv

OPS: tuple[type[Op], ...] = (
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    ConnectedConv,
    ConnectedLocalConv,
    LocalConv,
    TiledConv,
    TiledBias,
    CircularPad,
    MaxPool,
    MaxPoolGrad,
    MaxPoolPick,
    AveragePool,
    AveragePoolGrad,
    LpPool,
    WeightedPool,
    ChannelPool,
    AdaptivePool,
    Resize,
    BatchNorm,
    BatchNormTraining,
    LayerNorm,
    GroupNorm,
    RmsNorm,
    LocalResponseNorm,
    Dense,
    MatMul,
    Bias,
    Relu,
    ReluGrad,
    Add,
    Sub,
    Mul,
    Scale,
    Shift,
    Div,
    Power,
    Maximum,
    Minimum,
    Greater,
    GreaterEqual,
    Equal,
    Where,
    Identity,
    StopGradient,
    Exp,
    Log,
    Sqrt,
    Square,
    Reciprocal,
    Abs,
    Sign,
    Step,
    Floor,
    Ceil,
    Round,
    Tanh,
    Logistic,
    Erf,
    Softplus,
    Silu,
    Gelu,
    Elu,
    LeakyRelu,
    Clip,
    Cast,
    Constant,
    Uniform,
    Reshape,
    Transpose,
    Slice,
    Pad,
    Concat,
    Reverse,
    Sum,
    Mean,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceProdGrad,
    CumSum,
    ArgMax,
    ArgMin,
    Take,
    TakeGrad,
    TakeAlong,
    TakeAlongGrad,
    MaxPoolIndices,
    Expand,
    Softmax,
    SoftmaxGrad,
    LogSoftmax,
    CrossEntropy,
    CrossEntropyGrad,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
    SquaredLoss,
    CompositeGrad,
    Fused,
    Elementwise,
)

OP_BY_NAME: dict[str, type[Op]] = {op.name: op for op in OPS}
