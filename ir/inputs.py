"""Checking run-time inputs against a graph; the interpreter and the runtime share it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ir.dims import bind, symbols
from ir.errors import Error, InputError, did_you_mean
from ir.graph import Graph
from ir.types import Array, TensorType


def check_inputs(
    graph: Graph, inputs: Mapping[str, Array], any_float: bool = False
) -> dict[str, int]:
    """The values of the graph's symbols that the arrays' shapes imply.

    Raises InputError for missing, extra and non-array inputs, for another rank, extent or element
    type than declared (with `any_float`, float inputs may have any float element type), and for
    symbols that two extents bind differently.
    """
    for name in inputs:
        if name not in graph.inputs:
            hint = did_you_mean(name, graph.inputs)
            known = f"its inputs: {', '.join(graph.inputs) or 'none'}"
            raise InputError(f"graph '{graph.name}' has no input '{name}'{hint} ({known})")
    missing = [f"'{name}' ({type})" for name, type in graph.inputs.items() if name not in inputs]
    if missing:
        raise InputError(f"graph '{graph.name}' needs {', '.join(missing)}; pass an array for each")
    env: dict[str, int] = {}
    for name, type in graph.inputs.items():
        _check_array(name, type, inputs[name], any_float)
        _bind_plain(name, type, inputs[name], env)
    for name, type in graph.inputs.items():
        _check_extents(name, type, inputs[name], env)
    return env


def _check_array(name: str, type: TensorType, array: Array, any_float: bool) -> None:
    if not isinstance(array, np.ndarray | np.generic):
        given = array.__class__.__name__
        hint = f"convert it with np.asarray(..., '{type.dtype.numpy}')"
        message = f"input '{name}' must be a numpy array of type {type}, got {given}"
        raise InputError(f"{message}; {hint}")
    matches = array.dtype == type.dtype.numpy
    if not matches and not (any_float and type.dtype.is_float and array.dtype.kind == "f"):
        hint = f"convert it with .astype('{type.dtype.numpy}')"
        raise InputError(f"input '{name}' has element type {array.dtype}, not {type.dtype}; {hint}")
    if array.ndim != type.rank:
        raise InputError(f"input '{name}' has shape {array.shape}, the graph asks for {type}")


def _bind_plain(name: str, type: TensorType, array: Array, env: dict[str, int]) -> None:
    """Bind the extents that are a lone symbol."""
    for axis, (extent, size) in enumerate(zip(type.shape, array.shape, strict=True)):
        symbol = str(extent)
        if symbol in symbols(extent) and env.setdefault(symbol, size) != size:
            known = f"{symbol} is {env[symbol]} elsewhere"
            raise InputError(f"input '{name}' ({type}) has {size} on axis {axis}, but {known}")


def _check_extents(name: str, type: TensorType, array: Array, env: Mapping[str, int]) -> None:
    for axis, (extent, size) in enumerate(zip(type.shape, array.shape, strict=True)):
        if unknown := symbols(extent) - env.keys():
            hint = "make it the whole extent of some axis"
            names = ", ".join(sorted(unknown))
            raise InputError(f"input '{name}' ({type}): {names} cannot be inferred; {hint}")
        try:
            wanted = bind(extent, env)
        except Error as error:
            raise InputError(f"input '{name}' ({type}): {error}") from error
        if wanted != size:
            given = f"has shape {array.shape}, axis {axis} must be {wanted}"
            raise InputError(f"input '{name}' {given} ({type})")
