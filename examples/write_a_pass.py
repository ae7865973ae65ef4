"""Write a pass and see what it changes: here, relu after relu is one relu."""

import numpy as np

import convc
import ir
from convc.passes import PIPELINE, run_passes
from ir.ops import Relu
from ir.rewrite import substitute


def merge_relus(graph: ir.Graph) -> ir.Graph:
    """Let readers of relu(relu(x)) read relu(x)."""
    same: dict[str, str] = {}
    for node in graph.nodes:
        source = graph.producer(node.inputs[0])
        if isinstance(node.op, Relu) and source is not None and isinstance(source.op, Relu):
            same[node.outputs[0]] = node.inputs[0]
    return ir.dead_code(substitute(graph, {}, same))


b = ir.Builder("twice")
x = b.input("x", "f32[1, 3, 8, 8]")
w = b.weight("w", np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32))
b.output("y", b.relu(b.relu(b.conv(x, w, pad="same"))))
graph = b.build()

for name, after in run_passes(graph, (merge_relus, *PIPELINE)):
    print(f"{name}: {len(after.nodes)} nodes")

image = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
model = convc.compile(graph, passes=(merge_relus, *PIPELINE))
assert np.allclose(model(image), ir.interpret(graph, {"x": image})["y"], atol=1e-5)
