"""Images of another size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import ir
from convc.frontends.onnx.export.call import Call, Emit
from convc.frontends.onnx.export.writer import NoFormError
from ir import ops
from ir.dims import Dim


def _resize(n: Call[ops.Resize]) -> str:
    """By sizes where these determine the scale, so that no rounding of a scale matters."""
    op = n.op
    attributes = {
        "mode": op.mode,
        "coordinate_transformation_mode": op.coordinates,
        "nearest_mode": op.rounding if op.mode == "nearest" else None,
    }
    if not op.factors or _are_whole(op.factors, n.shape[2:]):
        return n("Resize", n.x, "", "", n.extents(n.out), **attributes)
    scales = np.array([1, 1, *(p / q for p, q in op.factors)], np.float32)
    if any(float(scale) * q != p for scale, (p, q) in zip(scales[2:], op.factors, strict=True)):
        raise NoFormError(f"the factors {op.factors} are float32 in ONNX, which rounds them")
    return n("Resize", n.x, "", n.constant(scales, "scales"), **attributes)


def _are_whole(factors: Sequence[tuple[int, int]], size: Sequence[Dim]) -> bool:
    """Whether factors make whole numbers of cells."""
    pairs = zip(factors, size, strict=True)
    return all(q == 1 or (isinstance(m, int) and m * p % q == 0) for (p, q), m in pairs)


RESIZES: dict[type[ir.Op], Emit] = {ops.Resize: _resize}
