"""Builder methods for images of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from ir.build.core import Core, Value, items
from ir.dims import Dim
from ir.errors import AttributeValueError
from ir.ops import resize

Factor = int | float | Fraction
FINEST = 1 << 16  # the largest denominator of a factor that is given as a float


class ResizeMethods(Core):
    """Enlarging and shrinking."""

    def resize(
        self,
        x: Value,
        size: Sequence[Dim] = (),
        factors: Factor | Sequence[Factor] = (),
        mode: str = "nearest",
        coordinates: str | None = None,
        rounding: str = "floor",
        name: str | None = None,
    ) -> Value:
        """x [N, C, *S] with the spatial extents `size`, or S times `factors`, rounded down.

        `mode`: "nearest" (by `rounding`: "floor", "ceil", "round_prefer_floor",
        "round_prefer_ceil") or "linear". `coordinates` says where cell i of the result lies:
        "half_pixel" (the default for linear), "align_corners" or "asymmetric" (the default for
        nearest); see `ir.ops.Resize`.
        """
        axes = len(self._spatial("resize", "x", x, "[N, C, *S]"))
        if isinstance(factors, int | float | Fraction):
            factors = (factors,) * axes
        pairs = tuple(_ratio(factor) for factor in items("resize: factors", factors))
        default = "half_pixel" if mode == "linear" else "asymmetric"
        extents = items("resize: size", size)
        op = resize.Resize(extents, pairs, mode, coordinates or default, rounding)
        return self.apply(op, x, name=name)


def _ratio(factor: Factor) -> tuple[int, int]:
    """A factor as a quotient of whole numbers."""
    number = isinstance(factor, int | float | Fraction) and not isinstance(factor, bool)
    if not number or not 0 < factor < math.inf:
        raise AttributeValueError(f"resize: a factor must be a positive number, not {factor!r}")
    return Fraction(factor).limit_denominator(FINEST).as_integer_ratio()
