"""What the tools share: their arguments, reading arrays, binding sizes."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.backend.target import TARGETS
from convc.errors import InputError, LoadError
from ir.errors import did_you_mean

SIZE = 64
"""What symbolic extents are that no option gives, of other axes than the batch."""
Array: TypeAlias = "np.ndarray[Any, Any]"
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def new_parser(
    subparsers: Subparsers, name: str, summary: str, description: str, example: str
) -> argparse.ArgumentParser:
    """The parser of one tool; ``summary`` is its line in ``convc --help``."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """The positional MODEL."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?" if optional else None,
        help="a .ir file, its weights beside it in .safetensors; an .onnx file; or zoo:NAME, as in "
        "zoo:resnet50",
    )  # fmt: skip


def add_inputs(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """``--input NAME=FILE.npy``, repeated; ``otherwise`` says what holds for those not given."""
    parser.add_argument(
        "--input", "-i", metavar="NAME=FILE.npy", type=_named_file, action="append", default=[],
        help=f"the array for one input, as numpy.save writes it; repeat per input ({otherwise})",
    )  # fmt: skip


def add_sizes(parser: argparse.ArgumentParser, batch: int | None) -> None:
    """``--sizes N=4,H=32``; without a default for batches, extents stay symbolic."""
    otherwise = f"{batch} for a batch, the first axis of an input; {SIZE} for others"
    otherwise = "they stay symbolic" if batch is None else otherwise
    parser.add_argument(
        "--sizes", metavar="N=4,H=32", type=_sizes, action=_Sizes, default=[],
        help=f"values of symbolic extents (default: {otherwise})",
    )  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    """``--target NAME``."""
    names = ", ".join(TARGETS)
    parser.add_argument(
        "--target", metavar="NAME", choices=tuple(TARGETS),
        help=f"the instruction set: {names} (default: CONVC_TARGET, else the best that runs here)",
    )  # fmt: skip


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads N``."""
    parser.add_argument(
        "--threads", metavar="N", type=positive,
        help="at most so many threads (default: CONVC_NUM_THREADS, else the cores this process "
        "may use)",
    )  # fmt: skip


def add_output(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """``--output DIR``; needed unless there is a default."""
    parser.add_argument(
        "--output", "-o", metavar="DIR", type=Path, default=default, required=default is None,
        help=text,
    )  # fmt: skip


def add_gradients(parser: argparse.ArgumentParser) -> None:
    """``--gradients``, as ``with_gradients`` of ``convc.tools.compile`` takes them."""
    parser.add_argument("--gradients", action="store_true",
                        help="the gradients of all float inputs and weights too (default: no)",
                        )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def writable_folder(folder: Path) -> Path:
    """A folder of ``--output``, made if it lacks. Raises ``InputError`` where files cannot be
    written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        hint = "give a folder that can be written with --output DIR"
        raise InputError(f"{folder}: cannot write there: {error.strerror}; {hint}") from error


def read_arrays(files: Sequence[str], inputs: Collection[str]) -> dict[str, Array]:
    """The arrays of ``--input`` by name. Raises ``InputError`` for a name given twice.

    The name ends at the first ``=``, unless one of the model's ``inputs`` has such characters.
    """
    arrays: dict[str, Array] = {}
    for text in files:
        known = [name for name in inputs if text.startswith(f"{name}=")]
        name = max(known, key=len, default=text.partition("=")[0])
        file = text[len(name) + 1 :]
        if name in arrays:
            raise InputError(f"--input {name} is given twice")
        arrays[name] = read_array(Path(file))
    return arrays


def read_array(path: Path) -> Array:
    """The array in an .npy file, in the machine's byte order; never unpickles.

    Raises ``LoadError`` for any other content.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{path}: not an array that numpy.save wrote: {reason}") from error
    return np.asarray(array, array.dtype.newbyteorder("="))


def batches(graph: ir.Graph) -> set[str]:
    """The symbols that are the first extent of an input."""
    first = {str(type.shape[0]) for type in graph.inputs.values() if type.rank}
    return first & graph.symbols


def bound(graph: ir.Graph, given: Sequence[Mapping[str, int]], batch: int | None) -> ir.Graph:
    """The graph with its symbols replaced: by the given sizes, else those of batches by ``batch``
    and others by ``SIZE``; without ``batch`` they stay."""
    sizes = {name: size for each in given for name, size in each.items()}
    for name in sizes.keys() - graph.symbols:
        known = ", ".join(sorted(graph.symbols)) or "none"
        hint = did_you_mean(name, graph.symbols)
        raise InputError(f"--sizes: no symbolic extent {name!r}{hint} (there are: {known})")
    usual: dict[str, int] = {}
    if batch is not None:
        usual = {name: batch if name in batches(graph) else SIZE for name in graph.symbols}
    env = dict(sorted({**usual, **sizes}.items()))
    if not env:
        return graph
    try:
        return graph.bind(env)
    except ir.Error as error:
        values = ", ".join(f"{name}={size}" for name, size in env.items())
        left = ",".join(f"{name}=..." for name in env if name not in sizes)
        hint = f"choose others with --sizes {left}" if left else "set by --sizes"
        raise error.within(f"with {values} ({hint})") from error


def gradient_names(graph: ir.Graph) -> list[str]:
    """All float inputs and weights."""
    return [n for n in (*graph.inputs, *graph.weights) if graph.types[n].dtype.is_float]


def _named_file(text: str) -> str:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FILE.npy")
    return text


class _Sizes(argparse.Action):
    """Collects ``--sizes``; no extent may have two."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        before = getattr(namespace, self.dest)
        for name in values:
            if any(name in each for each in before):
                raise argparse.ArgumentError(self, f"{name} is given twice")
        setattr(namespace, self.dest, [*before, values])


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if not (name and value.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} must be NAME=NUMBER, as in N=4")
        if name in sizes:
            raise argparse.ArgumentTypeError(f"{name} is given twice: {text}")
        sizes[name] = int(value)
    return sizes
