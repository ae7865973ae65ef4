"""Running sums along an axis of plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import Site
from convc.algorithms.indexing import view
from convc.algorithms.movement import PlainData
from convc.schedule import segments
from ir.loops import KernelBuilder
from ir.ops import CumSum

if TYPE_CHECKING:
    from convc.lowering import Lowering


class Scan(PlainData):
    """One element after the other; lanes are neighbouring sums."""

    name: ClassVar[str] = "scan"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, CumSum) else "only for running sums"

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, CumSum)
        source, result = into.read(0), into.write()
        k = KernelBuilder(op.name)
        shape = view(site.result, op.axis)
        x, y = k.read("x", site.dtype, shape), k.write("y", site.dtype, shape)
        outer, size, inner = shape
        for start, trips, width in segments(inner, site.lanes):
            with k.loop("n", outer, "parallel") as n, k.loop("s", trips, "parallel") as s:
                total = k.local("total", site.dtype, (width,))
                first = s * width + start
                with k.loop("v", width, "vector") as v:
                    k.store(total[v], k.constant(0, site.dtype))
                with k.loop("i", size) as i, k.loop("v", width, "vector") as v:
                    at = (n, (size - 1) - i if op.reverse else i, first + v)
                    if op.exclusive:
                        k.store(y[at], total[v])
                    k.store(total[v], total[v] + x[at])
                    if not op.exclusive:
                        k.store(y[at], total[v])
        into.run(k.build(), source, result)
