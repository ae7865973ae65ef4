"""``convc cache``: what is kept on the disk between processes."""

from __future__ import annotations

import argparse

from convc.backend.objects import objects
from convc.errors import InputError
from convc.tools import arguments
from convc.tools.arguments import Subparsers
from convc.tools.table import json_text, pairs
from convc.tuning.database import Database, database

DESCRIPTION = """\
Print where compiled code and measured times are kept, and how much of them there is. Code is kept
under a key of the kernel, the processor's features and the code generator, with a checksum: what
does not fit is compiled again. CONVC_CACHE names another folder, or turns both off;
CONVC_CACHE_MIB says how much code to keep: what was not used for longest goes first."""
EXAMPLE = "  convc cache\n  convc cache --clear"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "cache", "show, or clear, what is kept on the disk", DESCRIPTION, EXAMPLE
    )
    parser.add_argument("--clear", action="store_true",
                        help="remove the compiled code; measured times stay")  # fmt: skip
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    kept = objects()
    if args.clear:
        if kept is None:
            raise InputError("--clear: no code is kept (CONVC_CACHE=off or CONVC_CACHE_MIB=0)")
        kept.prune(0)
    listed = kept.entries() if kept else []
    if args.json:
        sizes = sum(size for _, size, _ in listed)
        folder = str(kept.folder) if kept else None
        code = {"folder": folder, "kernels": len(listed), "bytes": sizes}
        limit, times = kept.limit if kept else 0, _measured(database())
        print(json_text({**code, "limit_bytes": limit, "measured_times": times}))
        return 0
    shown = str(kept) if kept else "none (CONVC_CACHE=off or CONVC_CACHE_MIB=0)"
    print(pairs([("compiled code", shown), ("measured times", str(database()))]))
    return 0


def _measured(times: Database) -> dict[str, object]:
    """For JSON: where measured times are, how many, and what is wrong with them."""
    count = len(times.rows())  # before the problem: reading finds it
    return {"file": None if times.path is None else str(times.path), "measurements": count,
            "problem": times.problem}  # fmt: skip
