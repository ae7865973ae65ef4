"""Fixtures that state sizes, counts and costs: from attributes and inputs to the outputs."""

from collections.abc import Callable
from typing import Any

from ir.ops.window import output_size
from tests.fixture_graphs.rules import Attrs


def size(attrs: Attrs, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"size": output_size(attrs["n"], attrs["k"], attrs["s"], attrs["p"], attrs["p"])}


COMPUTED: dict[str, Callable[[Attrs, dict[str, Any]], dict[str, Any]]] = {"output_size": size}
