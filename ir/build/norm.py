"""Builder methods for normalisation."""

from __future__ import annotations

from ir.build.core import Core, PerAxis, Value
from ir.build.reduce import axes_of
from ir.errors import ShapeError
from ir.ops import norm, pointwise, shape


class NormMethods(Core):
    """Normalisation, then a learned scale and shift where they are given.

    For x [N, C, *S] they are [C]; those of `layer_norm` and `rms_norm` are broadcast as in numpy.
    """

    def batch_norm(
        self,
        x: Value,
        mean: Value,
        variance: Value,
        scale: Value | None = None,
        shift: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """Each channel less its mean [C], over the root of its variance [C], as for inference."""
        y = self.apply(norm.BatchNorm(epsilon), x, mean, variance, name=_last(name, scale, shift))
        return self._by_channel(y, scale, shift, name)

    def batch_norm_training(
        self,
        x: Value,
        mean: Value,
        variance: Value,
        scale: Value | None = None,
        shift: Value | None = None,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        unbiased: bool = True,
        name: str | None = None,
    ) -> tuple[Value, Value, Value]:
        """Each channel less its mean over the batch, over its deviation there; new running values.

        The running mean and variance [C] move by `momentum` towards those of the batch. The
        variance that x is divided by is that of the batch; the one that is moved towards estimates
        that of all data, n/(n - 1) times as much, unless `unbiased` is false.
        """
        op = norm.BatchNormTraining(epsilon, momentum, unbiased)
        last = _last(name, scale, shift) or self.fresh(op.name)
        names = (last, self.fresh(f"{last}.mean"), self.fresh(f"{last}.variance"))
        y, new_mean, new_variance = self.emit(op, (x, mean, variance), names)
        return self._by_channel(y, scale, shift, name), new_mean, new_variance

    def layer_norm(
        self,
        x: Value,
        axes: PerAxis = -1,
        scale: Value | None = None,
        shift: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """x less its mean over axes, over its deviation there."""
        chosen = axes_of("layer_norm", axes, self._own(x).type.rank)
        op = norm.LayerNorm(epsilon, chosen)
        y = self.apply(op, x, name=_last(name, scale, shift))
        return self._affine(y, scale, shift, name)

    def rms_norm(
        self,
        x: Value,
        axes: PerAxis = -1,
        scale: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """x over the root of its mean square over axes."""
        chosen = axes_of("rms_norm", axes, self._own(x).type.rank)
        y = self.apply(norm.RmsNorm(epsilon, chosen), x, name=_last(name, scale))
        return self._affine(y, scale, None, name)

    def instance_norm(
        self,
        x: Value,
        scale: Value | None = None,
        shift: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """Each channel of each example less its mean, over its deviation."""
        axes = len(self._spatial("instance_norm", "x", x, "[N, C, *S]"))
        op = norm.LayerNorm(epsilon, tuple(range(2, axes + 2)))
        y = self.apply(op, x, name=_last(name, scale, shift))
        return self._by_channel(y, scale, shift, name)

    def group_norm(
        self,
        x: Value,
        groups: int,
        scale: Value | None = None,
        shift: Value | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> Value:
        """Each of so many groups of neighbouring channels less its mean, over its deviation."""
        y = self.apply(norm.GroupNorm(epsilon, groups), x, name=_last(name, scale, shift))
        return self._by_channel(y, scale, shift, name)

    def local_response_norm(
        self,
        x: Value,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """x over (k + alpha/size · the sum of squares of `size` neighbouring channels)^beta."""
        return self.apply(norm.LocalResponseNorm(size, alpha, beta, k), x, name=name)

    def _by_channel(
        self, y: Value, scale: Value | None, shift: Value | None, name: str | None
    ) -> Value:
        """y [N, C, *S] times scale [C] plus shift [C]."""
        if scale is not None:
            if self._own(scale).shape != y.shape[1:2]:
                hint = "needs one entry per channel"
                raise ShapeError(f"{y.name}: scale is {scale.type}, x is {y.type}; scale {hint}")
            column = self.apply(shape.Reshape((*scale.shape, *(1,) * (y.type.rank - 2))), scale)
            y = self.apply(pointwise.Mul(), y, column, name=_last(name, shift))
        return y if shift is None else self.apply(pointwise.Bias(), y, shift, name=name)

    def _affine(
        self, y: Value, scale: Value | None, shift: Value | None, name: str | None
    ) -> Value:
        """y times scale plus shift, broadcast."""
        if scale is not None:
            y = self.apply(pointwise.Mul(), y, scale, name=_last(name, shift))
        return y if shift is None else self.apply(pointwise.Add(), y, shift, name=name)


def _last(name: str | None, *later: Value | None) -> str | None:
    """The name of the result, for a node that is followed by none."""
    return name if all(value is None for value in later) else None
