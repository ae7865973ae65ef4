"""The kernel level of the IR: what a kernel does, as loops over buffers."""

from ir.loops.builder import Buffer, KernelBuilder
from ir.loops.interpreter import interpret
from ir.loops.nodes import Affine, Kernel
from ir.loops.overwrite import overwriting
from ir.loops.parser import parse
from ir.loops.text import to_text
from ir.loops.verify import KernelError, verify

__all__ = [
    "Affine",
    "Buffer",
    "Kernel",
    "KernelBuilder",
    "KernelError",
    "interpret",
    "overwriting",
    "parse",
    "to_text",
    "verify",
]
