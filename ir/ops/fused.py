"""An op and the pointwise ops that finish its result, as one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ir.dims import Dim
from ir.errors import AttributeValueError, GradientError, ShapeError
from ir.op import Example, Grads, Op, Values
from ir.ops.conv import Conv
from ir.ops.dense import Dense
from ir.ops.pointwise import Add, Bias, Relu
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder

T = TypeVar("T")
EPILOGUE = (Bias, Relu, Add)


@dataclass(frozen=True)
class Fused(Op):
    """`root`, then each op of `epilogue` with the running result as its first operand.

    Operands: those of the root, then for each epilogue op, in order, its others. Every epilogue
    op keeps the type of the running result. Differentiate before fusing.
    """

    root: Op
    epilogue: tuple[Op, ...]

    name: ClassVar[str] = "fused"
    formula: ClassVar[str] = "y = epilogue_n(…epilogue_1(root(inputs), …), …)"
    operands: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        if not isinstance(self.root, Op) or isinstance(self.root, Fused):
            raise AttributeValueError(f"{self.name}: root = {self.root!r} must be an unfused op")
        if not isinstance(self.epilogue, tuple):
            raise AttributeValueError(f"{self.name}: epilogue = {self.epilogue!r} is not a tuple")
        for op in self.epilogue:
            if not isinstance(op, EPILOGUE):
                legal = ", ".join(kind.name for kind in EPILOGUE)
                hint = f"use {legal}"
                raise AttributeValueError(f"{self.name}: {op!r} cannot finish a result; {hint}")

    def operand_names(self) -> tuple[str, ...]:
        names = list(self.root.operand_names())
        for number, op in enumerate(self.epilogue):
            names += [f"{op.name}{number}.{name}" for name in op.operand_names()[1:]]
        return tuple(names)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        rest = list(types)
        results = self.root.infer(*_take(rest, self.root))
        if len(results) != 1:
            raise ShapeError(f"{self.name}: {self.root.name} has {len(results)} results, not one")
        for op in self.epilogue:
            finished = op.infer(*results, *_take(rest, op, skip=1))
            if finished != results:
                change = f"{op.name} turns {results[0]} into {finished[0]}"
                raise ShapeError(f"{self.name}: {change}; an epilogue keeps the type")
        return results

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        rest = list(arrays)
        results = self.root.evaluate(*_take(rest, self.root))
        for op in self.epilogue:
            results = op.evaluate(*results, *_take(rest, op, skip=1))
        return results

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        raise GradientError(f"{self.name}: differentiate before fusing")

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        own = self.root.flops(_take(list(inputs), self.root), outputs)
        return own + outputs[0].size * len(self.epilogue)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        conv = Conv((2, 1), ((1, 1), (0, 1)), (1, 1), 1)
        x, w, y = "f32[3, 3, 7, 5]", "f32[17, 3, 3, 3]", "f32[3, 17, 4, 4]"
        return (
            Example.of("relu", cls(conv, (Relu(),)), x, w),
            Example.of("bias, relu", cls(conv, (Bias(), Relu())), x, w, "f32[17]"),
            Example.of("residual", cls(conv, (Bias(), Add(), Relu())), x, w, "f32[17]", y),
            Example.of("add, bias", cls(conv, (Add(), Bias())), x, w, y, "f32[17]"),
            Example.of("nothing", cls(conv, ()), x, w),
            Example.of(
                "dense", cls(Dense(), (Bias(), Relu())), "f32[3, 5]", "f32[5, 20]", "f32[20]"
            ),
        )


def _take(rest: list[T], op: Op, skip: int = 0) -> list[T]:
    """Remove from the front of `rest` the operands of `op` after its first `skip`."""
    count = len(op.operand_names()) - skip
    taken, rest[:] = rest[:count], rest[count:]
    return taken
