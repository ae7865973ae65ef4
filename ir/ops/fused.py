"""An op and the elementwise ops that finish its result, as one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ir.dims import Dim
from ir.errors import AttributeValueError, GradientError, ShapeError
from ir.op import Example, Grads, Op, Values
from ir.ops.activations import Clip, LeakyRelu
from ir.ops.arithmetic import Where
from ir.ops.conv import Conv
from ir.ops.dense import Dense
from ir.ops.functions import Abs
from ir.ops.pointwise import Add, Bias, Broadcasting, Mul, Relu, ReluGrad, Scale, Sub, Unary
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder

T = TypeVar("T")


def finishes(op: Op) -> bool:
    """Whether the op may stand in an epilogue: a function of the running result and at most one
    other operand."""
    return isinstance(op, Unary | Bias | ReluGrad | Broadcasting) and not isinstance(op, Where)


def running_operand(op: Op) -> int:
    """Which operand of an epilogue's op the running result is: the first, of `ReluGrad` g."""
    return 1 if isinstance(op, ReluGrad) else 0


def takes(op: Op, result: TensorType, other: TensorType) -> bool:
    """Whether the op of an epilogue may read `other` beside the running result: a tensor with all
    its channels, a number for each channel, or one number."""
    if other.rank == result.rank:
        return other.shape[1:2] == result.shape[1:2]
    ones = () if isinstance(op, Bias) else (1,) * (result.rank - 2)
    return other.size == 1 or other.shape == (*result.shape[1:2], *ones)


@dataclass(frozen=True)
class Fused(Op):
    """`root`, then each op of `epilogue` on the running result and an operand of its own, if any.

    Operands: those of the root, then for each epilogue op, in order, its other one, which `takes`
    allows. Every epilogue op keeps the type of the running result. Differentiate before fusing.
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
            if not isinstance(op, Op) or not finishes(op):
                hint = "use elementwise ops of one or two operands"
                raise AttributeValueError(f"{self.name}: {op!r} cannot finish a result; {hint}")

    def operand_names(self) -> tuple[str, ...]:
        names = list(self.root.operand_names())
        for number, op in enumerate(self.epilogue):
            others = list(op.operand_names())
            others.pop(running_operand(op))
            names += [f"{op.name}{number}.{name}" for name in others]
        return tuple(names)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        rest = list(types)
        results = self.root.infer(*_take(rest, self.root.operand_names()))
        if len(results) != 1:
            raise ShapeError(f"{self.name}: {self.root.name} has {len(results)} results, not one")
        for op in self.epilogue:
            operands = _arguments(op, results[0], rest)
            if not all(takes(op, results[0], other) for other in operands):
                listed = ", ".join(map(str, operands))
                hint = "give all channels, a number for each, or one number"
                raise ShapeError(f"{self.name}: {op.name} of {listed}; {hint}")
            finished = op.infer(*operands)
            if finished != results:
                change = f"{op.name} turns {results[0]} into {finished[0]}"
                raise ShapeError(f"{self.name}: {change}; an epilogue keeps the type")
        return results

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (self.values(*arrays)[-1],)

    def values(self, *arrays: Array) -> list[Array]:
        """The result of the root, and what each op of the epilogue makes of it."""
        rest = list(arrays)
        values = list(self.root.evaluate(*_take(rest, self.root.operand_names())))
        for op in self.epilogue:
            values += op.evaluate(*_arguments(op, values[-1], rest))
        return values

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        operands = list(zip(types, images, strict=True))
        own = _take(operands, self.root.operand_names())
        root = self.root.for_image(*zip(*own, strict=True))
        result = self.infer(*types)[0], True
        finished = [
            op.for_image(*zip(*_arguments(op, result, operands), strict=True))
            for op in self.epilogue
        ]
        found = [op for op in finished if op is not None]
        return None if root is None or len(found) < len(finished) else Fused(root, tuple(found))

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        raise GradientError(f"{self.name}: differentiate before fusing")

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        own = self.root.flops(inputs[: len(self.root.operand_names())], outputs)
        return own + outputs[0].size * len(self.epilogue)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        conv = Conv((2, 1), ((1, 1), (0, 1)), (1, 1), 1)
        x, w, y = "f32[3, 3, 7, 5]", "f32[17, 3, 3, 3]", "f32[3, 17, 4, 4]"
        norm = cls(conv, (Sub(), Mul(), Add(), Abs()))
        matrices = "f32[3, 5]", "f32[5, 20]"
        return (
            Example.of("relu", cls(conv, (Relu(),)), x, w),
            Example.of("bias, relu", cls(conv, (Bias(), Relu())), x, w, "f32[17]"),
            Example.of("residual", cls(conv, (Bias(), Add(), Relu())), x, w, "f32[17]", y),
            Example.of("add, bias", cls(conv, (Add(), Bias())), x, w, y, "f32[17]"),
            Example.of("gradient", cls(conv, (ReluGrad(), Scale(0.5))), x, w, y),
            Example.of("norm", norm, x, w, "f32[1, 17, 1, 1]", "f32[17, 1, 1]", "f32[]"),
            Example.of("squeezed", cls(conv, (Mul(), LeakyRelu(), Clip(-1.0, 6.0))), x, w,
                       "f32[3, 17, 1, 1]"),
            Example.of("nothing", cls(conv, ()), x, w),
            Example.of("dense", cls(Dense(), (Bias(), Relu())), *matrices, "f32[20]"),
            Example.of("dense, scaled", cls(Dense(), (Mul(), Add())), *matrices, "f32[20]",
                       "f32[3, 20]"),
        )  # fmt: skip


def _arguments(op: Op, running: T, rest: list[T]) -> list[T]:
    """The operands of an epilogue's op; those that are not the running result come off `rest`."""
    at = running_operand(op)
    operands = _take(rest, op.operand_names()[1:])
    return [*operands[:at], running, *operands[at:]]


def _take(rest: list[T], names: Sequence[str]) -> list[T]:
    """Remove an operand for each name from the front of `rest`."""
    taken, rest[:] = rest[: len(names)], rest[len(names) :]
    return taken
