"""Sections of an ELF object file whose contents LLVM does not see.

LLVM would parse weights from text and copy them several times. So it leaves their section empty,
with a symbol at its start, and their bytes are put behind what it wrote.
Format: https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
"""

from __future__ import annotations

import struct

from convc.errors import Error

HEADER = struct.Struct("<16xHHIQQQIHHHHHH")  # a file: type, machine, …, count and names of sections
SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, …


def assembly(symbol: str, section: str, size: int, alignment: int) -> str:
    """A directive for LLVM: an empty read-only section, and a local symbol of that size in it."""
    lines = (
        f'.section {section},"a",@progbits',
        f".balign {alignment}",
        f".type {symbol},@object",
        f".size {symbol},{size}",
        f"{symbol}:",
    )
    return "".join(f'module asm "{_escaped(line)}"\n' for line in lines)


def with_contents(code: bytes, section: str, size: int, alignment: int) -> bytes:
    """An object file, padded, whose empty section has as contents the ``size`` bytes that are to
    follow."""
    if code[:6] != b"\x7fELF\x02\x01":
        raise Error("the code generator did not write an ELF file of 64 bits, little-endian")
    start, names, entries = _sections(code)
    wanted = section.encode() + b"\0"
    for number, (name, kind, flags, address, _, _, *rest) in enumerate(entries):
        if code.startswith(wanted, names + name):
            padded = bytearray(code.ljust(-(-len(code) // alignment) * alignment, b"\0"))
            place = start + number * SECTION.size
            SECTION.pack_into(padded, place, name, kind, flags, address, len(padded), size, *rest)
            return bytes(padded)
    raise Error(f"the code generator wrote no section {section}")


def _sections(code: bytes) -> tuple[int, int, list[tuple[int, ...]]]:
    """Where the table of sections stands, and their names; its entries."""
    *_, start, _, _, _, _, _, count, names = HEADER.unpack_from(code)
    table = code[start : start + count * SECTION.size]
    entries = list(SECTION.iter_unpack(table))
    return start, entries[names][4], entries


def _escaped(text: str) -> str:
    return text.replace('"', "\\22")
