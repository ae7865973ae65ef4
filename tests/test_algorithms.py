"""Every algorithm on every example: right, exact where sums are, the same on any threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest

import convc
import ir
from convc.algorithms import ALGORITHMS, Site
from convc.backend.functions import EMITTERS
from convc.backend.target import TARGETS, available, target_named
from convc.plan import Plan
from convc.runtime.executable import Executable
from ir.loops.functions import FUNCTIONS
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad, Fused, SoftmaxGrad, SquaredLoss, Sub
from ir.types import Array
from tests.examples import FLOATS, applicable, data, examples, graph_of, select, with_constants
from tests.loops_runner import as_loops, natively, run

# Sums of whole numbers are exact in any order; exp, log and sums of quotients are not.
ROUNDED = {"exp", "log", "tanh", "logistic", "erf", "softplus", "silu", "gelu", "elu", "power",
           "elementwise",
           "softmax", "log_softmax", "cross_entropy", "softmax_cross_entropy",
           "softmax_cross_entropy_grad", "average_pool_grad"}  # fmt: skip
NONLINEAR = {"exp", "log", "tanh", "logistic", "erf", "softplus", "silu", "gelu", "elu", "power",
             "elementwise", "shift", "leaky_relu", "uniform", "softmax", "log_softmax",
             "cross_entropy", "cross_entropy_grad", "softmax_cross_entropy",
             "softmax_cross_entropy_grad", "max_pool", "relu"}  # fmt: skip
ROUGH = {"fma", "exp", "expm1", "log", "softplus", "tanh", "erf", "pow"}  # not rounded correctly
ON_REQUEST = {"separable2", "separable3"}  # approximations
CHOOSING = {"max_pool_grad", "max_pool_pick", "relu_grad"}  # by the signs of the first operand


@dataclass(frozen=True)
class Case:
    """An example with everything that decides which machine code runs it."""

    name: str
    example: ir.Example
    algorithm: str
    dtype: str
    target: str

    @cached_property
    def graph(self) -> ir.Graph:
        return graph_of(self.example, self.dtype)

    @cached_property
    def model(self) -> convc.Model:
        forced = {"y": self.algorithm}
        return convc.compile(self.graph, 1, algorithms=forced, target=self.target, passes=())

    @property
    def plan(self) -> Plan:
        return self.model.executable().plan

    @cached_property
    def loops(self) -> Array:
        """The result of the interpreted loops, flat."""
        return run(self.plan, self.data(), as_loops())["y"]

    def data(self, integers: bool = False) -> dict[str, Array]:
        return data(self.example, self.dtype, integers)

    @property
    def site(self) -> Site:
        return Site.of(self.graph, self.graph.nodes[0], target_named(self.target))

    @property
    def chosen(self) -> convc.algorithms.Algorithm:
        return next(a for a in ALGORITHMS if a.name == self.algorithm)


CASES = [
    pytest.param(Case(name, example, algorithm, dtype, target), id="-".join(
        [name.replace("-", ""), algorithm, dtype, target]))
    for name, example in examples()
    for dtype in FLOATS
    for target in available()
    for algorithm in applicable(graph_of(example, dtype), target)
]  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Compiled once for all tests of a case, which therefore run one after the other."""
    return replace(request.param)


def magnitude(example: ir.Example, inputs: dict[str, Array]) -> Array:
    """The sum of the magnitudes that were added to make each element of the result."""
    op = example.op
    wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in inputs.items()}  # fmt: skip
    if op.name in NONLINEAR:
        return 1 + np.abs(op.evaluate(*wide.values())[0])
    positive = [np.asarray(np.abs(array)) for array in wide.values()]
    if isinstance(op, Fused):
        return np.maximum.reduce(op.values(*positive))
    if op.name in CHOOSING:
        return np.abs(op.evaluate(wide["in0"], positive[1])[0])
    if isinstance(op, Sub):
        return positive[0] + positive[1]
    if isinstance(op, SquaredLoss):
        return np.square(positive[0] + positive[1]).sum()
    if isinstance(op, SoftmaxGrad):
        y, g = positive
        return y * (g + (y * g).sum(axis=op.axis, keepdims=True))
    return np.abs(op.evaluate(*positive)[0])


def allowed(case: Case, inputs: dict[str, Array]) -> Array:
    """The largest error that the algorithm claims: of each sum, or of the largest one."""
    scale = magnitude(case.example, inputs)
    if not case.chosen.reorders_only:  # what is added passes through sums over neighbours
        scale = np.max(scale, initial=0)
    return case.chosen.tolerance(case.site) * scale


def test_a_result_is_within_the_tolerance_its_algorithm_states(case: Case) -> None:
    inputs = case.data()
    want = ir.interpret(case.graph, inputs, "float64")["y"]
    got = case.model.run(inputs)["y"]
    assert ir.TensorType.of(got) == case.graph.types["y"]
    assert np.all(np.abs(got - want) <= allowed(case, inputs))


def test_whole_numbers_give_the_interpreters_bits(case: Case) -> None:
    if case.example.op.name in ROUNDED or not case.chosen.reorders_only:
        pytest.skip("rounds")
    inputs = case.data(integers=True)
    np.testing.assert_array_equal(
        case.model.run(inputs)["y"], ir.interpret(case.graph, inputs)["y"]
    )


