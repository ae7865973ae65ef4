"""Elementwise ops: in whatever layout their operands already have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import ir
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convert import flat, walk
from convc.algorithms.epilogue import channel_vector, relu
from convc.layout import zero_halo
from convc.schedule import Nest, Point, Schedule, lower
from ir.loops import Affine, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Expr, Load, Scalar
from ir.ops import Add, Bias, Mul, Relu, ReluGrad, Scale, Sub

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

Body = Callable[[KernelBuilder, Scalar, ir.Op, list[Expr]], Expr]


def _relu_grad(k: KernelBuilder, dtype: Scalar, op: ir.Op, args: list[Expr]) -> Expr:
    zero = k.constant(0, dtype)
    return select(call("gt", args[0], zero), args[1], zero)


def _scale(k: KernelBuilder, dtype: Scalar, op: ir.Op, args: list[Expr]) -> Expr:
    assert isinstance(op, Scale)
    return args[0] * k.constant(op.factor, dtype)


BODIES: dict[type[ir.Op], Body] = {
    Relu: lambda k, dtype, op, args: relu(k, args[0], dtype),
    ReluGrad: _relu_grad,
    Add: lambda k, dtype, op, args: args[0] + args[1],
    Sub: lambda k, dtype, op, args: args[0] - args[1],
    Mul: lambda k, dtype, op, args: args[0] * args[1],
    Bias: lambda k, dtype, op, args: args[0] + args[1],
    Scale: _scale,
}


class Pointwise:
    """One loop over all elements; operands of other shapes are broadcast."""

    name: ClassVar[str] = "pointwise"
    reorders_only: ClassVar[bool] = True

    def supports(self, site: Site) -> str | None:
        return None if type(site.op) in BODIES and not site.epilogue else "only for elementwise ops"

    def seconds(self, site: Site) -> float:
        return site.op.cost(*site.inputs).bytes / 60e9

    def tolerance(self, site: Site) -> float:
        return 1e-6 if site.dtype == "f32" else 1e-14

    def block(self, site: Site, given: Sequence[int]) -> int:
        if not self._images(site):
            return 1
        return given[0] if isinstance(site.op, Bias) else max(given)

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        image = Wish((1, site.lanes), exact=False)
        if isinstance(site.op, Bias):
            return image if len(site.result) > 2 else AS_PLAIN, AS_PLAIN
        return (image if self._images(site) else AS_PLAIN,) * len(site.inputs)

    def lower(self, site: Site, into: Lowering) -> None:
        if not self._images(site):
            _broadcast(site, into)
            return
        count = 1 if isinstance(site.op, Bias) else len(site.inputs)
        block = self.block(site, [into.block(operand) for operand in range(count)])
        operands = [into.read(operand, block) for operand in range(count)]
        if isinstance(site.op, Bias):
            operands.append(channel_vector(into, 1, block))
        result = into.write(block)
        _images(site, into, operands, result)

    @staticmethod
    def _images(site: Site) -> bool:
        """Whether all operands have the result's shape, a bias apart, and it is an image."""
        same = all(type == site.outputs[0] for type in site.inputs)
        return len(site.result) > 2 and (same or isinstance(site.op, Bias))


def _images(site: Site, into: Lowering, operands: list[Stored], result: Stored) -> None:
    k = KernelBuilder(site.op.name)
    biased = isinstance(site.op, Bias)
    images = [v.image(k, "x") for v in (operands[:1] if biased else operands)]
    vector = k.read("bias", site.dtype, operands[1].shape) if biased else None
    y = result.image(k, "y", write=True)
    block = result.layout.block

    def body(index: tuple[Affine | int, ...]) -> None:
        args: list[Expr] = [image[index] for image in images]
        if vector:
            args.append(vector[Affine.of(index[1]) * block + index[-1]])
        k.store(y[index], BODIES[type(site.op)](k, site.dtype, site.op, args))

    zero_halo(k, y)
    walk(k, y, site.lanes, body)
    into.run(k.build(), *operands, result)


def _broadcast(site: Site, into: Lowering) -> None:
    """Plain data of any rank; an operand is repeated along axes where its extent is 1."""
    operands, result = [into.read(i) for i in range(len(site.inputs))], into.write()
    k = KernelBuilder(site.op.name)
    shapes = [_aligned(site, i) for i in range(len(site.inputs))]
    if all(shape == site.result for shape in shapes):
        size = result.type.size
        assert isinstance(size, int)
        buffers = [k.read("x", site.dtype, (size,)) for _ in operands]
        y = k.write("y", site.dtype, (size,))
        body = BODIES[type(site.op)]

        def element(i: Affine) -> None:
            k.store(y[i], body(k, site.dtype, site.op, [b[i] for b in buffers]))

        flat(k, site.dtype, size, site.target, element)
    else:
        sources = [k.read("x", site.dtype, shape) for shape in shapes]
        y = k.write("y", site.dtype, site.result)
        axes = {f"a{axis}": extent for axis, extent in enumerate(site.result)}

        def store(p: Point, _: Expr) -> tuple[Load, Expr]:
            at = tuple(p[a] for a in axes)
            args: list[Expr] = [
                source[tuple(0 if n == 1 else i for n, i in zip(source.shape, at, strict=True))]
                for source in sources
            ]
            return y[at], BODIES[type(site.op)](k, site.dtype, site.op, args)

        *outer, last = axes
        lower(k, Nest(site.dtype, axes, store), Schedule(tuple(outer), vector=(last, site.lanes)))
    into.run(k.build(), *operands, result)


def _aligned(site: Site, operand: int) -> tuple[int, ...]:
    """The operand's shape with leading axes of extent 1, as numpy aligns it; a bias on axis 1."""
    shape, rank = site.shape(operand), len(site.result)
    if isinstance(site.op, Bias) and operand == 1:
        return (1, *shape, *(1,) * (rank - 2))
    return (1,) * (rank - len(shape)) + shape
