"""Write an algorithm for convolutions: rows of results, one tap of the kernel after the other."""

import numpy as np

import convc
import ir
from convc.algorithms import Site
from convc.algorithms.movement import PlainData
from convc.backend.target import target_named
from convc.lowering import Lowering
from convc.plugins import register
from convc.schedule import segments
from convc.select import candidates
from ir.loops import KernelBuilder
from ir.loops.builder import fma
from ir.ops import Conv


class Taps(PlainData):  # reads and writes plain arrays; says how exact the results are
    name = "taps"

    def supports(self, site: Site) -> str | None:
        """None, or the reason why not: it stands in `convc why`."""
        plain = Conv(stride=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), groups=1)
        if site.op != plain or site.epilogue:
            return "only for plain 2-D convolutions with nothing after them"
        return None

    def seconds(self, site: Site) -> float:
        """Predicted, on one thread: here two operands are loaded for each multiply-add."""
        return site.op.cost(*site.inputs).flops / 60e9

    def lower(self, site: Site, into: Lowering) -> None:
        """A kernel, and a step that runs it. Loops marked parallel are shared by threads."""
        images, weights, result = into.read(0), into.read(1), into.write()
        k = KernelBuilder("taps")
        x = k.read("x", site.dtype, site.shape(0))
        w = k.read("w", site.dtype, site.shape(1))
        y = k.write("y", site.dtype, site.result)
        batch, maps, height, width = site.result
        for first, trips, lanes in segments(width, site.lanes):  # whole vectors, and the rest
            with (
                k.loop("n", batch, "parallel") as n,
                k.loop("o", maps, "parallel") as o,
                k.loop("i", height, "parallel") as i,
                k.loop("s", trips) as s,
            ):
                total = k.local("total", site.dtype, (lanes,))
                j = first + s * lanes
                with k.loop("v", lanes, "vector") as v:
                    k.store(total[v], k.constant(0, site.dtype))
                _, channels, rows, columns = site.shape(1)
                with (
                    k.loop("c", channels) as c,
                    k.loop("p", rows) as p,
                    k.loop("q", columns, "unroll") as q,
                    k.loop("v", lanes, "vector") as v,
                ):
                    tap = x[n, c, i + p, j + q + v]
                    k.store(total[v], fma(w[o, c, p, q], tap, total[v]))
                with k.loop("v", lanes, "vector") as v:
                    k.store(y[n, o, i, j + v], total[v])
        into.run(k.build(), images, weights, result)


register(Taps())  # in this process; for good: an entry point, or its name in ALGORITHMS

rng = np.random.default_rng(0)
b = ir.Builder("layer")
x = b.input("x", "f32[2, 5, 19, 23]")
w = b.weight("w", rng.standard_normal((7, 5, 3, 3)).astype(np.float32))
b.output("y", b.conv(x, w, name="y"))
graph = b.build()

site = Site.of(graph, graph.nodes[0], target_named())
for each in candidates(site):  # what `convc why` prints
    if each.reason is None:
        print(f"{each.algorithm.name:14} predicted {each.seconds * 1e6:6.1f} us")

images = rng.standard_normal((2, 5, 19, 23)).astype(np.float32)
exact = ir.interpret(graph, {"x": images}, dtype="float64")["y"]
y = convc.compile(graph, algorithms={"y": "taps"})(images)
error = np.abs(y - exact).max() / np.abs(exact).max()
print(f"taps: error {error:.1e} of the largest result")
assert error < 1e-5
