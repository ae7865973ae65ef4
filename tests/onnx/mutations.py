"""Files of models with random damage, imported, and exported again where they mean something, in a
process whose memory and time are bounded."""

from __future__ import annotations

import logging
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import convc
import convc.frontends.onnx as frontend
from convc.errors import ExportError, LoadError
from tests.onnx.conformance import cases
from tests.onnx.models import exported, onnx
from tests.onnx.test_versions import CASES, opsets

ROOT = Path(__file__).parents[2]
MEMORY, PEAK, SECONDS = 6 * 2**30, 3 * 2**30, 20
SMALL = 2000


def seeds(kind: str) -> list[bytes]:
    """Whole files of a kind: a network of the zoo, the forms of all operators, or the small models
    of the suite."""
    if kind == "forms":
        each = (which.model(opset) for which in CASES for opset in opsets(which))
        return [model.SerializeToString() for model, _ in each]
    if kind != "suite":
        return [exported(kind)]
    return [
        case.model.SerializeToString()
        for name, members in cases().items()
        if name != "light"
        for case in members[::3]
    ]


def structure(data: bytes) -> np.ndarray:
    """The places in a file that are not the numbers of its weights."""
    kept = np.ones(len(data), bool)
    for tensor in onnx.ModelProto.FromString(data).graph.initializer:
        at = data.find(tensor.raw_data) if len(tensor.raw_data) > 64 else -1
        if at >= 0:
            kept[at : at + len(tensor.raw_data)] = False
    return np.flatnonzero(kept)


def damaged(data: bytes, places: np.ndarray, rng: np.random.Generator) -> bytes:
    """The file cut short, with other bytes, without or with twice a part, or no file."""
    kind = rng.integers(12)
    start = int(rng.choice(places))
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        return rng.bytes(int(rng.integers(SMALL)))
    end = start + int(rng.integers(1, 64))
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    changed = bytearray(data)
    for at in rng.choice(places, rng.integers(1, 4)):
        changed[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return bytes(changed)


NUMBERS = (0, 1, -1, 2, 3, 7, -(2**63), 2**63 - 1, 2**31, 10**9, 1000)


def mangled(data: bytes, rng: np.random.Generator) -> bytes:
    """A file of the right form that says something else: other numbers, names, types or nodes."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for _ in range(rng.integers(1, 4)):
        node = graph.node[rng.integers(len(graph.node))]
        other = graph.node[rng.integers(len(graph.node))]
        tensors = [*graph.initializer, *(a.t for a in node.attribute if a.HasField("t"))]
        values = [*graph.input, *graph.output]
        match rng.integers(10):
            case 0:
                node.op_type = other.op_type
            case 1 if node.input:
                names = [*other.input, *other.output, "", "missing"]
                node.input[rng.integers(len(node.input))] = names[rng.integers(len(names))]
            case 2:
                graph.node.append(node)
            case 3:
                graph.node.remove(node)
                if not graph.node:
                    break
            case 4 if tensors:
                tensor = tensors[rng.integers(len(tensors))]
                tensor.data_type = int(rng.integers(30))
            case 5 if tensors:
                tensor = tensors[rng.integers(len(tensors))]
                dims = [int(rng.choice(NUMBERS)) for _ in range(rng.integers(4))]
                tensor.dims[:] = dims
            case 6 if values:
                kind = values[rng.integers(len(values))].type.tensor_type
                kind.elem_type = int(rng.integers(20)) if rng.integers(2) else kind.elem_type
                for dim in kind.shape.dim:
                    if rng.integers(2):
                        dim.dim_value = int(rng.choice(NUMBERS))
            case 7 if node.attribute:
                del node.attribute[int(rng.integers(len(node.attribute)))]
            case _:
                mangle_numbers(node, tensors, rng)
    return bytes(model.SerializeToString())


def mangle_numbers(node: Any, tensors: list[Any], rng: np.random.Generator) -> None:
    """Other numbers in the attributes of a node, and in lists of integers."""
    for attribute in node.attribute:
        if rng.integers(2):
            attribute.i = int(rng.choice(NUMBERS))
            attribute.f = float(rng.choice([0, -1, np.nan, np.inf, 1e30]))
            for at in range(len(attribute.ints)):
                attribute.ints[at] = int(rng.choice(NUMBERS))
            for at in range(len(attribute.floats)):
                attribute.floats[at] = float(rng.choice([0, -1, np.nan, np.inf, 1e30]))
    for tensor in tensors:
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.raw_data) <= SMALL:
            count = len(tensor.raw_data) // 8
            tensor.raw_data = rng.choice(NUMBERS, count).astype(np.int64).tobytes()


def all_damaged(kind: str, seed: int, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    whole = [(data, structure(data)) for data in seeds(kind)]
    for _ in range(count):
        data, places = whole[rng.integers(len(whole))]
        yield damaged(data, places, rng) if rng.integers(3) == 0 else mangled(data, rng)


def work(kind: str, seed: int, count: int) -> None:
    """Import what is damaged: a graph, which has a form in ONNX or not, or LoadError, within
    seconds; else the process dies."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    refused = 0
    for number, data in enumerate(all_damaged(kind, seed, count)):
        print(number, file=sys.stderr)
        signal.alarm(SECONDS)
        try:
            convc.to_onnx(frontend.load(data))
        except LoadError as error:
            assert str(error)
            refused += 1
        except ExportError as error:
            assert str(error)
        signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak < PEAK, f"{peak} bytes were needed"
    print(refused)


def refused(kind: str, seed: int, count: int, timeout: float) -> int:
    """How many of so many damaged files are refused, in a process of its own."""
    program = f"from tests.onnx.mutations import work; work({kind!r}, {seed}, {count})"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return int(run.stdout)
