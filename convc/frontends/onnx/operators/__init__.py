"""What each operator emits, by name; those of other domains than ONNX's own have it in front."""

from __future__ import annotations

from convc.frontends.onnx.call import Emit
from convc.frontends.onnx.operators.activation import ACTIVATIONS
from convc.frontends.onnx.operators.border import BORDERS
from convc.frontends.onnx.operators.conv import CONVOLUTIONS
from convc.frontends.onnx.operators.einsum import SUMS_OF_PRODUCTS
from convc.frontends.onnx.operators.elementwise import ELEMENTWISE
from convc.frontends.onnx.operators.index import INDEXED
from convc.frontends.onnx.operators.linear import PRODUCTS
from convc.frontends.onnx.operators.movement import MOVEMENTS
from convc.frontends.onnx.operators.norm import NORMS
from convc.frontends.onnx.operators.own import OWN_FUNCTIONS
from convc.frontends.onnx.operators.pool import POOLS
from convc.frontends.onnx.operators.reduce import REDUCTIONS
from convc.frontends.onnx.operators.resize import RESIZES
from convc.frontends.onnx.operators.shape import SHAPES
from convc.frontends.onnx.operators.softmax import SOFTMAX
from convc.frontends.onnx.operators.training import TRAINING

OPERATORS: dict[str, Emit] = {
    **CONVOLUTIONS,
    **POOLS,
    **PRODUCTS,
    **SUMS_OF_PRODUCTS,
    **ACTIVATIONS,
    **ELEMENTWISE,
    **NORMS,
    **SOFTMAX,
    **REDUCTIONS,
    **MOVEMENTS,
    **INDEXED,
    **BORDERS,
    **RESIZES,
    **SHAPES,
    **TRAINING,
    **OWN_FUNCTIONS,
}
