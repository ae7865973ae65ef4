"""Functions that a model brings along: what other engines need many operators for, and the importer
reads back as one op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from convc.frontends.onnx.names import OWN
from ir.numeric import FIRST, GOLDEN, SECOND

if TYPE_CHECKING:
    from onnx import FunctionProto

UNIFORM = "Uniform"


def functions(kinds: Iterable[str], opset: int) -> list[FunctionProto]:
    """Those among them that are functions of this module."""
    from onnx import parser

    header = f'<domain: "{OWN}", opset_import: ["": {opset}]>\n'
    wanted = dict.fromkeys(kind for kind in kinds if kind in TEXTS)
    return [parser.parse_function(header + TEXTS[kind]) for kind in wanted]


def _shifted(y: str, x: str, bits: int) -> str:
    """Integers of 64 bits shifted towards the low end; zeros come in, also for the sign."""
    return f"""
        {y}_places = Constant <value_int: int = {bits}> ()
        {y}_by = Cast <to: int = 13> ({y}_places)
        {y}_from = Cast <to: int = 13> ({x})
        {y}_made = BitShift <direction: string = "RIGHT"> ({y}_from, {y}_by)
        {y} = Cast <to: int = 7> ({y}_made)"""


def _mixed(y: str, x: str, bits: int, factor: int) -> str:
    """One round of SplitMix64, in integers that wrap around."""
    return f"""{_shifted(f"{y}_low", x, bits)}
        {y}_both = BitwiseXor ({x}, {y}_low)
        {y}_factor = Constant <value_int: int = {factor}> ()
        {y} = Mul ({y}_both, {y}_factor)"""


TEXTS: Mapping[str, str] = {
    UNIFORM: f"""{UNIFORM} <dtype> (seed, shape) => (y) {{
        one = Constant <value_int: int = 1> ()
        count = ReduceProd <keepdims: int = 0> (shape)
        after = Add (count, one)
        number = Range (one, after, one)
        golden = Constant <value_int: int = {GOLDEN}> ()
        offset = Mul (number, golden)
        z = Add (seed, offset)
        {_mixed("first", "z", 30, FIRST)}
        {_mixed("second", "first", 27, SECOND)}
        {_shifted("low", "second", 31)}
        mixed = BitwiseXor (second, low)
        {_shifted("top", "mixed", 40)}
        whole = Cast <to: int = @dtype> (top)
        unit = Constant <value_float: float = {2.0**-24}> ()
        step = CastLike (unit, whole)
        flat = Mul (whole, step)
        y = Reshape <allowzero: int = 1> (flat, shape)
    }}"""
}
