"""``convc convert``: a model to a file of another format."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import convc
from convc.tools import arguments
from convc.tools.compile import with_gradients

DESCRIPTION = """\
Write MODEL as FILE, in the format that its suffix says: .ir, with the weights beside it in
.safetensors, or .onnx, for other engines to run; nodes that ONNX cannot express are listed.
Symbolic extents stay symbolic, those given with --sizes apart."""
EXAMPLE = """\
  convc convert zoo:resnet50 --output resnet50.onnx
  convc convert lenet.onnx --output lenet.ir --sizes N=8"""


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "convert", "write a model in another format: .ir or .onnx", DESCRIPTION, EXAMPLE
    )
    arguments.add_model(parser)
    parser.add_argument("--output", "-o", metavar="FILE", type=Path, required=True,
                        help="the file to write, FILE.ir or FILE.onnx")  # fmt: skip
    arguments.add_gradients(parser)
    arguments.add_sizes(parser, None)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    graph = convc.load(args.model)
    if args.gradients:
        graph = with_gradients(graph)
    graph = arguments.bound(graph, args.sizes, None)
    try:
        convc.save(graph, args.output)
    except convc.ExportError as error:
        told = re.sub(r"graph\.bind\(\{'(\w+)': 8\}\)", r"--sizes \1=8", str(error))
        raise convc.ExportError(told) from error
    print(f"{args.output}  {args.output.stat().st_size:,} bytes")
    return 0
