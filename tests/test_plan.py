"""From graph to plan: passes keep meaning, conversions and copies are few, memory is shared."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available, target_named
from convc.passes import PIPELINE, fuse_epilogues, run_passes
from convc.plan import ALIGNMENT, Plan, plan
from convc.program import Program, Slot, Step
from convc.runtime import part
from convc.runtime.executable import Executable
from convc.runtime.threads import Pool
from convc.train.lenet import lenet, with_loss
from ir.loops import KernelBuilder
from ir.types import Array


def plan_of(graph: ir.Graph, target: str | None = None, **arguments: object) -> Plan:
    """What the compiler plans for a graph."""
    return convc.compile(graph, target=target, **arguments).stages().plan  # type: ignore[arg-type]


def labels(plan: Plan) -> list[str]:
    """What each step of a run is for: an algorithm, or "convert", "pack", "copy"."""
    return [step.algorithm for step in plan.steps]


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def backward(batch: int = 8) -> ir.Graph:
    """LeNet forward and backward in its weights."""
    graph = with_loss(lenet()).bind({"N": batch})
    names = list(graph.weights)
    return ir.vjp(graph.weights_as_inputs(), names)


def residual() -> ir.Graph:
    """Two convolutions around a shortcut, a pool, a dense layer, softmax."""
    rng = np.random.default_rng(0)
    b = ir.Builder("residual")
    x = b.input("x", "f32[2, 3, 9, 9]")
    y = b.relu(b.bias(b.conv(x, b.weight("w1", weights(rng, 20, 3, 3, 3)), pad=1, name="first"),
                      b.weight("b1", weights(rng, 20))))  # fmt: skip
    z = b.conv(y, b.weight("w2", weights(rng, 20, 20, 3, 3)), pad=1, name="second")
    z = b.relu(b.bias(z, b.weight("b2", weights(rng, 20))) + y, name="joined")
    pooled = b.average_pool(z, 3, name="pooled")
    b.output("p", b.softmax(b.dense(b.flatten(pooled), b.weight("w3", weights(rng, 180, 7)))))
    b.output("unused_shape", b.sum(pooled, (2, 3)))
    return b.build()


# ---------------------------------------------------------------- passes


def inputs_of(graph: ir.Graph) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        if type.dtype.is_float
        else rng.integers(0, 10, type.static_shape)
        for name, type in graph.inputs.items()
    }


@pytest.mark.parametrize("graph", [residual(), backward(2)], ids=["residual", "backward"])
def test_every_pass_keeps_the_meaning_of_its_graph(graph: ir.Graph) -> None:
    inputs = inputs_of(graph)
    want = ir.interpret(graph, inputs, "float64")
    for name, after in run_passes(graph):
        got = ir.interpret(after, inputs, "float64")
        assert list(got) == list(want) and after.inputs == graph.inputs
        for key, array in want.items():
            np.testing.assert_allclose(got[key], array, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("chosen", [(), PIPELINE[:1], PIPELINE[::-1]], ids=["no", "one", "all"])
def test_any_choice_of_passes_compiles_to_the_same_results(chosen: tuple[object, ...]) -> None:
    graph = residual()
    want = ir.interpret(graph, inputs_of(graph), "float64")
    got = convc.compile(graph, passes=chosen).run(inputs_of(graph))  # type: ignore[arg-type]
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-3, atol=1e-4)


FUSED = """\
graph residual {
  input %x: f32[2, 3, 9, 9]
  weight %w1: f32[20, 3, 3, 3]
  weight %b1: f32[20]
  weight %w2: f32[20, 20, 3, 3]
  weight %b2: f32[20]
  weight %w3: f32[180, 7]
  %relu = fused(%x, %w1, %b1) {root = conv {stride = (1, 1), pads = ((1, 1), (1, 1)), \
dilation = (1, 1), groups = 1}, epilogue = (bias {}, relu {})} : f32[2, 20, 9, 9]
  %joined = fused(%relu, %w2, %b2, %relu) {root = conv {stride = (1, 1), pads = ((1, 1), (1, 1)), \
dilation = (1, 1), groups = 1}, epilogue = (bias {}, add {}, relu {})} : f32[2, 20, 9, 9]
  %pooled = average_pool(%joined) {window = (3, 3), stride = (3, 3), pads = ((0, 0), (0, 0)), \
dilation = (1, 1), edge = "drop", divisor = "real"} : f32[2, 20, 3, 3]
  %reshape = reshape(%pooled) {shape = (2, 180)} : f32[2, 180]
  %dense = dense(%reshape, %w3) {transpose_x = false, transpose_w = false} : f32[2, 7]
  %softmax = softmax(%dense) {axis = 1} : f32[2, 7]
  %sum = sum(%pooled) {axes = (2, 3)} : f32[2, 20]
  return p = %softmax, unused_shape = %sum
}
"""


def test_the_golden_text_of_a_fused_graph() -> None:
    assert str(fuse_epilogues(residual())) == FUSED


def test_a_value_that_is_read_elsewhere_or_returned_is_not_fused_away() -> None:
    b = ir.Builder("kept")
    x, w = b.input("x", "f32[3, 4]"), b.weight("w", np.ones((4, 5), np.float32))
    product = b.dense(x, w, name="product")
    b.output("y", b.relu(product, name="positive"))
    b.output("product", product)
    assert fuse_epilogues(b.build()) == b.build()
    b = ir.Builder("twice")
    y = b.dense(b.input("x", "f32[3, 4]"), b.weight("w", np.ones((4, 5), np.float32)))
    b.output("y", y + y)
    assert fuse_epilogues(b.build()) == b.build()


def test_an_addend_computed_later_is_not_fused_before_it() -> None:
    """The fused node stands where the last of its parts stood."""
    b = ir.Builder("late")
    x, w = b.input("x", "f32[3, 4]"), b.weight("w", np.ones((4, 4), np.float32))
    y = b.dense(x, w)
    b.output("y", b.relu(y + b.scale(b.relu(x), 2.0)))
    fused = fuse_epilogues(b.build())
    assert fused.nodes[-1].op.name == "fused" and len(fused.nodes) == 3


# ---------------------------------------------------------------- steps


def test_bias_relu_and_shortcut_are_part_of_the_convolutions_kernel() -> None:
    steps = plan_of(residual(), algorithms={"first": "direct", "second": "direct"}).steps
    convolutions = [step for step in steps if step.algorithm == "direct"]
    assert [step.node for step in convolutions] == ["relu", "joined"]
    assert not {"pointwise"} & {step.algorithm for step in steps}
    assert [p.name for p in convolutions[1].kernel.params] == ["x", "w", "bias", "add", "y"]


def chain(channels: int = 20, classes: int = 16) -> ir.Graph:
    """Convolution, relu, pool, convolution, pool."""
    rng = np.random.default_rng(0)
    b = ir.Builder("chain")
    x = b.input("x", f"f32[1, {channels}, 12, 12]")
    y = b.relu(b.conv(x, b.weight("w1", weights(rng, 32, channels, 3, 3)), pad=1, name="first"))
    y = b.max_pool(y, 2, name="pool")
    y = b.relu(b.conv(y, b.weight("w2", weights(rng, classes, 32, 3, 3)), pad=1, name="second"))
    b.output("y", b.average_pool(y, 2))
    return b.build()


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("channels", [3, 32])
def test_blocked_values_stay_blocked_from_layer_to_layer(channels: int, target: str) -> None:
    """Only what enters and what leaves the graph is converted."""
    chosen = {"first": "direct", "second": "direct"}
    plan = plan_of(chain(channels), target, algorithms=chosen)
    assert [s for s in labels(plan) if s != "convert"] == ["direct", "direct"]
    assert "convert" not in labels(plan)[1:-1]


def test_a_convolution_writes_the_halo_that_the_next_one_reads() -> None:
    rng = np.random.default_rng(0)
    b = ir.Builder("halo")
    x = b.input("x", "f32[1, 16, 8, 8]")
    y = b.conv(x, b.weight("w1", weights(rng, 16, 16, 3, 3)), name="first")
    y = b.conv(y, b.weight("w2", weights(rng, 16, 16, 5, 5)), pad=(2, 1), name="second")
    b.output("y", y)
    plan = plan_of(b.build(), algorithms={"first": "direct", "second": "direct"})
    assert "convert" not in labels(plan)[labels(plan).index("direct") : -1]


def test_what_is_derived_from_weights_is_prepared_once() -> None:
    prepared = plan_of(chain())
    assert prepared.prepare and {step.algorithm for step in prepared.prepare} <= {"pack", "convert"}
    assert "pack" not in labels(prepared)
    given = plan_of(chain().weights_as_inputs())
    assert not given.prepare and labels(given).count("pack") == 2


def two_large() -> Plan:
    """Two convolutions whose weights are packed from where they are given."""
    rng = np.random.default_rng(0)
    b = ir.Builder("two")
    y = b.input("x", "f32[1, 192, 5, 5]")
    for name in ("first", "second"):
        y = b.conv(y, b.weight(f"w.{name}", weights(rng, 192, 192, 3, 3)), pad=1, name=name)
    b.output("y", y)
    return plan_of(b.build(), algorithms={"first": "direct", "second": "direct"})


def test_weights_go_as_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, (data,) = two_large().split()
    assert len(data) == 2 and all(slot.data is None for slot in bare.program.slots)
    given = [weakref.ref(array) for array in data.values()]
    left = []
    run = Pool.run

    def counted(pool: Pool, *arguments: int) -> None:
        run(pool, *arguments)
        left.append(sum(array() is not None for array in given))

    monkeypatch.setattr(Pool, "run", counted)
    monkeypatch.setattr(part, "AT_ONCE", 1)
    executable = Executable(bare, target_named(None), 1, [data])
    assert left == [2, 1] and not data and not any(array() is not None for array in given)
    own = Executable(two_large(), target_named(None), 1)
    for one, other in zip(executable.constants, own.constants, strict=True):
        for slot, packed in one.items():
            np.testing.assert_array_equal(packed, other[slot])


def test_a_weight_that_a_step_reads_twice_goes_once() -> None:
    b = ir.Builder("power")
    x, w = b.input("x", "f32[6, 4]"), b.weight("w", weights(np.random.default_rng(0), 6, 6))
    b.output("y", b.matmul(b.matmul(w, w), x))
    graph, given = b.build(), {"x": np.eye(6, 4, dtype=np.float32)}
    (got,) = convc.compile(graph, threads=2, passes=()).run(given).values()
    np.testing.assert_allclose(got, ir.interpret(graph, given)["y"], atol=1e-5)


def test_a_whole_graph_of_constants_still_writes_its_outputs() -> None:
    b = ir.Builder("constants")
    w = b.weight("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    b.output("y", b.relu(b.transpose(w, (1, 0))))
    constants = plan_of(b.build(), passes=())
    assert len(constants.prepare) == 1 and len(constants.steps) == 1
    assert not plan_of(b.build()).prepare


def test_outputs_are_written_by_their_producers() -> None:
    b = ir.Builder("direct")
    x = b.input("x", "f32[3, 4]")
    b.output("y", b.relu(b.transpose(x, (1, 0))))
    steps = plan_of(b.build()).steps
    assert [step.algorithm for step in steps] == ["pointwise", "move"]


def test_reshapes_cost_nothing() -> None:
    b = ir.Builder("views")
    x = b.input("x", "f32[2, 3, 4]")
    b.output("y", b.scale(b.reshape(b.flatten(x), (4, 6)), 2.0))
    assert labels(plan_of(b.build())) == ["pointwise"]


# ---------------------------------------------------------------- memory


GRAPHS = {"residual": residual(), "chain": chain(), "backward": backward()}


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_no_two_slots_alive_at_once_overlap(graph: ir.Graph, target: str) -> None:
    made = plan_of(graph, target)
    check_memory(made)
    assert made.arena_bytes >= made.live_bytes > 0


def check_memory(made: Plan) -> None:
    """Lifetimes cover every use, and slots that live together lie apart, aligned."""
    for number, step in enumerate(made.steps):
        for slot in step.slots:
            placed = made.temporaries.get(slot)
            assert placed is None or placed.first <= number <= placed.last
    whole = [placed for placed in made.temporaries.values() if placed.slot.part is None]
    for placed in made.temporaries.values():
        if placed.slot.part is not None:
            around = made.temporaries[placed.slot.part[0]]
            assert around.first <= placed.first <= placed.last <= around.last
            assert around.offset <= placed.offset
            assert placed.offset + placed.nbytes <= around.offset + around.nbytes
    for placed in (*whole, *made.constants.values()):
        assert placed.offset % ALIGNMENT == 0
        item = {"f32": 4, "f64": 8, "i64": 8}[placed.slot.dtype]
        assert placed.nbytes >= placed.slot.size * item
    constants = [placed for placed in made.constants.values() if not placed.in_place]
    for group in (whole, constants):
        for a, b in itertools.combinations(group, 2):
            apart_in_time = a.last < b.first or b.last < a.first
            apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart or apart_in_time, (a, b)


def test_every_slot_is_written_before_it_is_read() -> None:
    for graph in GRAPHS.values():
        made = plan_of(graph)
        roles = Counter(slot.role for slot in made.program.slots)
        assert roles["output"] == len(graph.outputs) and roles["input"] == len(graph.inputs)
        known = {s.number for s in made.program.slots if s.role == "input" or s.data is not None}
        for step in (*made.prepare, *made.steps):
            assert known.issuperset(step.reads), step.node
            for number in step.writes:
                known.add(number)
                while (part := made.program.slots[number].part) is not None:
                    known.add(number := part[0])
        assert known.issuperset(made.program.outputs.values())


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_arena_is_close_to_the_bytes_alive_at_once(batch: int) -> None:
    """A LeNet forward and backward; the bound is the largest sum of live values."""
    made = plan_of(backward(batch))
    assert made.live_bytes <= made.arena_bytes <= 1.2 * made.live_bytes


def lives(sizes: Iterable[tuple[int, int, int]]) -> Plan:
    """A plan for temporaries of given sizes (in 64-byte units), live from step to step."""
    slots, uses = [Slot(0, "x", "f32", 1, "input")], {}
    for number, (size, first, last) in enumerate(sizes, 1):
        slots.append(Slot(number, f"t{number}", "f32", size * 16, "temporary"))
        uses[number] = range(first, last + 1)
    steps = []
    for time in range(1 + max(use.stop for use in uses.values())):
        alive = [number for number, use in uses.items() if time in use]
        k = KernelBuilder("use")
        k.read("x", "f32", (1,))
        for number in alive:
            k.write("t", "f32", (slots[number].size,))
        steps.append(Step(k.build(), (0, *alive), "", ""))
    return plan(Program(tuple(slots), tuple(steps), {"x": 0}, {}))


@pytest.mark.parametrize("seed", range(20))
def test_random_lifetimes_never_collide(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(int(rng.integers(1, 30))):
        first = int(rng.integers(0, 20))
        sizes.append((int(rng.integers(1, 50)), first, first + int(rng.integers(0, 6))))
    made = lives(sizes)
    check_memory(made)
    assert made.live_bytes <= made.arena_bytes <= sum(64 * size for size, *_ in sizes)


def test_slots_follow_each_other_in_the_same_memory() -> None:
    made = lives([(10, 0, 1), (10, 2, 3), (4, 1, 2), (10, 4, 5)])
    offsets = [made.temporaries[number].offset for number in range(1, 5)]
    assert offsets == [0, 0, 640, 0] and made.arena_bytes == made.live_bytes == 14 * 64
