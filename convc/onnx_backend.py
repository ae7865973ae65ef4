"""ONNX's Backend interface: ``prepare(model).run(inputs)``, and its shorter forms.

    prepared = convc.onnx_backend.prepare(onnx.load("model.onnx"))
    (y,) = prepared.run([x])

Any ``onnx.backend.test.BackendTest`` takes this module. Results have the element types that the
model declares.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import ir
from convc.errors import Error, InputError, LoadError
from convc.frontends.onnx import load, require_onnx
from convc.frontends.onnx.errors import ConstantNeededError
from convc.frontends.onnx.tensors import NUMPY, value_type
from convc.model import compile
from ir.types import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Arrays: TypeAlias = Sequence[Array] | Mapping[str, Array]
Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
KEPT = 16
LONGEST = 4096  # elements of an input whose values are needed to know shapes


def supports_device(device: str) -> bool:
    """Whether the device is the CPU."""
    return device.partition(":")[0] == "CPU"


def is_compatible(model: ModelProto, device: str = "CPU", **options: Any) -> bool:
    """Whether every operator of the model is known, of its functions and branches too."""
    from convc.frontends.onnx.survey import unknown_operators

    return supports_device(device) and not unknown_operators(model)


def prepare(
    model: ModelProto, device: str = "CPU", reference: bool = False, **options: Any
) -> Prepared:
    """A model to be run; it is imported and compiled for the shapes that it is run on.

    With `reference` it is interpreted; other options are those of ``convc.compile``.
    """
    if not supports_device(device):
        raise InputError(f"device {device!r} is not the CPU")
    require_onnx()
    return Prepared(model, reference, options)


def run_model(
    model: ModelProto, inputs: Arrays, device: str = "CPU", **options: Any
) -> tuple[Array, ...]:
    """The outputs of a model for inputs in their order, or by name."""
    return prepare(model, device, **options).run(inputs)


def run_node(
    node: NodeProto,
    inputs: Sequence[Array],
    device: str = "CPU",
    outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
    opset_version: int | None = None,
    **options: Any,
) -> tuple[Array, ...]:
    """The outputs of one node, for an array per input that is not left out."""
    onnx = require_onnx()
    names = [name for name in dict.fromkeys(node.input) if name]
    arrays = dict(zip(names, map(np.asarray, inputs), strict=True))
    info = onnx.helper.make_tensor_value_info
    kind = onnx.helper.np_dtype_to_tensor_dtype
    given = [info(name, kind(array.dtype), array.shape) for name, array in arrays.items()]
    made = [name for name in node.output if name]
    version = opset_version or onnx.defs.onnx_opset_version()
    opsets = [onnx.helper.make_opsetid(node.domain, version)]
    results = [onnx.ValueInfoProto(name=name) for name in made]
    graph = onnx.helper.make_graph([node], "node", given, results)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    if outputs_info is None:
        found = onnx.shape_inference.infer_shapes(model).graph.output
    else:
        found = [info(name, kind(np.dtype(dtype)), shape)
                 for name, (dtype, shape) in zip(made, outputs_info, strict=True)]  # fmt: skip
    del model.graph.output[:]
    model.graph.output.extend(found)
    return run_model(model, arrays, device, **options)


class Prepared:
    """A model that can be run; what was compiled for the last shapes is kept."""

    def __init__(self, model: ModelProto, reference: bool, options: Mapping[str, Any]) -> None:
        self.model, self.reference, self.options = model, reference, options
        stored = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {
            value.name: value.type.tensor_type.elem_type
            for value in model.graph.input
            if value.name not in stored
        }
        self._needed: set[str] = set()  # inputs whose values shapes depend on
        self._made: OrderedDict[Any, tuple[frozenset[str], Run]] = OrderedDict()

    def run(self, inputs: Arrays, **options: Any) -> tuple[Array, ...]:
        """The outputs in their order, for inputs in their order or by name."""
        arrays = self._named(inputs)
        while True:
            try:
                constant, run = self._specialised(arrays)
                break
            except ConstantNeededError as error:
                more = {name for name in error.inputs if arrays[name].size <= LONGEST}
                if more <= self._needed:
                    raise
                self._needed |= more
        results = run({name: array for name, array in arrays.items() if name not in constant})
        pairs = zip(self.model.graph.output, results.values(), strict=True)
        return tuple(_declared(value.type.tensor_type.elem_type, array) for value, array in pairs)

    def _named(self, inputs: Arrays) -> dict[str, Array]:
        """Arrays by name, in the element types that are computed with."""
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(self.inputs):
                listed = ", ".join(self.inputs) or "none"
                raise InputError(f"{len(inputs)} arrays for the inputs {listed}")
            inputs = dict(zip(self.inputs, inputs, strict=True))
        if inputs.keys() != self.inputs.keys():
            listed = ", ".join(self.inputs) or "none"
            raise InputError(f"arrays for {', '.join(inputs)}; the inputs are: {listed}")
        return {
            name: np.ascontiguousarray(array).reshape(np.shape(array))
            .astype(value_type(self.inputs[name]).numpy, copy=False)
            for name, array in inputs.items()
        }  # fmt: skip

    def _specialised(self, arrays: Mapping[str, Array]) -> tuple[frozenset[str], Run]:
        """What runs the model on arrays of these shapes, and what it does not take any more."""
        needed = sorted(self._needed)
        shapes = {name: array.shape for name, array in arrays.items() if name not in self._needed}
        key = (*shapes.items(), *((name, arrays[name].tobytes()) for name in needed))
        if key not in self._made:
            constants = {
                name: arrays[name].astype(NUMPY.get(self.inputs[name], arrays[name].dtype))
                for name in needed
            }
            graph = load(self.model, shapes, constants)
            self._made[key] = frozenset(needed), self._runner(graph)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]

    def _runner(self, graph: ir.Graph) -> Run:
        if self.reference:
            return lambda arrays: ir.interpret(graph, arrays)
        return compile(graph, **self.options).run


def _declared(element: int, array: Array) -> Array:
    """A result in the element type that the model declares."""
    if not element:
        return array
    try:
        dtype = require_onnx().helper.tensor_dtype_to_np_dtype(element)
    except (KeyError, ValueError) as error:
        raise LoadError(f"an output has the unknown element type {element}") from error
    return np.asarray(array.astype(dtype, copy=False))


__all__ = ["Error", "Prepared", "is_compatible", "prepare", "run_model", "run_node"]
