"""Compiled models as callers meet them: arrays in and out, threads, forks, errors, limits."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import convc
import ir
from convc import settings
from convc.runtime.memory import address
from convc.runtime.threads import Pool, pool
from convc.train.lenet import lenet, with_loss
from ir.types import Array

KEPT: list[Pool] = []  # their workers wait on their memory for as long as the process lives


def digits(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> ir.Graph:
    return lenet(channels=(5, 17), hidden=20)


@pytest.fixture
def model(graph: ir.Graph) -> convc.Model:
    return convc.compile(graph.bind({"N": 3}))


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models compiled in this test use all their threads, however little there is to do."""
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)


def close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- arrays in


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray,
    "a transposed view": lambda x: x.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    "misaligned": lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "repeated by a stride of 0": lambda x: np.broadcast_to(x[:1], x.shape),
    "a subclass": lambda x: x.view(type("Special", (np.ndarray,), {})),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_arrays_of_any_layout_are_read(
    model: convc.Model, layout: Callable[[Array], Array]
) -> None:
    x = layout(digits(3))
    np.testing.assert_array_equal(model(x), model(np.array(x, order="C", subok=False)))


@pytest.mark.parametrize("array", [
    np.zeros((3, 4)), np.zeros(5)[2:], np.zeros((4, 4))[1:, ::2], np.zeros(0), np.array(1.0),
    np.frombuffer(b"12345678", np.float32),
], ids=["whole", "slice", "strided", "empty", "scalar", "read-only"])  # fmt: skip
def test_the_address_of_an_array_is_that_of_its_first_element(array: Array) -> None:
    assert address(array) == array.ctypes.data