def test_any_number_of_threads_and_any_number_of_runs_give_the_same_bits(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case.data()
    want = case.model.run(inputs)["y"].tobytes()
    monkeypatch.setattr("convc.program.WORTH_SHARING", -1.0)
    monkeypatch.setattr("convc.runtime.executable.SMALL", -1.0)
    addresses = [array.ctypes.data for array in inputs.values()]
    for threads in (1, 2, 3):
        executable = Executable(case.plan, target_named(case.target), threads)
        (result,) = executable.allocate()
        for _ in range(7):
            result.view(np.uint8).fill(255)
            executable.run(addresses, [result.ctypes.data])
            assert result.tobytes() == want


def test_the_loops_mean_what_the_machine_code_does(case: Case) -> None:
    """They differ by the rounding of fused multiply-adds and by that of exp and log."""
    if case.dtype == "float64" and case.target != available()[0]:
        pytest.skip("in float64 the loops of one target stand for those of the others")
    inputs = case.data()
    native = case.model.run(inputs)["y"].reshape(-1)
    if not calls(case) & ROUGH:
        np.testing.assert_array_equal(case.loops, native)
    if case.chosen.reorders_only:
        bound = 4 * np.finfo(case.dtype).eps * magnitude(case.example, inputs).reshape(-1)
    else:
        bound = allowed(case, inputs)
    assert np.all(np.abs(case.loops - native) <= bound)


def test_tasks_are_independent(case: Case) -> None:
    inputs, target = case.data(), target_named(case.target)
    backwards = natively(target, lambda tasks: reversed(range(tasks)))
    assert run(case.plan, inputs, backwards)["y"].tobytes() == case.model.run(inputs)["y"].tobytes()
    if case.dtype == "float32" and case.target == available()[0]:
        loops = run(case.plan, inputs, as_loops(reverse=True))["y"]
        assert loops.tobytes() == case.loops.tobytes()


def calls(case: Case) -> set[str]:
    """The functions that the plan's kernels call."""
    text = "".join(ir.loops.to_text(step.kernel) for step in case.plan.steps)
    return {name for name in FUNCTIONS if f"{name}(" in text}


def test_every_op_has_an_algorithm() -> None:
    for name, example in examples():
        for target in available():
            assert applicable(graph_of(example), target), name


def layers() -> list[ir.Graph]:
    """Convolutions of the sizes that networks have, to be chosen for but not run."""
    sizes = [
        ((8, 3, 224, 224), (64, 3, 7, 7)),
        ((1, 512, 7, 7), (512, 512, 3, 3)),
        ((1, 64, 224, 224), (64, 64, 1, 1)),
    ]
    sizes += [((1, c, n, n), (k, c, m, m)) for c, k in ((16, 16), (64, 64), (64, 256))
              for n in (4, 8, 14, 56) for m in (1, 3, 5)]  # fmt: skip
    found = []
    for x, w in sizes:
        attributes = (1, 1), tuple((k // 2, k // 2) for k in w[2:]), (1, 1), 1
        y = (x[0], w[0], *x[2:])
        for op, first, second in (
            (Conv(*attributes), x, w),
            (ConvInputGrad(*attributes, x[2:]), w, y),
            (ConvWeightGrad(*attributes, w[2:]), y, x),
        ):
            types = [f"f32[{', '.join(map(str, shape))}]" for shape in (first, second)]
            found.append(graph_of(ir.Example.of("layer", op, *types)))
    return found


def separable_layer() -> ir.Graph:
    """A blur by a frozen kernel, an outer product."""
    conv = Conv((1, 1), ((4, 4), (4, 4)), (1, 1), 3)
    graph = graph_of(ir.Example.of("blur", conv, "f32[1, 3, 256, 256]", "f32[3, 1, 9, 9]"))
    return with_constants(graph, {"in1": np.ones((3, 1, 9, 9), np.float32)})


def test_every_algorithm_is_chosen_somewhere() -> None:
    graphs = [graph_of(example) for _, example in examples()] + [*layers(), separable_layer()]
    targets = [TARGETS[name] for name in ("avx512", "avx2", "plain")]
    chosen = {select(graph, target)["y"].name for graph in graphs for target in targets}
    assert chosen == {algorithm.name for algorithm in ALGORITHMS} - ON_REQUEST


def test_algorithms_have_names_of_their_own_and_state_their_claims() -> None:
    assert len({algorithm.name for algorithm in ALGORITHMS}) == len(ALGORITHMS)
    for algorithm in ALGORITHMS:
        assert algorithm.__doc__ and isinstance(algorithm.reorders_only, bool)


def test_an_algorithm_says_why_it_does_not_apply() -> None:
    relu = graph_of(ir.ops.Relu.examples()[0])
    site = Site.of(relu, relu.nodes[0], target_named())
    reasons = [algorithm.supports(site) for algorithm in ALGORITHMS]
    assert reasons.count(None) == 1 and all(reason for reason in reasons if reason is not None)


def test_exact_results_need_no_algorithm_that_rounds_differently() -> None:
    for name, example in examples():
        graph = graph_of(example)
        assert select(graph, target_named(), "exact")["y"].reorders_only, name


def test_the_code_generator_knows_every_function_of_the_kernel_language() -> None:
    assert EMITTERS.keys() == FUNCTIONS.keys()
