"""Force each algorithm that applies to a convolution; compare times and errors."""

import numpy as np

import convc
import ir
from convc.algorithms import Site
from convc.backend.target import target_named
from convc.select import candidates
from convc.tools.timing import measure

rng = np.random.default_rng(0)
b = ir.Builder("layer")
x = b.input("x", "f32[1, 64, 28, 28]")
w = b.weight("w", (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float32))
b.output("y", b.conv(x, w, pad="same", name="conv"))
graph = b.build()
image = rng.standard_normal((1, 64, 28, 28)).astype(np.float32)
reference = ir.interpret(graph, {"x": image}, dtype="float64")["y"]

site = Site.of(graph, graph.nodes[0], target_named())
names = [c.algorithm.name for c in candidates(site) if c.reason is None]
models = {n: convc.compile(graph, threads=1, algorithms={"conv": n}) for n in names}
times = measure({n: lambda model=m: model(image) for n, m in models.items()}, rounds=5)
for name, time in sorted(times.items(), key=lambda item: item[1].median):
    error = np.abs(models[name](image) - reference).max() / np.abs(reference).max()
    rate = graph.cost().flops / time.median / 1e9
    print(f"{name:14} {time.median * 1e6:8.0f} us  {rate:6.0f} GFLOP/s  error {error:.1e}")