def test_inputs_are_left_alone(model: convc.Model) -> None:
    x = digits(3)
    before = x.copy()
    x.flags.writeable = False
    model(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": digits(2)}, r"input 'x' has shape \(2, 1, 8, 8\), axis 0 must be 3"),
        ({"x": digits(3)[0]}, r"input 'x' has shape \(1, 8, 8\)"),
        ({"x": digits(3).astype(np.float64)}, r"input 'x' has element type float64, not f32"),
        ({"x": digits(3).astype(">f4")}, r"input 'x' has element type >f4"),
        ({"x": digits(3).tolist()}, "input 'x' must be a numpy array"),
        ({}, r"needs 'x' \(f32\[3, 1, 8, 8\]\)"),
        ({"y": digits(3)}, "has no input 'y'"),
        ({"x": digits(3), "extra": digits(3)}, "has no input 'extra'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    model: convc.Model, arrays: dict[str, Array], message: str
) -> None:
    with pytest.raises(ir.InputError, match=message):
        model.run(arrays)
    if list(arrays) == ["x"]:
        with pytest.raises(ir.InputError, match=message):
            model(arrays["x"])


def test_a_call_needs_as_many_arrays_as_there_are_inputs(model: convc.Model) -> None:
    for arrays in ((), (digits(3), digits(3))):
        with pytest.raises(ir.InputError, match=f"{len(arrays)} arrays for the inputs x"):
            model(*arrays)


@pytest.mark.parametrize("wrong", [-1, 10, 2**40, -(2**62)])
def test_labels_out_of_range_are_refused(graph: ir.Graph, wrong: int) -> None:
    trained = convc.compile(with_loss(graph).bind({"N": 3}))
    inputs = {"x": digits(3), "labels": np.array([0, 9, 5])}
    assert np.isfinite(trained.run(inputs)["loss"])
    inputs["labels"][1] = wrong
    with pytest.raises(ir.InputError, match=rf"input 'labels': label {wrong} is not in \[0, 10\)"):
        trained.run(inputs)


# ---------------------------------------------------------------- arrays out


def test_outputs_given_are_written_in_place(model: convc.Model) -> None:
    scores = np.full((3, 10), np.nan, np.float32)
    results = model.run({"x": digits(3)}, outputs={"scores": scores})
    assert results["scores"] is scores
    np.testing.assert_array_equal(scores, model(digits(3)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.empty((3, 9), np.float32),
        np.empty((3, 10), np.float64),
        np.empty((10, 3), np.float32).T,
        np.empty((3, 20), np.float32)[:, ::2],
        np.frombuffer(bytes(120), np.float32).reshape(3, 10),
        np.frombuffer(bytearray(121), np.float32, offset=1).reshape(3, 10),
    ],
    ids=["shape", "element type", "order", "stride", "read-only", "misaligned"],
)
def test_outputs_that_do_not_fit_are_refused(model: convc.Model, wrong: Array) -> None:
    with pytest.raises(convc.InputError, match=r"output 'scores' must be .* float32\[3, 10\]"):
        model.run({"x": digits(3)}, outputs={"scores": wrong})


def test_an_unknown_output_is_refused(model: convc.Model) -> None:
    with pytest.raises(convc.InputError, match="no output 'score'; outputs: scores"):
        model.run({"x": digits(3)}, outputs={"score": np.empty((3, 10), np.float32)})


def test_results_are_the_callers_own(model: convc.Model) -> None:
    first = model(digits(3))
    kept = first.copy()
    model(digits(3, seed=1))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable and first.flags.owndata


def test_outputs_may_be_inputs_weights_and_one_value_twice() -> None:
    b = ir.Builder("odd")
    x, w = b.input("x", "f32[2, 3]"), b.weight("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    y = x + w
    for name, value in {"x2": x, "w2": w, "y": y, "again": y, "flat": b.reshape(y, (6,))}.items():
        b.output(name, value)
    given = np.ones((2, 3), np.float32)
    got = convc.compile(b.build()).run({"x": given})
    want = ir.interpret(b.build(), {"x": given})
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
    assert len({array.ctypes.data for array in got.values()}) == 5


def test_a_graph_may_have_no_nodes_no_inputs_or_no_outputs() -> None:
    b = ir.Builder("constant")
    b.output("y", b.relu(b.weight("w", np.array([-1.0, 2.0]))))
    assert convc.compile(b.build())().tolist() == [0, 2]
    assert convc.compile(ir.Builder("empty").build())() == ()


# ---------------------------------------------------------------- sizes


def test_a_symbolic_batch_is_compiled_when_seen(graph: ir.Graph) -> None:
    symbolic = convc.compile(graph)
    for count in (1, 4, 0, 7, 4):
        x = digits(count, seed=count)
        close(symbolic(x), ir.interpret(graph, {"x": x})["scores"])
    assert symbolic(digits(0)).shape == (0, 10)


def test_the_cache_of_sizes_is_bounded(
    graph: ir.Graph, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CONVC_SPECIALISATIONS", "2")
    symbolic = convc.compile(graph)
    with caplog.at_level(logging.INFO, "convc"):
        for count in (1, 2, 3, 2):  # the least recently used goes first
            symbolic(digits(count))
    assert [dict(key) for key in symbolic._special] == [{"N": 3}, {"N": 2}]
    dropped = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(dropped) == 1 and "{'N': 1} dropped" in dropped[0].getMessage()
    close(symbolic(digits(1)), ir.interpret(graph, {"x": digits(1)})["scores"])


def test_sizes_that_contradict_each_other_are_refused(graph: ir.Graph) -> None:
    trained = convc.compile(with_loss(graph))
    with pytest.raises(ir.InputError, match=r"'labels'.* has 2 on axis 0, but N is 3"):
        trained(digits(3), np.zeros(2, np.int64))


# ---------------------------------------------------------------- memory


def test_runs_allocate_nothing_and_reuse_their_context(
    model: convc.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, outputs = {"x": digits(3)}, {"scores": np.empty((3, 10), np.float32)}
    model.run(inputs, outputs)
    monkeypatch.setattr("convc.runtime.part.aligned", None)  # what allocates
    for _ in range(50):
        model.run(inputs, outputs)
    assert len(model.executable()._contexts) == 1


def test_overlapping_runs_have_contexts_of_their_own_and_no_more(model: convc.Model) -> None:
    in_parallel(lambda number: model(digits(3, number)), 4, 30)
    assert 1 <= len(model.executable()._contexts) <= 4


# ---------------------------------------------------------------- threads


def in_parallel(work: Callable[[int], object], threads: int, repeats: int) -> list[list[object]]:
    """What ``work(number)`` gives on each of some threads, all started at once."""
    results: list[list[object]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads)

    def run(number: int) -> None:
        start.wait()
        results[number] += [work(number) for _ in range(repeats)]

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all(len(result) == repeats for result in results)
    return results


@pytest.mark.usefixtures("shared")
def test_several_threads_may_call_one_model(graph: ir.Graph) -> None:
    """One of them has the workers, the others run alone; all results are right."""
    model = convc.compile(graph.bind({"N": 5}), threads=2)
    want = [model(digits(5, number)).tobytes() for number in range(3)]
    got = in_parallel(lambda number: model(digits(5, number)).tobytes(), 3, 40)
    assert [set(results) for results in got] == [{bits} for bits in want]


@pytest.mark.usefixtures("shared")
def test_a_symbolic_model_may_be_called_with_several_sizes_at_once(graph: ir.Graph) -> None:
    model = convc.compile(graph, threads=2)
    got = in_parallel(lambda number: model(digits(number + 1, number)), 3, 5)
    for number, results in enumerate(got):
        want = ir.interpret(graph, {"x": digits(number + 1, number)})["scores"]
        for result in results:
            close(result, want)  # type: ignore[arg-type]


@pytest.mark.usefixtures("shared")
def test_the_number_of_threads_does_not_change_a_bit(graph: ir.Graph) -> None:
    """Forward and backward in one graph; far more threads than tasks too."""
    whole = ir.vjp(with_loss(graph).bind({"N": 6}), list(graph.weights))
    rng = np.random.default_rng(0)
    inputs = {"x": digits(6), "labels": rng.integers(0, 10, 6)}
    inputs |= {"grad_loss": np.ones((), "f"), "grad_scores": np.zeros((6, 10), "f")}
    want = convc.compile(whole, threads=1).run(inputs)
    for threads in (2, 3, 8):
        model = convc.compile(whole, threads=threads)
        assert model.executable().threads == threads
        for _ in range(5):
            for name, array in model.run(inputs).items():
                assert array.tobytes() == want[name].tobytes(), name


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of its own whose waiting threads sleep at once."""
    monkeypatch.setenv("CONVC_SPIN_US", "0")
    KEPT.append(Pool())
    monkeypatch.setattr("convc.runtime.executable.pool", lambda: KEPT[-1])
    yield KEPT[-1]


@pytest.mark.usefixtures("shared", "sleepy")
def test_threads_that_sleep_at_once_are_woken(graph: ir.Graph) -> None:
    model = convc.compile(graph.bind({"N": 4}), threads=3)
    want = model(digits(4)).tobytes()
    assert all(model(digits(4)).tobytes() == want for _ in range(200))


@pytest.mark.usefixtures("shared")
def test_without_more_threads_a_run_does_it_alone(
    graph: ir.Graph, sleepy: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    want = convc.compile(graph.bind({"N": 4}), threads=1)(digits(4))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    np.testing.assert_array_equal(convc.compile(graph.bind({"N": 4}), threads=4)(digits(4)), want)
    assert sleepy._boxes == []


def test_small_work_stays_on_one_thread(graph: ir.Graph) -> None:
    assert convc.compile(graph.bind({"N": 1}), threads=4).executable().threads == 1


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"CONVC_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"CONVC_NUM_THREADS": "", "OMP_NUM_THREADS": "none"}, None),
    ],
)
def test_the_environment_sets_the_default_of_threads(
    environment: dict[str, str], threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONVC_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    default = settings.default_threads()
    assert default == threads or (threads is None and 1 <= default <= settings.affinity())


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_threads_in_the_environment_is_refused(
    wrong: str, graph: ir.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_NUM_THREADS", wrong)
    with pytest.raises(convc.InputError, match="CONVC_NUM_THREADS"):
        convc.compile(graph.bind({"N": 1}))


# ---------------------------------------------------------------- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("shared")
def test_a_fork_has_threads_of_its_own(graph: ir.Graph) -> None:
    model = convc.compile(graph.bind({"N": 4}), threads=3)
    want = model(digits(4)).tobytes()
    child = os.fork()
    if not child:
        signal.alarm(60)
        same = all(model(digits(4)).tobytes() == want for _ in range(20))
        fresh = convc.compile(graph.bind({"N": 4}), threads=2)(digits(4)).tobytes() == want
        os._exit(0 if same and fresh and len(pool()._boxes) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert model(digits(4)).tobytes() == want


def test_a_model_survives_pickling(graph: ir.Graph) -> None:
    model = convc.compile(graph, threads=2, accuracy="exact", algorithms={"conv2": "direct"})
    again = pickle.loads(pickle.dumps(model))
    assert again.graph == model.graph and again.options == model.options
    np.testing.assert_array_equal(again(digits(2)), model(digits(2)))
