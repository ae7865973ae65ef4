"""The inputs of a model: their types, with sizes that may be symbolic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ir
from convc.errors import InputError, LoadError
from convc.frontends.onnx.names import symbol_name
from convc.frontends.onnx.tensors import BOOL, MAX_RANK, value_type
from ir.dims import Dim, symbol, symbols
from ir.errors import did_you_mean
from ir.types import Array, described

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

Shape = Sequence[int | str]
LISTED = 3  # inputs in a message


class Inputs:
    """What is given when the model runs: not weights, and not what is given at import."""

    def __init__(
        self, graph: GraphProto, shapes: Mapping[str, Shape], constants: Mapping[str, Array]
    ) -> None:
        stored = {tensor.name for tensor in graph.initializer}
        stored |= {tensor.values.name for tensor in graph.sparse_initializer}
        given = [value for value in graph.input if value.name not in stored]
        for what, names in (("shapes", shapes), ("constants", constants)):
            for name in names:
                known = [value.name for value in given]
                if name not in known:
                    hint = did_you_mean(name, known)
                    raise InputError(f"{what}: the model has no input '{name}'{hint}")
        self.protos = [value for value in given if value.name not in constants]
        self.shapes = shapes
        self._symbols: dict[str, Dim] = {}
        self._taken: set[str] = set()

    def types(self) -> Iterator[tuple[ValueInfoProto, ir.TensorType, bool]]:
        """Each input with its type, and whether it is boolean."""
        for value in self.protos:
            try:
                type = self._type(value)
            except LoadError as error:
                raise error.within(f"input '{value.name}'") from error
            yield value, type, value.type.tensor_type.elem_type == BOOL

    def hint(self) -> str:
        """How to fix the sizes that are symbolic."""
        types = {value.name: type for value, type, _ in self.types() if not type.is_static}
        names = sorted({name for t in types.values() for n in t.shape for name in symbols(n)})
        listed = [f"{name!r}: ({', '.join(map(str, t.shape))}{',' * (t.rank == 1)})"
                  for name, t in list(types.items())[:LISTED]]  # fmt: skip
        numbers = f"with numbers for {', '.join(names[: 2 * LISTED])}"
        return f"fix the sizes: shapes={{{', '.join(listed)}}} {numbers}"

    def _type(self, value: ValueInfoProto) -> ir.TensorType:
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            raise LoadError("only tensors are supported, no sequences, maps or optional values")
        tensor = value.type.tensor_type
        dtype = value_type(tensor.elem_type)
        if value.name in self.shapes:
            return ir.TensorType(dtype, self._given(value.name))
        if not tensor.HasField("shape"):
            raise LoadError(f"its shape is unknown; give it: shapes={{{value.name!r}: (1, 3)}}")
        dims = list(enumerate(tensor.shape.dim))
        if len(dims) > MAX_RANK:
            raise LoadError(f"{len(dims)} axes; at most {MAX_RANK} are supported")
        return ir.TensorType(dtype, tuple(self._extent(value.name, *each) for each in dims))

    def _given(self, name: str) -> tuple[Dim, ...]:
        shape = self.shapes[name]
        for extent in shape:
            if isinstance(extent, bool) or not isinstance(extent, int | str):
                raise InputError(f"shapes: {described(extent)} is no extent of input '{name}'")
            if isinstance(extent, int) and extent < 0:
                raise InputError(f"shapes: extent {extent} of input '{name}' is negative")
        return tuple(symbol(n) if isinstance(n, str) else int(n) for n in shape)

    def _extent(self, name: str, axis: int, dim: Any) -> Dim:
        """An extent; one without a value and a name is called after the input and the axis."""
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
            return int(dim.dim_value)
        text = dim.dim_param or f"{name}_{axis}"
        if text not in self._symbols:
            self._symbols[text] = symbol(symbol_name(text, self._taken))
        return self._symbols[text]
