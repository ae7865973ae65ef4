"""A program of elementwise ops as one node, whose intermediate values nobody else sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeGuard

from ir.dims import Dim
from ir.errors import AttributeValueError, Error, GradientError, ShapeError
from ir.op import Example, Grads, Op, Values, require_integer
from ir.ops.activations import Silu
from ir.ops.arithmetic import Div, GreaterEqual
from ir.ops.cast import Cast, Constant, Uniform
from ir.ops.functions import Sqrt, Square, Tanh
from ir.ops.pointwise import Add, Bias, Broadcasting, Mul, Relu, ReluGrad, Shift, Sub, Unary
from ir.ops.shape import Expand
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder

Steps: TypeAlias = tuple[tuple[Op, tuple[int, ...]], ...]
FUSIBLE = (Unary, Broadcasting, Bias, ReluGrad, Expand, Uniform)  # of one element type


@dataclass(frozen=True)
class Elementwise(Op):
    """Elementwise ops run in one loop: any operands that broadcast → results of one type.

    Values are numbered: the `count` operands, then the result of each step. A step is an op and
    the numbers of its operands; `results` are the numbers of the values that are given out. Every
    step has the type of the results, so no work is repeated. Differentiate before fusing.
    """

    count: int
    steps: Steps
    results: tuple[int, ...]

    name: ClassVar[str] = "elementwise"
    formula: ClassVar[str] = "y = values[results], values[count + i] = step_i(values)"
    operands: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        require_integer(self, "count", self.count, 0)
        if not _is_program(self.steps) or not self.steps:
            hint = "must be a tuple of pairs: an op, a tuple of numbers"
            raise AttributeValueError(f"{self.name}: steps {hint}")
        for number, (op, args) in enumerate(self.steps):
            if not isinstance(op, (*FUSIBLE, Cast, Constant)):
                raise AttributeValueError(f"{self.name}: {op.name} is not an elementwise op")
            if len(args) != len(op.operand_names()):
                wanted = f"{op.name} takes {len(op.operand_names())} operands"
                raise AttributeValueError(f"{self.name}: step {number} has {len(args)}; {wanted}")
            self._check_numbers(f"step {number}", args, 0, self.count + number)
        if not isinstance(self.results, tuple) or not self.results:
            raise AttributeValueError(
                f"{self.name}: results must be a tuple of at least one number"
            )
        self._check_numbers("results", self.results, self.count, self.count + len(self.steps))
        for number in self.biases:
            if any(number in _ordinary(op, args) for op, args in self.steps):
                hint = "list it as two operands"
                raise AttributeValueError(
                    f"{self.name}: operand {number} is a bias and not; {hint}"
                )

    def _check_numbers(self, where: str, numbers: Sequence[int], low: int, high: int) -> None:
        for number in numbers:
            if not isinstance(number, int) or not low <= number < high:
                legal = f"there are {low} to {high - 1}"
                raise AttributeValueError(f"{self.name}: {where} refers to {number}; {legal}")

    @property
    def biases(self) -> frozenset[int]:
        """The operands that a `Bias` adds to axis 1."""
        return frozenset(args[1] for op, args in self.steps if isinstance(op, Bias))

    def operand_names(self) -> tuple[str, ...]:
        return tuple(f"x{number}" for number in range(self.count))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        values = list(types)
        for number, (op, args) in enumerate(self.steps):
            try:
                values += op.result_types([values[arg] for arg in args])
            except Error as error:
                raise error.within(f"{self.name}: step {number}") from error
            if values[-1] != values[self.count]:
                change = f"step {number} ({op.name}) gives {values[-1]}"
                raise ShapeError(f"{self.name}: {change}, the first one {values[self.count]}")
        return tuple(values[number] for number in self.results)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        values = self.values(*arrays)
        return tuple(values[number] for number in self.results)

    def values(self, *arrays: Array) -> list[Array]:
        """The operands and the result of every step."""
        values = list(arrays)
        for op, args in self.steps:
            values += op.evaluate(*(values[arg] for arg in args))
        return values

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        values, batched = list(types), list(images)
        steps: list[tuple[Op, tuple[int, ...]]] = []
        for op, args in self.steps:
            given = [batched[arg] for arg in args]
            own = op.for_image([values[arg] for arg in args], given) if any(given) else op
            if own is None:
                return None
            steps.append((own, args))
            values += op.result_types([values[arg] for arg in args])
            batched.append(any(given))
        alike = all(batched[number] for number in self.results)
        return replace(self, steps=tuple(steps)) if alike else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        raise GradientError(f"{self.name}: differentiate before fusing")

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return sum((op.flops(inputs, outputs[:1]) for op, _ in self.steps), 0)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        tail = ((Square(), (0,)), (Shift(1.0), (1,)), (Sqrt(), (2,)), (Div(), (0, 3)))
        norm = (
            (Sub(), (0, 1)), (Mul(), (5, 2)), (Bias(), (6, 3)), (Mul(), (7, 4)), (Silu(), (8,)),
        )  # fmt: skip
        drop = ((Uniform((2, 17, 3, 5)), (1,)), (GreaterEqual(), (3, 2)), (Mul(), (0, 4)))
        layer = ((Bias(), (0, 1)), (Relu(), (2,)))
        back = ((Expand((3, 5, 2)), (0,)), (Tanh(), (1,)), (ReluGrad(), (4, 3)), (Add(), (5, 2)))
        image = "f32[2, 20, 3, 2]"
        return (
            Example.of("chain", cls(1, tail, (4,)), "f32[3, 20]"),
            Example.of("norm", cls(5, norm, (9,)), image, "f32[2, 20, 1, 1]", "f32[20, 1, 1]",
                       "f32[20]", "f32[]"),
            Example.of("dropout", cls(3, drop, (5,)), "f32[2, 17, 3, 5]", "i64[]", "f32[]",
                       high=2**62),
            Example.of("layer", cls(2, layer, (3,)), "f32[5, 17]", "f32[17]"),
            Example.of("gradient", cls(3, back, (6,)), "f32[5, 1]", "f32[3, 5, 2]", "f32[3, 1, 1]"),
            Example.of("mask", cls(2, ((Mul(), (0, 1)), (Relu(), (2,))), (3,)), image,
                       "f32[2, 1, 3, 2]"),
            Example.of("scalar", cls(1, tail, (4,)), "f32[]"),
            Example.of("batch 0", cls(1, tail, (4,)), "f32[0, 3]"),
        )  # fmt: skip


def _is_program(steps: object) -> TypeGuard[Steps]:
    return isinstance(steps, tuple) and all(
        isinstance(step, tuple)
        and len(step) == 2
        and isinstance(step[0], Op)
        and isinstance(step[1], tuple)
        for step in steps
    )


def _ordinary(op: Op, args: Sequence[int]) -> Sequence[int]:
    """The operands that are not added to axis 1."""
    return args[:1] if isinstance(op, Bias) else args
