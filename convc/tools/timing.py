"""Measuring: interleaved rounds, medians, and the processor's own limit."""

from __future__ import annotations

import ctypes
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.backend.jit import compile_kernel
from convc.backend.target import Target
from convc.model import Model
from ir.loops import Kernel, KernelBuilder
from ir.loops.builder import fma

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the least and the median over all rounds."""

    least: float
    median: float


def measure(
    calls: Mapping[str, Call], rounds: int = 15, block: float = 0.02, pause: float = 0.0
) -> dict[str, Timing]:
    """Time contenders in turn, so that a change of the machine's speed meets them all.

    Each round gives each contender a block of about ``block`` seconds of calls, after some calls
    that are not counted. ``pause`` seconds before each block let the threads of the contender
    before fall asleep: as long as they spin they take processors from this one; then for half as
    long calls are not counted either, for the system to spread its own threads over processors.
    """
    counts = {name: max(1, int(block / _once(call, pause))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(pause)
            awake = time.perf_counter() + pause / 2
            for _ in range(1 + counts[name] // 4):
                call()
            while time.perf_counter() < awake:
                call()
            for _ in range(counts[name]):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: Timing(min(t), statistics.median(t)) for name, t in times.items()}


def pause_for(threads: int) -> float:
    """The ``pause`` of ``measure`` for contenders with so many threads."""
    return 0.25 if threads > 1 else 0.0


def _once(call: Call, pause: float) -> float:
    """Roughly the seconds of a call: of the second one."""
    time.sleep(pause)
    call()
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-7)


def step_times(model: Model, inputs: Sequence[npt.NDArray[Any]]) -> dict[str, Timing]:
    """Seconds of each step of a static model on one thread, by number and kernel."""
    executable = model.executable()
    results = executable.allocate()
    addresses = [[a.ctypes.data for a in arrays] for arrays in (inputs, results)]
    executable.run(*addresses)
    calls = {
        f"{number} {step.kernel.name}": call
        for number, (step, call) in enumerate(executable.step_calls(*addresses))
    }
    return measure(calls)


def peak_kernel(target: Target, turns: int = 20000) -> Kernel:
    """Independent multiply-adds, enough to fill the units, and nothing else."""
    accumulators, lanes = target.registers * 3 // 4, target.lanes("f32")
    k = KernelBuilder("peak")
    x, y = k.read("x", "f32", (2, lanes)), k.write("y", "f32", (accumulators, lanes))
    with k.loop("task", 1, "parallel"):
        acc = k.local("acc", "f32", (accumulators, lanes))
        for source in (y, None):
            repeat = 1 if source else turns
            with (
                k.loop("turn", repeat),
                k.loop("a", accumulators, "unroll") as a,
                k.loop("v", lanes, "vector") as v,
            ):
                k.store(acc[a, v], y[a, v] if source else fma(x[0, v], acc[a, v], x[1, v]))
        with k.loop("a", accumulators, "unroll") as a, k.loop("v", lanes, "vector") as v:
            k.store(y[a, v], acc[a, v])
    return k.build()


def peak_call(target: Target, turns: int = 20000) -> tuple[Call, float]:
    """A call of ``peak_kernel`` and the flops it does: the limit of one core."""
    kernel = peak_kernel(target, turns)
    code = compile_kernel(kernel, target)
    x = np.full(kernel.params[0].shape, 0.5, np.float32)
    y = np.ones(kernel.params[1].shape, np.float32)
    table = (ctypes.c_void_p * 2)(x.ctypes.data, y.ctypes.data)
    entry = code.kernel()

    def call(kept: tuple[object, ...] = (code, x, y)) -> None:
        entry(table, 0, 1, None)

    return call, 2.0 * turns * y.size


def peak_rate(target: Target, threads: int, seconds: float = 0.05) -> float:
    """Flops a second of multiply-adds alone, on so many cores at once.

    Each thread makes short calls for a while, and the best of each counts: whatever else runs on
    the machine now and then makes no difference.
    """
    pairs = [peak_call(target, 50_000) for _ in range(threads)]
    rates: list[float] = []

    def best(call: Call, flops: float) -> None:
        least, end = inf, time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or least == inf:
            call()
            least = min(least, time.perf_counter() - start)
        rates.append(flops / least)

    together([functools.partial(best, *pair) for pair in pairs])()
    return sum(rates)


def together(calls: Sequence[Call]) -> Call:
    """One call that makes all of these at the same time, each on a thread of its own."""
    if len(calls) == 1:
        return calls[0]
    pool = ThreadPoolExecutor(len(calls))

    def call() -> None:
        for job in [pool.submit(each) for each in calls]:
            job.result()

    return call


def peak_of(target: Target, threads: int) -> tuple[Call, float]:
    """``peak_call`` on several cores at once, long enough that starting threads is no matter."""
    pairs = [peak_call(target, 1_000_000) for _ in range(threads)]
    return together([call for call, _ in pairs]), sum(flops for _, flops in pairs)


def stream_call(threads: int, size: int = 1 << 23) -> tuple[Call, float]:
    """A call that adds arrays far larger than the caches, and the bytes it moves."""
    arrays = [np.ones((3, size // threads), np.float32) for _ in range(threads)]
    calls = [functools.partial(np.add, a, b, c) for a, b, c in arrays]
    return together(calls), float(sum(array.nbytes for array in arrays))
