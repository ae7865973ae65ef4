"""Models among threads and processes: calls that overlap, a cache that is shared, forks, pools."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.settings import cache_folder
from convc.train.lenet import lenet, with_loss
from ir.types import Array

ROOT = Path(__file__).parents[1]
THREADS = 8
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
WORKER = """
import sys
from tests.test_processes import gradients_digest
print("ready", flush=True)
sys.stdin.readline()
print(gradients_digest())
"""


def digits(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> ir.Graph:
    return lenet(channels=(5, 17), hidden=20)


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models compiled in this test use all their threads, however little there is to do."""
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)


def agree(graph: ir.Graph, x: Array, got: Array) -> None:
    want = ir.interpret(graph, {"x": x}, "float64")["scores"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1))


# ---------------------------------------------------------------- threads


def at_once(work: Callable[[int], object]) -> list[object]:
    """What ``work(number)`` gives on each of the threads, all started at once."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> object:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(run, range(THREADS)))


@pytest.fixture
def restless() -> Iterator[None]:
    """Python changes between its threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("workers", [1, 3])
def test_eight_threads_may_call_one_model(graph: ir.Graph, workers: int) -> None:
    model = convc.compile(graph.bind({"N": 4}), threads=workers)
    want = [model(digits(4, number)) for number in range(THREADS)]
    for number, result in enumerate(want):
        agree(graph, digits(4, number), result)

    def work(number: int) -> bool:
        x, bits = digits(4, number), want[number].tobytes()
        return all(model(x).tobytes() == bits for _ in range(100))

    assert all(at_once(work))


@pytest.mark.usefixtures("restless")
def test_eight_threads_may_call_with_more_sizes_than_are_kept(
    graph: ir.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a size is dropped while others run it, and made again."""
    monkeypatch.setenv("CONVC_SPECIALISATIONS", "2")
    model = convc.compile(graph, threads=2)

    def work(number: int) -> bool:
        for turn in range(6):
            x = digits((number + turn) % 4, number)
            agree(graph, x, model(x))
        return True

    assert all(at_once(work))
    assert len(model._special) == 2


class Vanishing(OrderedDict[Any, Any]):
    """What is found is dropped by another thread at once."""

    def get(self, key: Any, default: Any = None) -> Any:
        return self.pop(key, default)


def test_code_dropped_as_it_is_found_is_run(graph: ir.Graph) -> None:
    model = convc.compile(graph, threads=1)
    for count in (3, 3, 2, 3):
        x = digits(count)
        agree(graph, x, model(x))
        model._special = Vanishing(model._special)


@pytest.mark.usefixtures("restless")
def test_eight_threads_may_compile_at_once(graph: ir.Graph) -> None:
    x = digits(5)
    got = at_once(lambda number: convc.compile(graph, threads=1 + number % 3)(x).tobytes())
    agree(graph, x, np.frombuffer(got[0], np.float32).reshape(5, 10))  # type: ignore[call-overload]
    assert len(set(got)) == 1


# ---------------------------------------------------------------- one cache of many processes


def gradients_digest() -> str:
    """All gradients of a network, as bits."""
    whole = with_loss(lenet(channels=(5, 17), hidden=20)).bind({"N": 6})
    back = ir.vjp(whole, list(whole.weights))
    inputs = {"x": digits(6), "labels": np.arange(6)}
    inputs |= {"grad_loss": np.ones((), "f"), "grad_scores": np.zeros((6, 10), "f")}
    results = convc.compile(back, threads=2).run(inputs)
    return " ".join(results[name].tobytes().hex() for name in sorted(results))


@contextmanager
def workers(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have started and wait for a line to compile and run; killed at the end."""
    command = [sys.executable, "-c", WORKER]
    pipe = subprocess.PIPE
    made = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        for _ in range(count)
    ]
    try:
        for process in made:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield made
    finally:
        for process in made:
            process.kill()
            process.communicate()


def objects_kept() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return list(folder.rglob("*.object"))


def test_two_processes_compile_and_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the cache empty, and write the same files."""
    want = gradients_digest()
    monkeypatch.setenv("CONVC_CACHE_MIB", "64")
    with workers(2) as both:
        assert not objects_kept()
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        got = [process.communicate(timeout=300)[0].strip() for process in both]
    assert got == [want, want]
    assert len(objects_kept()) > 5


def test_a_process_killed_as_it_writes_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    want = gradients_digest()
    monkeypatch.setenv("CONVC_CACHE_MIB", "64")
    with workers(3) as each:
        for process, enough in zip(each[:2], (1, 4), strict=True):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            while len(objects_kept()) < enough and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        assert objects_kept()
        assert each[2].communicate("go\n", timeout=300)[0].strip() == want


# ---------------------------------------------------------------- pools and forks


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_pool_of_processes_runs_a_pickled_model(graph: ir.Graph, method: str) -> None:
    model = convc.compile(graph, threads=2)
    images = [digits(count, count) for count in (1, 3, 3, 2)]
    want = [model(x) for x in images]
    with multiprocessing.get_context(method).Pool(2) as pool:
        got = pool.map_async(model, images).get(300)
    for x, result, here in zip(images, got, want, strict=True):
        agree(graph, x, result)
        assert result.tobytes() == here.tobytes() or method != "fork"


def in_a_fork(work: Callable[[], bool]) -> bool:
    """What it gives in a child, which has a minute."""
    child = os.fork()
    if not child:
        signal.alarm(60)
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@FORKS
def test_a_child_forked_after_use_runs_compiles_and_forks(graph: ir.Graph) -> None:
    model = convc.compile(graph.bind({"N": 4}), threads=3)
    want = model(digits(4)).tobytes()

    def work() -> bool:
        again = convc.compile(graph.bind({"N": 4}), threads=2)
        return all(m(digits(4)).tobytes() == want for m in (model, again))

    assert in_a_fork(lambda: work() and in_a_fork(work))
    assert work()


@FORKS
@pytest.mark.usefixtures("restless")
def test_a_fork_in_the_middle_of_calls_and_compilations(graph: ir.Graph) -> None:
    """Whatever other threads were at, nothing of theirs is left locked in the child."""
    model = convc.compile(graph.bind({"N": 4}), threads=3)
    want = model(digits(4)).tobytes()
    over = threading.Event()

    def call(_: int) -> None:
        while not over.is_set():
            assert model(digits(4)).tobytes() == want

    def compile_others(number: int) -> None:
        count = 100 * number
        while not over.is_set():
            count += 1
            convc.compile(graph.bind({"N": count}), threads=2)

    def work() -> bool:
        again = convc.compile(graph.bind({"N": 5}), threads=2)
        agree(graph, digits(5), again(digits(5)))
        return all(model(digits(4)).tobytes() == want for _ in range(20))

    with ThreadPoolExecutor(4) as threads:
        try:
            busy = [threads.submit(call, n) for n in range(2)]
            busy += [threads.submit(compile_others, n) for n in (1, 2)]
            good = [in_a_fork(work) for _ in range(6)]
        finally:
            over.set()
        for future in busy:
            future.result(60)
    assert all(good)
