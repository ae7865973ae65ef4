"""The command ``convc``: one subcommand per tool."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from typing import NoReturn, Protocol

import convc
import ir
from convc import settings
from convc.__main__ import INTERRUPTED
from convc.backend.target import check_runnable, target_named
from convc.errors import ExportError, LoadError
from convc.tools import bench, cache, check, convert, demo, doctor, profile, run, show, tune, why
from convc.tools import compile as compile_tool
from convc.tools.arguments import Subparsers
from ir.names import printable

DESCRIPTION = """\
Compile convolutional networks to native code, and look inside: convc COMMAND --help says more.

exit status: 0 success, 1 a check failed, 2 bad input (one line on standard error says what)"""
BAD_INPUT, BROKEN_PIPE = 2, 141
LISTED = 20  # lines of an error that is a list
OWN_OPTIONS = ("-h", "--help", "--version")
LEVELS = ("debug", "info", "warning", "error")


class Tool(Protocol):
    """A module of ``convc.tools``: one command."""

    def add_parser(self, subparsers: Subparsers) -> None:
        """Add the command; its default ``run`` is the function below."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; the exit status."""


TOOLS: tuple[Tool, ...] = (
    demo, run, check, show, why, tune, compile_tool, convert, profile, bench, cache, doctor
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Errors in two lines instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"convc: error: {message}\nsee {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a character
                stream.reconfigure(errors="replace")
        with _logging():
            status = _dispatch(argv)
            sys.stdout.flush()
            return status
    except SystemExit as stop:  # argparse, for --help and for its errors
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{_new_line()}convc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ir.Error, OSError, MemoryError) as error:
        if _debugging():
            traceback.print_exc()
        print(f"convc: error: {_message(error)}", file=sys.stderr)
        return BAD_INPUT


def _dispatch(argv: Sequence[str] | None) -> int:
    parser: argparse.ArgumentParser = _Parser(  # the tools' parsers are of its class too
        prog="convc",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"convc {convc.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for tool in TOOLS:
        tool.add_parser(subparsers)
    words = _command_first(sys.argv[1:] if argv is None else argv, subparsers.choices)
    command = subparsers.choices.get(words[0]) if words else None
    # intermixed: options may stand between the positional arguments
    args = command.parse_intermixed_args(words[1:]) if command else parser.parse_args(words)
    if args.run is not doctor.run:  # which reports what is wrong with them
        _check_settings(args)
    status: int = args.run(args)
    return status


def _command_first(words: Sequence[str], commands: Collection[str]) -> list[str]:
    """The words with the options before the command, if there are any, behind the others."""
    place = next((place for place, word in enumerate(words) if word in commands), 0)
    if place and words[0].startswith("-") and words[0] not in OWN_OPTIONS:
        return [*words[place:], *words[:place]]
    return list(words)


def _check_settings(args: argparse.Namespace) -> None:
    """Raise ``InputError`` or ``TargetError`` for an environment variable or a target that cannot
    be used, before anything is done."""
    for variable in settings.VARIABLES:
        variable.number()
    given = getattr(args, "target", None)
    native = getattr(args, "native", False) or getattr(args, "measure", False)
    if native or given or os.environ.get("CONVC_TARGET"):
        target = target_named(given)
        if native:
            check_runnable(target)


def _new_line() -> str:
    """What ends the line that a terminal shows ``^C`` on."""
    return "\n" if sys.stderr.isatty() else ""


def _debugging() -> bool:
    try:
        return settings.number("CONVC_DEBUG") > 0
    except ir.Error:  # it may be what the error is about
        return False


def _message(error: BaseException) -> str:
    """What went wrong, in a few lines: two, or more where they are a list."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = [printable(line.strip()) for line in str(error).splitlines() if line.strip()]
    listing = isinstance(error, LoadError | ExportError)
    shown = lines[: LISTED if listing else 2]
    if listing and len(lines) > LISTED:
        shown.append(f"and {len(lines) - LISTED} more")
    return "\n".join(shown) or type(error).__name__


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """The logger ``convc`` on standard error, at the level of ``CONVC_LOG``."""
    level = os.environ.get("CONVC_LOG", "").lower()
    logger = logging.getLogger("convc")
    before = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("convc: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel((level if level in LEVELS else "warning").upper())
    if level and level not in LEVELS:
        logger.warning("CONVC_LOG=%s is none of %s; using warning", level, ", ".join(LEVELS))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _drop_output() -> None:
    """Nobody reads any more: keep the interpreter from complaining when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
