"""``convc demo``: the main job, end to end, on handwritten digits."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt

import convc
import ir
from convc.algorithms import Algorithm
from convc.backend.target import target_named
from convc.tools.arguments import (
    Subparsers,
    add_json,
    add_output,
    add_target,
    add_threads,
    new_parser,
    positive,
    writable_folder,
)
from convc.tools.labels import op_label
from convc.tools.progress import Progress
from convc.tools.table import json_text, pairs, table
from convc.train import Digits, Trainer, load_digits
from convc.train.lenet import lenet, with_loss

Array = npt.NDArray[Any]
BATCH, RATE, MOMENTUM = 32, 0.02, 0.9
SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Result:
    """What the demo found; times in milliseconds for one training step of ``batch`` images."""

    accuracy: float
    max_relative_error: float
    native_step_ms: float
    interpreter_step_ms: float
    model_path: str
    compile_seconds: float
    train_seconds: float
    epochs: int
    held_out: int
    batch: int
    loss: float
    threads: int
    target: str
    kernels: int
    algorithms: Mapping[str, Mapping[str, list[str]]]
    """Op, then algorithm, then the nodes."""
    errors: Mapping[str, float]
    seconds: float


def add_parser(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "demo",
        "train a small network on handwritten digits, check it, save it",
        "Compile a LeNet-like network with its gradients to native code, train it on 1,438 "
        "handwritten digits that come with convc, test it on 359 others, compare every gradient "
        "with the interpreter, and save, load and run the trained model. Takes seconds; needs "
        "no network.",
        "  convc demo --output my-demo",
    )
    add_output(parser, "folder for the trained model (default: convc-demo)", "convc-demo")
    parser.add_argument("--epochs", metavar="N", type=positive, default=30,
                        help="passes over the training images (default: 30)")  # fmt: skip
    add_threads(parser)
    add_target(parser)
    add_json(parser)
    parser.set_defaults(run=run, native=True)


def run(args: argparse.Namespace) -> int:
    """Run the demo and print its result; 0 also where the accuracy disappoints."""
    result, images = demo(args.output, args.epochs, args.threads, args.target)
    if args.json:
        print(json_text(asdict(result)))
    else:
        print(report(result, images))
    return 0


def demo(
    output: Path, epochs: int = 30, threads: int | None = None, target: str | None = None
) -> tuple[Result, str]:
    """Train, check, save, load, run. Also gives a picture of some images with their answers."""
    begin = time.perf_counter()
    path = writable_folder(output) / "digits.ir"
    digits, network, progress = load_digits(), lenet(), Progress()
    batch = _batch(digits, np.arange(BATCH))
    progress.update("compiling the training step to native code")
    start = time.perf_counter()
    trainer = Trainer(with_loss(network), momentum=MOMENTUM, threads=threads, target=target)
    trainer.model.executable(N=BATCH)
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    loss = _train(trainer, digits, epochs, progress)
    trained = time.perf_counter() - start
    trainer.trained(network).save(path)
    progress.update("checking every gradient against the interpreter")
    errors = deviations(trainer.trained(), batch, threads, target)
    model = convc.compile(convc.load(path), threads=threads, target=target)
    scores = model(digits.test_images)
    executable = trainer.model.executable(N=BATCH)
    speeds = _speeds(trainer, batch)
    stages = trainer.model.stages(N=BATCH)
    result = Result(
        accuracy=float(np.mean(scores.argmax(1) == digits.test_labels)),
        max_relative_error=max(errors.values()),
        native_step_ms=speeds[0],
        interpreter_step_ms=speeds[1],
        model_path=str(path),
        compile_seconds=compiled,
        train_seconds=trained,
        epochs=epochs,
        held_out=len(digits.test_labels),
        batch=BATCH,
        loss=loss,
        threads=executable.threads,
        target=target_named(target).name,
        kernels=len({step.kernel for part in executable.plan.parts for step in part.steps}),
        algorithms=_algorithms(stages.optimised, stages.algorithms),
        errors=errors,
        seconds=time.perf_counter() - begin,
    )
    progress.done(f"done in {result.seconds:.1f} s")
    return result, gallery(digits, scores)


def _batch(digits: Digits, chosen: Array) -> dict[str, Array]:
    return {"x": digits.train_images[chosen], "labels": digits.train_labels[chosen]}


def _train(trainer: Trainer, digits: Digits, epochs: int, progress: Progress) -> float:
    """Whole batches in random order; the rate falls to a fifth for the last quarter."""
    rng = np.random.default_rng(0)
    loss = float("nan")
    for epoch in range(1, epochs + 1):
        rate = RATE if epoch <= epochs * 0.75 else RATE / 5
        order = rng.permutation(len(digits.train_labels))
        batches = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        loss = statistics.fmean(trainer.step(_batch(digits, b), rate) for b in batches)
        if epoch == 1 or epoch % 5 == 0 or progress.terminal:
            progress.update(f"epoch {epoch}/{epochs}  loss {loss:.4f}")
    return loss


def deviations(
    graph: ir.Graph, batch: Mapping[str, Array], threads: int | None, target: str | None
) -> dict[str, float]:
    """Native float32 against the interpreter in float64, relative to each tensor's largest.

    Compared are the outputs, and the gradient of every float input and weight for random upstream
    gradients.
    """
    names = [n for n in (*graph.inputs, *graph.weights) if graph.types[n].dtype.is_float]
    backward = ir.vjp(graph, names)
    rng = np.random.default_rng(1)
    upstream = {name: type.bind({"N": BATCH}).static_shape
                for name, type in backward.inputs.items() if name not in batch}  # fmt: skip
    inputs = {name: rng.standard_normal(shape, np.float32) for name, shape in upstream.items()}
    inputs = {name: np.asarray(array, np.float32) for name, array in inputs.items()} | dict(batch)
    native = convc.compile(backward, threads=threads, target=target).run(inputs)
    reference = ir.interpret(backward, inputs, dtype="float64")
    return {name: _error(native[name], reference[name]) for name in reference}


def _error(native: Array, reference: Array) -> float:
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(native - reference).max()) / scale


def _speeds(trainer: Trainer, batch: Mapping[str, Array]) -> tuple[float, float]:
    """Median milliseconds of a step: native, and interpreted in the same precision."""
    native = _median_ms(lambda: trainer.step(batch, 0.0), 200)
    inputs = trainer.inputs(batch, 0.0)
    return native, _median_ms(lambda: ir.interpret(trainer.step_graph, inputs), 5)


def _median_ms(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def _algorithms(
    graph: ir.Graph, chosen: Mapping[str, Algorithm]
) -> dict[str, dict[str, list[str]]]:
    """The nodes of each op, by the algorithm that computes them."""
    found: dict[str, dict[str, list[str]]] = {}
    for node in graph.nodes:
        by_algorithm = found.setdefault(op_label(node.op), {})
        by_algorithm.setdefault(chosen[node.name].name, []).append(node.name)
    return found


def gallery(digits: Digits, scores: Array, count: int = 6) -> str:
    """Some held-out images side by side, with the answer below; wrong answers come first."""
    answers = scores.argmax(1)
    order = np.argsort(answers == digits.test_labels, kind="stable")
    shown = [*order[: count // 2], *order[len(order) - count + count // 2 :]]
    pictures = (digits.test_images[shown, 0] * (len(SHADES) - 1)).round().astype(int)
    rows = ["   ".join("".join(SHADES[v] * 2 for v in picture[y]) for picture in pictures)
            for y in range(pictures.shape[1])]  # fmt: skip
    labels = [f"{answers[i]}" + ("" if answers[i] == digits.test_labels[i]
              else f" (is {digits.test_labels[i]})") for i in shown]  # fmt: skip
    return "\n".join([*rows, "   ".join(f"{label:^16}" for label in labels).rstrip()])


def report(result: Result, images: str) -> str:
    """The result as text for people."""
    ratio = result.interpreter_step_ms / result.native_step_ms
    rows = [
        (op, algorithm, shorten(", ".join(nodes), 48, placeholder=" ..."))
        for op, by_algorithm in result.algorithms.items()
        for algorithm, nodes in by_algorithm.items()
    ]
    parts = [
        "Some held-out digits and the answers of the loaded model (mistakes first):",
        images,
        "",
        table(("op of the training step", "algorithm", "nodes"), rows),
        "",
        pairs(
            [
                ("held-out accuracy", f"{result.accuracy:.2%} of {result.held_out} images"),
                ("training", f"{result.epochs} epochs, {result.train_seconds:.1f} s"),
                ("compilation", f"{result.compile_seconds:.2f} s, {result.kernels} kernels"),
                ("largest deviation", f"{result.max_relative_error:.1e} of the largest value "
                                      "(outputs, gradients; native against float64)"),
                ("one step, native", f"{result.native_step_ms:.3f} ms "
                                     f"({result.target}, threads: {result.threads})"),
                ("one step, interpreter", f"{result.interpreter_step_ms:.1f} ms "
                                          f"({ratio:.0f} times as long)"),
                ("saved model", result.model_path),
            ]
        ),
        "",
        "Next:",
        f"  convc show {result.model_path} --at graph",
        f"  convc check {result.model_path}",
        f"  convc show {result.model_path} --at asm",
        f"  convc compile {result.model_path} --output build --sizes N=1",
    ]  # fmt: skip
    return "\n".join(parts)
