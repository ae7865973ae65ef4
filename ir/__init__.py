"""What a convolutional program means: typed graphs of ops on tensors, printed, parsed, checked,
differentiated and interpreted in numpy."""

from ir import filters
from ir.analysis import ReceptiveField, parameters, receptive_fields
from ir.autodiff import vjp
from ir.builder import Builder, Value
from ir.dims import Dim, Sym, bind, parse_dim, symbol, symbols
from ir.errors import (
    AttributeValueError,
    DTypeError,
    Error,
    FileError,
    GradientError,
    GraphError,
    InputError,
    ParseError,
    ShapeError,
    WeightsError,
)
from ir.expand import expand
from ir.files import load, save
from ir.gradient_check import check_gradients
from ir.graph import Graph, Node
from ir.inputs import check_inputs
from ir.interpreter import dead_after, evaluations, interpret, values
from ir.matrix import convolution_matrix
from ir.op import Cost, Example, Op
from ir.ops import OP_BY_NAME, OPS
from ir.ops.window import transposed_sizes
from ir.rewrite import dead_code
from ir.text import parse, to_text
from ir.types import Array, DType, TensorType

__all__ = [
    "OPS",
    "OP_BY_NAME",
    "Array",
    "AttributeValueError",
    "Builder",
    "Cost",
    "DType",
    "DTypeError",
    "Dim",
    "Error",
    "Example",
    "FileError",
    "GradientError",
    "Graph",
    "GraphError",
    "InputError",
    "Node",
    "Op",
    "ParseError",
    "ReceptiveField",
    "ShapeError",
    "Sym",
    "TensorType",
    "Value",
    "WeightsError",
    "bind",
    "check_gradients",
    "check_inputs",
    "convolution_matrix",
    "dead_after",
    "dead_code",
    "evaluations",
    "expand",
    "filters",
    "interpret",
    "load",
    "parameters",
    "parse",
    "parse_dim",
    "receptive_fields",
    "save",
    "symbol",
    "symbols",
    "to_text",
    "transposed_sizes",
    "values",
    "vjp",
]
