"""Which lines of a convolution share patches, and how their weights are ordered.

The input gradient has a set of lines for each residue of the stride. Residues whose patches are
equal, as all are where the stride is no less than the kernel, make one product with more rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from convc.algorithms.convolution import Convolution
from convc.algorithms.geometry import Line, Lines
from convc.algorithms.im2col.tiles import COLUMNS, PIXELS, even_part, patch_index
from convc.schedule import Nest, Point, Schedule, lower
from ir.loops import Affine, Kernel, KernelBuilder
from ir.loops.nodes import Expr, Load, Scalar


@dataclass(frozen=True)
class Family:
    """Lines that read alike: ``classes`` of them, each further by steps in output and weights."""

    line: Line
    classes: int = 1
    steps: tuple[int, int] = (0, 0)

    def out_at(self, q: Affine, z: Affine) -> Affine:
        return self.line.out_at(q) + z * self.steps[0]

    def weight_at(self, t: Affine, z: Affine) -> Affine:
        return self.line.weight_at(t) + z * self.steps[1]

    def joined(self, line: Line) -> Family | None:
        """With one more line, if that reads alike and is a step further."""
        mine, other = (
            (each.count, each.taps, each.input, each.out[1], each.weight[1])
            for each in (self.line, line)
        )
        if mine != other:
            return None
        ways = (line.out[0] - self.line.out[0], line.weight[0] - self.line.weight[0])
        steps = ways if self.classes == 1 else self.steps
        if ways != tuple(step * self.classes for step in steps):
            return None
        return Family(self.line, self.classes + 1, steps)


def families(lines: Sequence[Lines]) -> list[tuple[Family, ...]]:
    """The residues of a transposed stride, those with equal patches together."""
    axes: list[list[Family]] = []
    for along in zip(*lines, strict=True):
        found: list[Family] = []
        for line in dict.fromkeys(along):
            joined = found[-1].joined(line) if found else None
            found[-1:] = [joined] if joined else [*found[-1:], Family(line)]
        axes.append(found)
    return list(product(*axes)) if axes else []


@dataclass(frozen=True)
class Product:
    """The products of one family of lines: per group, ``outs`` channels for each class.

    Their weights stand at ``base`` in a flat buffer: [groups, *classes, outs, inner, *taps].
    """

    families: tuple[Family, ...]
    groups: int
    outs: int
    inner: int
    base: int

    @property
    def lines(self) -> Lines:
        return tuple(family.line for family in self.families)

    @property
    def taps(self) -> tuple[int, ...]:
        return tuple(line.taps for line in self.lines)

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(family.classes for family in self.families)

    @property
    def depth(self) -> int:
        """Elements of a patch."""
        return self.inner * prod(self.taps)

    def pixels(self, itemsize: int, lanes: int) -> int:
        """Pixels of a tile, at most."""
        return max(lanes, min(PIXELS, COLUMNS // max(prod(self.taps) * itemsize, 1)))

    def channels(self, pixels: int, itemsize: int) -> int:
        """Input channels whose patches of so many pixels are kept at a time."""
        room = COLUMNS // max(prod(self.taps) * pixels * itemsize, 1)
        return even_part(self.inner, max(1, room))

    @property
    def size(self) -> int:
        return self.groups * prod(self.classes) * self.outs * self.depth

    def row(self, group: Affine, z: Sequence[Affine], out: Affine) -> Affine:
        """Where the weights of an output channel begin."""
        number = group
        for position, count in zip((*z, out), (*self.classes, self.outs), strict=True):
            number = number * count + position
        return number * self.depth + self.base


def products_of(shape: Convolution) -> list[Product]:
    """The products that make a convolution, their weights one after the other."""
    found: list[Product] = []
    for each in families(shape.lines()):
        base = found[-1].base + found[-1].size if found else 0
        found.append(Product(each, shape.op.groups, shape.out, shape.inner, base))
    return found


def pack_kernel(shape: Convolution, parts: Sequence[Product], dtype: Scalar) -> Kernel:
    """The weights of an input gradient [K, C/groups, *taps] in the order of ``Product``."""
    k = KernelBuilder("pack_rows")
    w = k.read("w", dtype, shape.weights)
    packed = k.write("packed", dtype, (sum(part.size for part in parts),))
    for part in parts:
        taps = {f"t{axis}": extent for axis, extent in enumerate(part.taps)}
        classes = {f"z{axis}": extent for axis, extent in enumerate(part.classes)}

        def copy(
            p: Point, _: Expr, part: Product = part, taps: Sequence[str] = (*taps,),
            classes: Sequence[str] = (*classes,),
        ) -> tuple[Load, Expr]:  # fmt: skip
            ways = zip(part.families, taps, classes, strict=True)
            at = (family.weight_at(p[t], p[z]) for family, t, z in ways)
            row = part.row(p["g"], [p[z] for z in classes], p["o"])
            source = w[(p["g"] * part.inner + p["i"], p["o"], *at)]
            return packed[row + patch_index(p, part.taps)], source

        axes = {"g": part.groups, **classes, "o": part.outs, "i": part.inner, **taps}
        lower(k, Nest(dtype, axes, copy), Schedule(("g", *classes, "o")))
    return k.build()
