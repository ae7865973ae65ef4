"""``convc compile``: a model to an object file and a C header."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ir
from convc.backend.aot import Argument, arguments, c_name, header, object_code, workspace_bytes
from convc.backend.target import available, target_named
from convc.errors import InputError, TargetError
from convc.frontends import load
from convc.model import Options, Stages, stages
from convc.passes import PIPELINE, Pass
from convc.runtime.part import Prepared
from convc.tools.arguments import (
    Subparsers,
    add_gradients,
    add_json,
    add_model,
    add_output,
    add_sizes,
    bound,
    gradient_names,
    new_parser,
)
from convc.tools.options import add_options, how
from convc.tools.table import json_text


@dataclass(frozen=True)
class Artifact:
    """What was written."""

    object_file: Path
    header_file: Path
    symbol: str
    workspace_bytes: int
    arguments: tuple[Argument, ...]


def add_parser(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "compile",
        "write a model as an object file with a C header",
        "Write NAME.o and NAME.h. The object defines one function, NAME_run(inputs..., outputs..., "
        "workspace), with the weights inside. It keeps no state and allocates nothing: the caller "
        "brings the workspace, whose size the header states. With --gradients it also takes the "
        "gradients of the outputs and gives those of the float inputs and weights, and is called "
        "NAME_gradients_run.",
        "  convc compile lenet.ir --output build\n  cc main.c build/lenet.o -o main",
    )
    add_model(parser)
    add_output(parser, "folder for the two files, made if it lacks")
    parser.add_argument("--name", metavar="NAME", type=_identifier,
                        help="prefix of symbol and files (default: the graph's name)")  # fmt: skip
    add_gradients(parser)
    add_sizes(parser, 1)
    add_json(parser)
    add_options(parser, threads=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile as the arguments say and print what was written."""
    graph = load(args.model)
    if args.gradients:
        graph = with_gradients(graph)
    graph = bound(graph, args.sizes, 1)
    written = compile_object(graph, args.output, args.name, **how(args))
    size = written.object_file.stat().st_size
    if args.json:
        print(json_text({
            "object": str(written.object_file), "bytes": size, "symbol": written.symbol,
            "header": str(written.header_file), "workspace_bytes": written.workspace_bytes,
        }))  # fmt: skip
        return 0
    print(f"{written.object_file}  {size:,} bytes, defines {written.symbol}")
    print(f"{written.header_file}  workspace {written.workspace_bytes:,} bytes")
    return 0


def _identifier(text: str) -> str:
    """An argument that is an identifier of C."""
    if c_name(text) != text:
        hint = f"did you mean {c_name(text)}?"
        raise argparse.ArgumentTypeError(f"{text!r} is not a C identifier; {hint}")
    return text


def with_gradients(graph: ir.Graph) -> ir.Graph:
    """The graph with the gradients of all its float inputs and weights, under a name of its own.

    Raises ``InputError`` where it has none.
    """
    names = gradient_names(graph)
    if not names:
        raise InputError(f"--gradients: graph '{graph.name}' has no float inputs or weights")
    return replace(ir.vjp(graph, names), name=f"{graph.name}_gradients")


def compile_object(
    graph: ir.Graph,
    folder: Path,
    name: str | None = None,
    target: str | None = None,
    passes: Sequence[Pass] = PIPELINE,
    accuracy: str = "fast",
    algorithms: Mapping[str, str] | None = None,
    by_image: bool = True,
) -> Artifact:
    """Write ``NAME.o`` and ``NAME.h`` for a static graph; the rest is as of ``convc.compile``.

    Raises ``TargetError`` for a target whose code does not run here: constants are packed by
    running it. ``CapacityError`` for 2 GiB of them or more.
    """
    chosen = target_named(target)
    if chosen.name not in available():
        raise TargetError(f"cannot compile for {chosen.name} here: packing the weights runs its "
                          f"code; targets here: {', '.join(available())}")  # fmt: skip
    forced = tuple(sorted((algorithms or {}).items()))
    options = Options(1, accuracy, forced, chosen, tuple(passes), by_image=by_image)
    made = stages(graph, options)
    prefix = c_name(name or graph.name)
    symbol = f"{prefix}_run"
    folder.mkdir(parents=True, exist_ok=True)
    params = arguments(graph.inputs, {n: graph.types[v] for n, v in graph.outputs.items()})
    files = folder / f"{prefix}.o", folder / f"{prefix}.h"
    pieces = _object(made, symbol)
    with files[0].open("wb") as file:
        file.writelines(pieces)
    workspace = workspace_bytes(made.plan)
    files[1].write_text(header(symbol, params, workspace, graph.name, chosen), "utf-8")
    return Artifact(*files, symbol, workspace, tuple(params))


def _object(made: Stages, symbol: str) -> list[bytes | memoryview]:
    plan, data = made.plan.split()
    pairs = zip(plan.parts, data, strict=True)
    packed = [Prepared(part, each, made.target, 1).constants.bytes for part, each in pairs]
    return object_code(plan, packed, symbol, made.target)
