"""The machine code of the hot loops: accumulators stay in registers, targets keep to their set."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

import convc
import ir
from convc.backend import jit
from convc.backend.target import TARGETS, Target
from ir.loops import Kernel
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad, Dense
from tests.examples import examples, graph_of, program_of

VECTOR = re.compile(r"%[xyz]mm\d+")
LABEL = re.compile(r"^(\.?L\w+):")
JUMP = re.compile(r"^\s+j\w+\s+(\.?L\w+)")
MULTIPLY_ADD = re.compile(r"^\s+vfn?m(add|sub)\d*[ps][sd]\b")


@dataclass(frozen=True)
class Loop:
    """Instructions that a backward jump encloses, with no other such loop inside."""

    lines: tuple[str, ...]
    framed: bool  # whether %rbp points into the stack

    @property
    def multiply_adds(self) -> int:
        return sum(bool(MULTIPLY_ADD.match(line)) for line in self.lines)

    @property
    def other_arithmetic(self) -> bool:
        return any(re.match(r"\s+v(add|sub|mul)[ps][sd]\b", line) for line in self.lines)

    @property
    def spills(self) -> list[str]:
        """Instructions that move a vector register to or from the stack."""
        stack = re.compile(r"\(%r[sb]p\b" if self.framed else r"\(%rsp\b")
        return [line for line in self.lines if VECTOR.search(line) and stack.search(line)]


def innermost_loops(assembly: str) -> list[Loop]:
    """The loops without a loop in them, in textual order."""
    lines = [line.split("#")[0].rstrip() for line in assembly.splitlines()]
    labels = {m[1]: number for number, line in enumerate(lines) if (m := LABEL.match(line))}
    spans = [
        (labels[m[1]], number)
        for number, line in enumerate(lines)
        if (m := JUMP.match(line)) and labels.get(m[1], number) < number
    ]
    inner = [
        (start, stop)
        for start, stop in spans
        if not any(start <= a and b <= stop and (a, b) != (start, stop) for a, b in spans)
    ]
    framed = bool(re.search(r"movq\s+%rsp, %rbp", assembly))
    return [Loop(tuple(lines[start : stop + 1]), framed) for start, stop in inner]


def hot_loop(kernel: Kernel, target: Target) -> Loop:
    """The innermost loop with the most multiply-adds."""
    loops = innermost_loops(jit.assembly(kernel, target))
    return max(loops, key=lambda loop: loop.multiply_adds)


def shapes(
    x: tuple[int, ...], w: tuple[int, ...], stride: int = 1, groups: int = 1
) -> list[ir.Example]:
    """The three ops of one convolution with "same" padding."""
    pads = tuple(((k - 1) // 2, k // 2) for k in w[2:])
    shared = Conv((stride,) * len(pads), pads, (1,) * len(pads), groups).attributes
    y = Conv(*shared).infer(*(ir.TensorType(ir.DType.FLOAT32, s) for s in (x, w)))[0].shape
    ops = (
        (Conv(*shared), x, w),
        (ConvInputGrad(*shared, x[2:]), w, y),
        (ConvWeightGrad(*shared, w[2:]), y, x),
    )
    return [
        ir.Example.of(op.name, op, *(f"f32[{', '.join(map(str, s))}]" for s in operands))
        for op, *operands in ops
    ]


def main_kernel(example: ir.Example, target: str, algorithm: str = "direct") -> Kernel:
    """The kernel of the op itself, apart from packing and conversions."""
    steps = program_of(graph_of(example), target, algorithm).steps
    return next(step.kernel for step in steps if step.algorithm == algorithm)


LAYERS = {
    "3x3, 64 channels, 56x56": ((1, 64, 56, 56), (64, 64, 3, 3), 1),
    "3x3, 512 channels, 7x7": ((1, 512, 7, 7), (512, 512, 3, 3), 1),
    "1x1, 256 channels, 14x14": ((1, 256, 14, 14), (64, 256, 1, 1), 1),
    "3x3, stride 2": ((1, 64, 56, 56), (128, 64, 3, 3), 2),
    "7x7, stride 2, image": ((1, 3, 224, 224), (64, 3, 7, 7), 2),
    "remainders": ((2, 20, 13, 11), (50, 20, 5, 5), 1),
    "1-D": ((1, 64, 500), (64, 64, 9), 1),
    "3-D": ((1, 32, 8, 14, 14), (32, 32, 3, 3, 3), 1),
}
CONVOLUTIONS = [
    pytest.param(example, id=f"{name}, {example.name}")
    for name, layer in LAYERS.items()
    for example in shapes(*layer)
]


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("example", CONVOLUTIONS)
def test_no_accumulator_is_spilt_in_any_loop_that_multiplies(
    example: ir.Example, target: str
) -> None:
    kernel = main_kernel(example, target)
    loops = [
        loop
        for loop in innermost_loops(jit.assembly(kernel, TARGETS[target]))
        if loop.multiply_adds
    ]
    assert loops
    for loop in loops:
        assert not loop.spills, "\n".join(loop.lines)


DEPTHWISE = {
    "3x3": ((1, 32, 112, 112), (32, 1, 3, 3), 1, 32),
    "3x3, stride 2": ((1, 32, 56, 56), (32, 1, 3, 3), 2, 32),
    "5x5": ((1, 32, 56, 56), (32, 1, 5, 5), 1, 32),
    "3-D": ((1, 16, 8, 28, 28), (16, 1, 3, 3, 3), 1, 16),
}


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("algorithm", ["direct", "direct_rows"])
@pytest.mark.parametrize("layer", DEPTHWISE)
def test_no_accumulator_of_a_depthwise_convolution_is_spilt(
    layer: str, algorithm: str, target: str
) -> None:
    kernel = main_kernel(shapes(*DEPTHWISE[layer])[0], target, algorithm)
    loops = innermost_loops(jit.assembly(kernel, TARGETS[target]))
    products = [loop for loop in loops if loop.multiply_adds]
    assert products
    for loop in products:
        assert not loop.spills, "\n".join(loop.lines)


def test_weights_of_a_product_are_prefetched_if_they_are_read_once() -> None:
    for rows, fetched in ((1, True), (64, False)):
        b = ir.Builder("dense")
        x = b.input("x", f"f32[{rows}, 256]")
        b.output("y", b.dense(x, b.weight("w", np.ones((256, 1000), "f")), name="y"))
        steps = program_of(b.build(), "avx512", "outer").steps
        (kernel,) = (step.kernel for step in steps if step.kernel.name == "dense")
        assert ("prefetcht0" in jit.assembly(kernel, TARGETS["avx512"])) == fetched


MATRICES = [
    ir.Example.of("wide", Dense(), "f32[64, 1024]", "f32[1024, 1000]"),
    ir.Example.of("remainders", Dense(), "f32[7, 33]", "f32[33, 150]"),
    ir.Example.of("transposed", Dense(True, True), "f32[512, 37]", "f32[100, 512]"),
    ir.Example.of("one row", Dense(), "f32[1, 256]", "f32[256, 1000]"),
]


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("example", MATRICES, ids=lambda e: e.name)
def test_no_accumulator_of_a_matrix_product_is_spilt(example: ir.Example, target: str) -> None:
    kernel = main_kernel(example, target, "outer")
    for loop in innermost_loops(jit.assembly(kernel, TARGETS[target])):
        assert not (loop.multiply_adds and loop.spills), "\n".join(loop.lines)


@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
@pytest.mark.parametrize(
    "layer", ["3x3, 64 channels, 56x56", "3x3, 512 channels, 7x7", "remainders"]
)
def test_no_accumulator_of_a_transformed_product_is_spilt(
    layer: str, algorithm: str, target: str
) -> None:
    """In the loops that only multiply and add; the transforms have others."""
    kernel = main_kernel(shapes(*LAYERS[layer])[0], target, algorithm)
    loops = innermost_loops(jit.assembly(kernel, TARGETS[target]))
    products = [loop for loop in loops if loop.multiply_adds > 1 and not loop.other_arithmetic]
    assert products
    for loop in products:
        assert not loop.spills, "\n".join(loop.lines)


@pytest.mark.parametrize(("target", "least"), [("avx512", 24), ("avx2", 8)])
@pytest.mark.parametrize("number", range(3))
def test_the_hot_loop_keeps_enough_multiply_adds_in_flight(
    number: int, target: str, least: int
) -> None:
    """At two a cycle and four cycles each, eight independent ones keep both units busy."""
    example = shapes(*LAYERS["3x3, 64 channels, 56x56"])[number]
    loop = hot_loop(main_kernel(example, target), TARGETS[target])
    assert loop.multiply_adds >= least
    others = [line for line in loop.lines if VECTOR.search(line) and not MULTIPLY_ADD.match(line)]
    assert len(others) <= loop.multiply_adds, "more moves than work:\n" + "\n".join(loop.lines)


FORBIDDEN = {
    "plain": re.compile(r"%[yz]mm|\bvf?n?m\w+|%k[0-7]\b"),
    "avx2": re.compile(r"%zmm|%[xyz]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b"),
}


@pytest.mark.parametrize("target", FORBIDDEN)
def test_a_target_uses_no_instruction_beyond_its_own(target: str) -> None:
    for name, example in list(examples())[::2]:
        for step in program_of(graph_of(example), target).steps:
            text = jit.assembly(step.kernel, TARGETS[target])
            assert not FORBIDDEN[target].search(text), name


@pytest.mark.parametrize(("target", "register"), [("avx512", "zmm"), ("avx2", "ymm")])
def test_the_hot_loop_uses_whole_registers(target: str, register: str) -> None:
    example = shapes(*LAYERS["3x3, 64 channels, 56x56"])[0]
    loop = hot_loop(main_kernel(example, target), TARGETS[target])
    for line in loop.lines:
        if MULTIPLY_ADD.match(line):
            assert f"%{register}" in line


@pytest.mark.parametrize("algorithm", ["direct", "winograd2"])
def test_weights_are_prefetched(algorithm: str) -> None:
    b = ir.Builder("two")
    x = b.input("x", "f32[1, 64, 28, 28]")
    for name in ("first", "second"):
        x = b.conv(x, b.weight(f"{name}.w", np.ones((64, 64, 3, 3), "f")), pad="same", name=name)
    b.output("y", x)
    forced = dict.fromkeys(("first", "second"), algorithm)
    model = convc.compile(b.build(), target="avx512", algorithms=forced, passes=())
    (*_, step) = (s for s in model.stages().plan.steps if s.algorithm == algorithm)
    assembly = jit.assembly(step.kernel, TARGETS["avx512"])
    fetches = [loop.lines for loop in innermost_loops(assembly) if loop.multiply_adds]
    inside = sum("prefetcht0" in line for lines in fetches for line in lines)
    assert assembly.count("prefetcht0") > 0
    assert (inside > 0) == (algorithm == "winograd2")  # few a block of channels in the direct form


def test_code_for_another_machine_can_be_generated() -> None:
    example = shapes(*LAYERS["remainders"])[0]
    text = jit.assembly(main_kernel(example, "neon"), TARGETS["neon"])
    assert re.search(r"\bfmla\s+v\d+\.4s", text) and "mm0" not in text


def test_equal_kernels_are_compiled_once() -> None:
    graph = graph_of(shapes((1, 5, 9, 9), (7, 5, 3, 3))[0])
    before = set(jit._COMPILED.keys())
    models = [convc.compile(graph) for _ in range(2)]
    made = set(jit._COMPILED.keys()) - before
    kernels = {jit.digest(step.kernel) for step in models[0].stages().plan.program.steps}
    assert {digest for digest, _ in made} <= kernels and models[1].stages().plan.steps
    first, second = (convc.compile(graph.replace(name=name)) for name in ("a", "b"))
    assert set(jit._COMPILED.keys()) - before == made and first.graph.name != second.graph.name


def test_a_kernels_name_is_not_part_of_its_identity() -> None:
    kernel = main_kernel(shapes((1, 5, 9, 9), (7, 5, 3, 3))[0], "plain")
    renamed = Kernel("other", kernel.params, kernel.body)
    assert jit.digest(kernel) == jit.digest(renamed)


def test_code_is_freed_with_the_last_model_that_uses_it() -> None:
    graph = graph_of(shapes((1, 3, 11, 5), (9, 3, 2, 3))[0])
    before = set(jit._COMPILED.keys())
    model = convc.compile(graph)
    assert set(jit._COMPILED.keys()) > before
    del model
    assert set(jit._COMPILED.keys()) <= before
