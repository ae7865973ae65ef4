"""Builder methods for cells of the visual cortex: filters whose responses are combined."""

from __future__ import annotations

from ir.build.conv import ConvMethods
from ir.build.core import PerAxis, Value
from ir.errors import ShapeError
from ir.ops.functions import Square
from ir.ops.pool_variants import ChannelPool
from ir.ops.shape import Reshape
from ir.ops.window import Pad


class CellMethods(ConvMethods):
    """A simple cell everywhere in an image is a convolution; these combine several.

    `ir.filters` has kernels for them.
    """

    def complex_cells(
        self,
        x: Value,
        w: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """√(s0² + s1²) of the responses to pairs of kernels: w [2·K, C, *k] → [N, K, *out].

        The kernels of a pair stand side by side, a quarter of a wave apart. Where both responses
        are 0, so is the gradient. Goodfellow et al. 2016, section 9.10.
        """
        responses = self.conv(x, w, stride, pad, boundary=boundary)
        return self.apply(ChannelPool("l2", 2), responses, name=name)

    def quadratic_cells(
        self,
        x: Value,
        w: Value,
        mix: Value,
        stride: PerAxis = 1,
        pad: Pad = 0,
        boundary: str = "zero",
        name: str | None = None,
    ) -> Value:
        """Σ_r mix[i,r]·(w_r · x)²: several quadratic filters a cell, w [R, C, *k], mix [K, R].

        The result is [N, K, *out]. Complex cells are, but for the root, those with a mix of
        pairs of ones. Goodfellow et al. 2016, section 9.10.
        """
        energy = self.apply(Square(), self.conv(x, w, stride, pad, boundary=boundary))
        if self._own(mix).type.rank != 2:
            raise ShapeError(f"quadratic_cells: %{mix.name} is {mix.type}, but mix must be [K, R]")
        pointwise = self.apply(Reshape((*mix.shape, *(1,) * (x.type.rank - 2))), mix)
        return self.conv(energy, pointwise, name=name)
