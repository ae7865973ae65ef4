"""Write an elementwise op: what it means, its gradient, and native code for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import convc
import ir
from convc.algorithms.bodies import BODIES
from ir.loops.builder import call
from ir.loops.nodes import Const, Expr, Scalar
from ir.ops.pointwise import Unary


@dataclass(frozen=True)
class Softsign(Unary):  # an ir.Op with the type rule and the examples of functions of an element
    """x / (s + |x|): between -1 and 1, steep where s is small."""

    s: float = 1.0  # fields are attributes: compared, printed, saved

    name = "softsign"
    formula = "y = x / (s + |x|)"

    def validate(self) -> None:
        if not self.s > 0:
            raise ir.AttributeValueError(f"{self.name}: s = {self.s} must be above 0")

    def of(self, x: np.ndarray) -> np.ndarray:
        """The reference: numpy, in the type of the operand."""
        return x / (x.dtype.type(self.s) + np.abs(x))

    def derivative(self, b: ir.Builder, x: ir.Value, y: ir.Value, g: ir.Value) -> ir.Value:
        """g · s / (s + |x|)², of ops that have gradients themselves."""
        slope = 1 / (b.abs(x) + self.s)
        return g * slope * slope * self.s


def body(op: Softsign, dtype: Scalar, operands: Sequence[Expr]) -> Expr:
    """The op in the language of kernels; ops that are not elementwise need an algorithm."""
    (x,) = operands
    return x / (Const(op.s, dtype) + call("abs", x))


BODIES[Softsign] = body
ir.OP_BY_NAME[Softsign.name] = Softsign  # so that files with the op can be read

b = ir.Builder("network")
x = b.input("x", "f32[N, 20]")
b.output("y", b.relu(b.apply(Softsign(0.5), x)))
graph = b.build()
with TemporaryDirectory() as folder:
    graph.save(Path(folder) / "network.ir")
    assert convc.load(Path(folder) / "network.ir").nodes == graph.nodes
print(graph)

deviation = ir.check_gradients(graph.bind({"N": 3}))  # or an error that names the op
print(f"the derivative deviates from finite differences by {deviation:.1e}")

model = convc.compile(ir.vjp(graph))
rng = np.random.default_rng(0)
given = {name: rng.standard_normal((3, 20)).astype(np.float32) for name in model.graph.inputs}
exact = ir.interpret(model.graph, given, dtype="float64")
for name, array in model.run(given).items():
    print(f"{name}: error {np.abs(array - exact[name]).max():.1e}")
    np.testing.assert_allclose(array, exact[name], rtol=1e-5, atol=1e-6)
