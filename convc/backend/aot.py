"""A plan to an object file: one C function, weights inside, no state of its own.

The function takes the inputs, the outputs and a workspace, and runs every step on the calling
thread. All symbols but that function are local to the object, which calls no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir as llvm

from convc.backend import jit
from convc.backend.emit import emit_kernel
from convc.backend.instructions import BYTE, I64, POINTER
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target
from convc.plan import ALIGNMENT, Plan
from ir.types import TensorType

Bytes = npt.NDArray[np.uint8]
C_TYPES = {"f32": "float", "f64": "double", "i64": "int64_t"}
KEYWORDS = frozenset(  # of C and C++
    """alignas alignof and asm auto bool break case catch char class const constexpr continue
    default delete do double else enum explicit export extern false float for friend goto if
    inline int long mutable namespace new not nullptr operator or private protected public
    register restrict return short signed sizeof static struct switch template this throw true
    try typedef typename union unsigned using virtual void volatile while xor""".split()  # noqa: SIM905
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
    """Bytes a call needs: the arena, then the scratch of the kernel that needs most."""
    scratch = max((scratch_bytes(step.kernel) for step in plan.steps), default=0)
    return plan.arena_bytes + scratch


def object_code(plan: Plan, constants: Mapping[int, Bytes], symbol: str, target: Target) -> bytes:
    """An object file that defines ``symbol(inputs..., outputs..., workspace)``.

    ``constants`` holds the packed bytes of every constant that the steps read.
    """
    machine = jit.target_machine(target, reloc="pic", jit=False)
    module = jit.new_module(symbol, target)
    _emit_entry(module, plan, constants, symbol, target)
    code = machine.emit_object(jit.parsed(str(module), machine))
    return bytes(code)


def _emit_entry(
    module: llvm.Module, plan: Plan, constants: Mapping[int, Bytes], symbol: str, target: Target
) -> None:
    slots = (*plan.program.inputs.values(), *plan.program.outputs.values())
    signature = llvm.FunctionType(llvm.VoidType(), [POINTER] * (len(slots) + 1))
    function = llvm.Function(module, signature, symbol)
    function.attributes.add("nounwind")
    builder = llvm.IRBuilder(function.append_basic_block("entry"))
    addresses: dict[int, Any] = dict(zip(slots, function.args, strict=False))
    read = {slot for step in plan.steps for slot in step.slots}
    for slot in sorted(read & plan.constants.keys()):
        addresses[slot] = _embedded(module, f"{symbol}.constant.{slot}", constants[slot])
    scratch = builder.gep(function.args[-1], [I64(plan.arena_bytes)], source_etype=BYTE)
    for slot, placed in plan.temporaries.items():
        offset = [I64(placed.offset)]
        addresses[slot] = builder.gep(function.args[-1], offset, source_etype=BYTE)
    kernels: dict[str, llvm.Function] = {}
    for step in plan.steps:
        name = f"{symbol}.k_{jit.digest(step.kernel)}"
        if name not in kernels:
            kernels[name] = emit_kernel(module, step.kernel, target, name)
            kernels[name].linkage = "internal"
        table = builder.alloca(POINTER, len(step.slots))
        table.type = POINTER
        for number, slot in enumerate(step.slots):
            place = builder.gep(table, [I64(number)], source_etype=POINTER)
            builder.store(addresses[slot], place)
        builder.call(kernels[name], [table, I64(0), I64(step.kernel.tasks), scratch])
    builder.ret_void()


def _embedded(module: llvm.Module, name: str, data: Bytes) -> llvm.GlobalVariable:
    kind = llvm.ArrayType(BYTE, len(data))
    constant = llvm.GlobalVariable(module, kind, name)
    constant.linkage, constant.global_constant, constant.align = "internal", True, ALIGNMENT
    constant.initializer = llvm.Constant(kind, bytearray(data.tobytes()))
    constant.type = POINTER
    return constant


def header(
    symbol: str, params: Iterable[Argument], workspace: int, title: str, target: Target
) -> str:
    """A C header for the object: the workspace's size and the function's declaration."""
    macro = symbol.removesuffix("_run").upper()
    listed = list(params)
    lines = [
        f"/* {title}, compiled by convc for {target.name} ({target.triple}). */",
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
        *(f" *   {'out' if p.output else 'in '} {p.name}: {p.type}  ({p.public})" for p in listed),
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

