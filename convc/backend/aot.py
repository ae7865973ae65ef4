"""A plan to an object file: one C function, weights inside, no state of its own.

The function takes the inputs, the outputs and a workspace, and runs every step on the calling
thread. All symbols but that function are local to the object, which calls no library. The weights
are one read-only section (see ``elf``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir as llvm

from convc.backend import elf, jit
from convc.backend.emit import emit_kernel
from convc.backend.instructions import BYTE, I64, POINTER, TYPES
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target
from convc.errors import CapacityError
from convc.plan import ALIGNMENT, Plan
from convc.program import Images
from ir.names import printable
from ir.types import TensorType

Bytes = npt.NDArray[np.uint8]
SECTION = ".rodata.weights"
REACH = 1 << 31  # bytes between an instruction and what it addresses
C_TYPES = {"f32": "float", "f64": "double", "i64": "int64_t"}
KEYWORDS = frozenset(  # of C and C++, and the type that a header uses
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t
    char16_t char32_t class compl concept const const_cast consteval constexpr constinit
    continue co_await co_return co_yield decltype default delete do double dynamic_cast else
    enum explicit export extern false float for friend goto if inline int int64_t long
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t
    while xor xor_eq""".split()  # noqa: SIM905, a list would be a page
)


@dataclass(frozen=True)
class Argument:
    """A parameter of the C function: its C name, the graph's name for it, its type."""

    name: str
    public: str
    type: TensorType
    output: bool

    @property
    def declaration(self) -> str:
        const = "" if self.output else "const "
        return f"{const}{C_TYPES[self.type.dtype.value]} *{self.name}"


