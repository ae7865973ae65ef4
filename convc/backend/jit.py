"""Kernels to machine code in this process, each distinct one once."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llvmlite import binding
from llvmlite import ir as llvm

from convc.backend.emit import emit_kernel
from convc.backend.objects import key_of, objects
from convc.backend.target import Target
from convc.errors import Error
from ir.loops import Kernel, to_text

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_LOCK = threading.Lock()
_COMPILED: weakref.WeakValueDictionary[tuple[str, Target], Compiled] = weakref.WeakValueDictionary()
_MADE: weakref.WeakValueDictionary[tuple[str, Target], _Object] = weakref.WeakValueDictionary()


# A child must not inherit a compiler in mid-work: LLVM's state, or the lock of llvmlite, which lets
# one thread at a time into LLVM and whose holder is not there to release it. So a fork waits for
# who compiles, which gives way after every kernel, and for who is in LLVM besides, as whoever
# drops machine code.
_LLVM = getattr(binding.ffi.lib, "_lock", nullcontext())


def _before_fork() -> None:
    _LOCK.acquire()
    _LLVM.__enter__()


def _after_fork() -> None:
    _LLVM.__exit__(None, None, None)
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


@dataclass(frozen=True, eq=False)
class Compiled:
    """Machine code of one function, alive as long as this object.

    ``seconds`` is the processor time that emitting and compiling it took, or, if it is
    ``cached``, reading it from the disk.
    """

    address: int
    engine: Any
    seconds: float = 0.0
    cached: bool = False

    def kernel(self) -> Callable[..., None]:
        """The code as a kernel: call it with arguments, begin, end, scratch (see ``emit``)."""
        call = KERNEL(self.address)
        call.owner = self  # type: ignore[attr-defined]  # the code lives as long as the call
        return call


@functools.cache
def _initialise() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    binding.initialize_native_asmparser()


def target_machine(target: Target, reloc: str = "default", jit: bool = True) -> Any:
    """LLVM's machine for ``target``."""
    _initialise()
    triple = binding.Target.from_triple(target.triple)
    return triple.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc=reloc, jit=jit,
        codemodel="jitdefault" if jit else "default",
    )  # fmt: skip


def new_module(name: str, target: Target) -> llvm.Module:
    module = llvm.Module(name)
    module.triple = target.triple
    return module


def optimise(module: Any, machine: Any) -> None:
    """The few passes that kernels need: registers for locals, clean control flow.

    Vectorisation, unrolling and address computation are done by the schedule and by emission.
    """
    builder = binding.create_pass_builder(machine, binding.PipelineTuningOptions(speed_level=2))
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_dead_code_elimination_pass()
    passes.run(module, builder)


def digest(kernel: Kernel) -> str:
    """A short name for the kernel's content, its own name apart."""
    return _shortened(_content(kernel))


def _content(kernel: Kernel) -> str:
    return to_text(replace(kernel, name="kernel"))


def _shortened(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def kernel_module(kernel: Kernel, target: Target, machine: Any) -> Any:
    """The optimised LLVM module with the kernel as function ``k_DIGEST``."""
    name = f"k_{digest(kernel)}"
    module = new_module(name, target)
    emit_kernel(module, kernel, target, name)
    return parsed(str(module), machine)


def parsed(text: str, machine: Any) -> Any:
    """Parse, verify and optimise LLVM assembly."""
    module = binding.parse_assembly(text)
    module.verify()
    optimise(module, machine)
    return module


def compile_kernel(kernel: Kernel, target: Target) -> Compiled:
    """The kernel's machine code; equal kernels share it."""
    return compile_kernels([kernel], target)[0]


def compile_kernels(kernels: Iterable[Kernel], target: Target) -> list[Compiled]:
    """The machine code of each; equal kernels share it.

    What is new comes into this process together, in a fraction of the time that each would take
    alone, and stays as long as any of it is used. Others that compile, or fork, wait for one kernel
    at most; who compiles the same meanwhile shares what is made.
    """
    contents = [(_content(kernel), kernel) for kernel in kernels]
    named = [(_shortened(content), content, kernel) for content, kernel in contents]
    found: dict[str, Compiled] = {}
    new: dict[str, _Object] = {}
    for name, content, kernel in named:
        if name in found or name in new:
            continue
        with _LOCK:
            compiled, made = _COMPILED.get((name, target)), _MADE.get((name, target))
            if compiled is not None:
                found[name] = compiled
                continue
            made = made or _object(content, target, partial(kernel_module, kernel, target))
            new[name] = _MADE[name, target] = made
    with _LOCK:
        loaded = _loaded({f"k_{name}": each for name, each in new.items()}, target)
        for name, compiled in zip(new, loaded, strict=True):
            found[name] = _COMPILED.setdefault((name, target), compiled)
    return [found[name] for name, *_ in named]


def assembled(text: str, target: Target, entry: str) -> Compiled:
    """The machine code of LLVM assembly; ``address`` is that of ``entry``."""
    with _LOCK:
        made = _object(text, target, lambda machine: parsed(text, machine))
        return _loaded({entry: made}, target)[0]


@dataclass(frozen=True, eq=False)
class _Object:
    """An object file; see ``Compiled`` for the rest."""

    code: bytes
    seconds: float
    cached: bool


def _object(content: str, target: Target, module: Callable[[Any], Any]) -> _Object:
    """From the disk, or compiled and kept there. ``content`` says all about the module, which is
    made for a machine."""
    start = time.thread_time()
    cache = objects()
    key = key_of(content, target) if cache else ""
    code = cache.get(key) if cache else None
    cached = code is not None
    if code is None:
        machine = target_machine(target)
        code = machine.emit_object(module(machine))
        if cache:
            cache.put(key, code)
    return _Object(code, time.thread_time() - start, cached)


def _loaded(files: Mapping[str, _Object], target: Target) -> list[Compiled]:
    """Object files, given by the functions wanted of them, in this process."""
    if not files:
        return []
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine(target))
    for each in files.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(each.code))
    engine.finalize_object()
    loaded = []
    for entry, each in files.items():
        address = engine.get_function_address(entry)
        if not address:
            raise Error(f"the code generator produced no function {entry!r}")
        loaded.append(Compiled(address, engine, each.seconds, each.cached))
    return loaded


def llvm_text(kernel: Kernel, target: Target) -> str:
    """Optimised LLVM IR of one kernel."""
    return str(kernel_module(kernel, target, target_machine(target)))


def assembly(kernel: Kernel, target: Target) -> str:
    """Machine code of one kernel, as assembly text."""
    machine = target_machine(target)
    return str(machine.emit_assembly(kernel_module(kernel, target, machine)))
