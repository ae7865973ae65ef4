"""The native runtime of ``runtime.ll``, specialised to this platform, and calls into it."""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convc.backend import jit
from convc.backend.target import target_named

MAXIMUM_ARGUMENTS = 32
MAILBOX_BYTES = 320

_RELAX = {
    "x86_64": "declare void @llvm.x86.sse2.pause()\n"
    "define internal void @relax() { call void @llvm.x86.sse2.pause() ret void }",
    "aarch64": "declare void @llvm.aarch64.hint(i32)\n"
    "define internal void @relax() { call void @llvm.aarch64.hint(i32 1) ret void }",
}
_FUTEX = {"x86_64": 202, "aarch64": 98}  # Linux system call numbers
_LINUX = """
declare i64 @syscall(i64, ...)
define internal void @sleep_on(ptr %word, i32 %old) nounwind {{
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr %word, i32 128, i32 %old, ptr null)
  ret void
}}
define internal void @wake_all(ptr %word) nounwind {{
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr %word, i32 129, i32 2147483647)
  ret void
}}
"""
_POSIX = """
declare i32 @usleep(i32)
define internal void @sleep_on(ptr %word, i32 %old) nounwind {
  %r = call i32 @usleep(i32 50)
  ret void
}
define internal void @wake_all(ptr %word) nounwind { ret void }
"""


def sync_bytes(threads: int) -> int:
    """Of the memory through which the threads of a run share its tasks."""
    return 192 + 64 * threads


@dataclass(frozen=True)
class Native:
    """The runtime's entry points. ctypes releases the GIL around each call."""

    run: Callable[..., None]  # program, arguments, table
    launch: Callable[..., None]  # mailboxes, program, arguments, table, sync, threads
    worker: Callable[..., None]  # mailbox
    images: int  # the address of the kernel that runs a program for each image
    code: Any


@functools.cache
def native(spin_microseconds: int) -> Native:
    """The compiled runtime; waiting threads spin for that long before they sleep."""
    target = target_named("plain" if _machine() == "x86_64" else None)
    compiled = jit.assembled(_source(spin_microseconds), target, "convc_run")
    address = compiled.engine.get_function_address
    pointer, word = ctypes.c_void_p, ctypes.c_int64

    def entry(name: str, *types: Any) -> Callable[..., None]:
        return ctypes.CFUNCTYPE(None, *types)(address(name))

    return Native(
        entry("convc_run", pointer, pointer, pointer),
        entry("convc_launch", pointer, pointer, pointer, pointer, pointer, word),
        entry("convc_worker", pointer),
        address("convc_images"),
        compiled,
    )


def _machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _source(spin_microseconds: int) -> str:
    text = (importlib.resources.files("convc.backend") / "runtime.ll").read_text()
    text = text.replace("SPIN_NANOSECONDS", str(spin_microseconds * 1000))
    text = text.replace("MAXIMUM_ARGUMENTS", str(MAXIMUM_ARGUMENTS))
    sleeping = _LINUX.format(futex=_FUTEX[_machine()]) if sys.platform == "linux" else _POSIX
    return text + _RELAX[_machine()] + sleeping