def c_name(text: str) -> str:
    """A C identifier that resembles the text and is no keyword of C or C++."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    if not name or name[0].isdigit():
        name = f"v{name}"
    return f"{name}_" if name in KEYWORDS else name


def arguments(
    inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]
) -> list[Argument]:
    """The parameters in order: inputs, then outputs, with distinct C names."""
    taken = {"workspace"}
    result = []
    for output, group in ((False, inputs), (True, outputs)):
        for public, type in group.items():
            name = c_name(public)
            while name in taken:
                name += "_"
            taken.add(name)
            result.append(Argument(name, public, type, output))
    return result


def workspace_bytes(plan: Plan) -> int:
    """Bytes a call needs: the arenas, then the scratch of the kernel that needs most."""
    steps = (step for part in plan.parts for step in part.steps)
    return _arenas(plan) + max((scratch_bytes(step.kernel) for step in steps), default=0)


def object_code(
    plan: Plan, constants: Sequence[Mapping[int, Bytes]], symbol: str, target: Target
) -> list[bytes | memoryview]:
    """The pieces of an object file that defines ``symbol(inputs..., outputs..., workspace)``.

    ``constants`` holds, for each part of the plan, the packed bytes of those that its steps read.
    ``CapacityError`` where they are more than code can address.
    """
    machine = jit.target_machine(target, reloc="pic", jit=False)
    module = jit.new_module(symbol, target)
    weights = _Weights(plan, constants)
    if weights.size >= REACH:
        raise CapacityError(f"an object file with {weights.size / 2**30:.1f} GiB of packed weights "
                            "cannot be linked; 2 GiB are the limit")  # fmt: skip
    _Entry(module, plan, symbol, target, weights).emit()
    empty = elf.assembly(f"{symbol}.weights", SECTION, weights.size, ALIGNMENT)
    code = machine.emit_object(jit.parsed(f"{module}\n{empty}", machine))
    return [elf.with_contents(code, SECTION, weights.size, ALIGNMENT), *weights.pieces]


def _arenas(plan: Plan) -> int:
    return sum(part.arena_bytes for part in plan.parts)


class _Weights:
    """The constants that the steps of each part read, one behind the other."""

    def __init__(self, plan: Plan, constants: Sequence[Mapping[int, Bytes]]) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.offsets: list[dict[int, int]] = []
        self.size = 0
        for part, data in zip(plan.parts, constants, strict=True):
            read = {slot for step in part.steps for slot in step.slots} & part.constants.keys()
            self.offsets.append({slot: self._add(data[slot]) for slot in sorted(read)})

    def _add(self, data: Bytes) -> int:
        offset = self.size
        self.pieces += [data.data, bytes(-len(data) % ALIGNMENT)]
        self.size += sum(map(len, self.pieces[-2:]))
        return offset


class _Entry:
    """The function that runs every step of a plan."""

    def __init__(
        self, module: llvm.Module, plan: Plan, symbol: str, target: Target, weights: _Weights
    ) -> None:
        self.module, self.plan, self.symbol, self.target = module, plan, symbol, target
        self.offsets = weights.offsets
        kind = llvm.ArrayType(BYTE, weights.size)
        self.weights = llvm.GlobalVariable(module, kind, f"{symbol}.weights")
        self.weights.global_constant, self.weights.align = True, ALIGNMENT
        self.weights.storage_class = "dso_local"  # the assembly defines it
        self.weights.type = POINTER
        count = len(plan.program.inputs) + len(plan.program.outputs)
        signature = llvm.FunctionType(llvm.VoidType(), [POINTER] * (count + 1))
        self.function = llvm.Function(module, signature, symbol)
        self.function.attributes.add("nounwind")
        self.builder = llvm.IRBuilder(self.function.append_basic_block("entry"))
        self.workspace = self.function.args[-1]
        self.kernels: dict[str, llvm.Function] = {}

    def emit(self) -> None:
        program = self.plan.program
        slots = (*program.inputs.values(), *program.outputs.values())
        own = dict(zip(slots, self.function.args, strict=False))
        own |= self._placed(self.plan, 0)
        own |= self._embedded(self.offsets[-1])
        if self.plan.images is not None and program.images is not None:
            single = self._placed(self.plan.images, self.plan.arena_bytes)
            single |= self._embedded(self.offsets[0])
            self._for_each(program.images, self.plan.images, own, single)
        self._steps(self.plan, own)
        self.builder.ret_void()

    def _for_each(
        self, images: Images, single: Plan, whole: Mapping[int, Any], own: dict[int, Any]
    ) -> None:
        """Run a plan for each image."""
        before = self.builder.block
        loop, after = (self.function.append_basic_block(name) for name in ("image", "after"))
        self.builder.branch(loop)
        self.builder.position_at_end(loop)
        number = self.builder.phi(I64)
        number.add_incoming(I64(0), before)
        for slot, stride in self.plan.program.strides.items():
            ahead = self.builder.mul(number, I64(stride))
            kind = TYPES[single.program.slots[slot].dtype]
            own[slot] = self.builder.gep(whole[images.bound[slot]], [ahead], source_etype=kind)
        self._steps(single, own)
        following = self.builder.add(number, I64(1))
        number.add_incoming(following, self.builder.block)
        more = self.builder.icmp_signed("<", following, I64(images.count))
        self.builder.cbranch(more, loop, after)
        self.builder.position_at_end(after)

    def _placed(self, plan: Plan, start: int) -> dict[int, Any]:
        """The temporaries of a plan whose arena starts there in the workspace."""
        return {
            slot: self.builder.gep(self.workspace, [I64(start + placed.offset)], source_etype=BYTE)
            for slot, placed in plan.temporaries.items()
        }

    def _embedded(self, offsets: Mapping[int, int]) -> dict[int, Any]:
        return {
            slot: self.builder.gep(self.weights, [I64(offset)], source_etype=BYTE)
            for slot, offset in offsets.items()
        }

    def _steps(self, plan: Plan, addresses: Mapping[int, Any]) -> None:
        scratch = self.builder.gep(self.workspace, [I64(_arenas(self.plan))], source_etype=BYTE)
        for step in plan.steps:
            name = f"{self.symbol}.k_{jit.digest(step.kernel)}"
            if name not in self.kernels:
                self.kernels[name] = emit_kernel(self.module, step.kernel, self.target, name)
                self.kernels[name].linkage = "internal"
            with self.builder.goto_entry_block():
                table = self.builder.alloca(POINTER, len(step.slots))
            table.type = POINTER
            for number, slot in enumerate(step.slots):
                place = self.builder.gep(table, [I64(number)], source_etype=POINTER)
                self.builder.store(addresses[slot], place)
            tasks = I64(step.kernel.tasks)
            self.builder.call(self.kernels[name], [table, I64(0), tasks, scratch])


def header(
    symbol: str, params: Iterable[Argument], workspace: int, title: str, target: Target
) -> str:
    """A C header for the object: the workspace's size and the function's declaration."""
    macro = symbol.removesuffix("_run").upper()
    listed = list(params)
    lines = [
        f"/* {_comment(title)}, compiled by convc for {target.name} ({target.triple}). */",
        f"#ifndef {macro}_H",
        f"#define {macro}_H",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* Bytes of scratch memory a call needs; aligned to 64 it is fastest, 8 is enough. */",
        f"#define {macro}_WORKSPACE_BYTES {workspace}",
        "",
        "/* All arrays are row-major and contiguous. Calls with different workspaces may overlap.",
        *(
            f" *   {'out' if p.output else 'in '} {p.name}: {p.type}  ({_comment(p.public)})"
            for p in listed
        ),
        " */",
        f"void {symbol}({', '.join(p.declaration for p in listed)}, void *workspace);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _comment(text: str) -> str:
    """A name in a comment of C, which it can neither end nor open."""
    return printable(text).replace("*/", "* /").replace("/*", "/ *")
