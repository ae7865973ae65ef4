"""``convc run``: compile a model, run it on arrays from files, write the results to files."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable

import numpy as np

import convc
import ir
from convc.errors import InputError
from convc.tools import arguments
from convc.tools.options import add_options, how
from convc.tools.table import json_text, table

DESCRIPTION = """\
Compile MODEL to native code for this machine, run it once on arrays from .npy files, and write
each output as an .npy file. Shapes and element types must be those the model declares
(convc show MODEL --at graph prints them); symbolic extents take the sizes of the arrays."""
EXAMPLE = "  convc run lenet.ir --input x=images.npy --output results"


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "run", "run a model on arrays from .npy files", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser)
    arguments.add_inputs(parser, "every input of the model is needed")
    arguments.add_output(parser, "folder for the outputs, made if it lacks: DIR/<output>.npy")
    arguments.add_json(parser)
    add_options(parser)
    parser.set_defaults(run=run, native=True)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    graph = convc.load(args.model)
    arrays = arguments.read_arrays(args.input, graph.inputs)
    missing = [f"--input {shlex.quote(f'{name}=FILE.npy')} ({type})"
               for name, type in graph.inputs.items() if name not in arrays]  # fmt: skip
    if missing and arrays.keys() <= graph.inputs.keys():
        raise InputError(f"graph '{graph.name}' needs more inputs: {', '.join(missing)}")
    ir.check_inputs(graph, arrays)  # before the time of compiling is spent
    model = convc.compile(graph, args.threads, **how(args))
    results = model.run(arrays)
    arguments.writable_folder(args.output)
    files = {name: args.output / file for name, file in file_names(results).items()}
    for name, array in results.items():
        np.save(files[name], array, allow_pickle=False)
    rows = [(name, str(ir.TensorType.of(a)), str(files[name])) for name, a in results.items()]
    if args.json:
        named = [dict(zip(("name", "type", "file"), row, strict=True)) for row in rows]
        print(json_text({"outputs": named}))
    else:
        print(table(("output", "type", "file"), rows))
    return 0


def file_names(outputs: Iterable[str]) -> dict[str, str]:
    """A file name for each output: letters, digits and ``._-`` stay, names stay distinct."""
    files: dict[str, str] = {}
    taken: set[str] = set()
    for output in outputs:
        stem = re.sub(r"[^\w.-]", "_", output, flags=re.ASCII).lstrip(".")[:100] or "output"
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        files[output] = f"{name}.npy"
    return files
