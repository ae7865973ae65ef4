"""What every op in the registry must satisfy, on every one of its examples."""

import contextlib
import dataclasses
import inspect
import itertools
import re

import numpy as np
import pytest

import ir
from ir.ops.composite import Composite, CompositeGrad

EXAMPLES = [
    pytest.param(example, id=f"{op.name}: {example.name}")
    for op in ir.OPS
    for example in op.examples()
]
STRANGE = [None, "x", -1, 0, 1.5, True, 2**70, float("nan"), float("inf"), {}, (), (0,), (-1,),
           ("a",), ((1, 2),), ((None,),), ((0, 0),) * 3, (1.5, 1.5), (1,) * 7, ir.symbol("N"),
           (ir.symbol("N"),)]  # fmt: skip
MOVED = {"reshape", "transpose", "expand", "slice", "pad", "concat", "reverse", "take",
         "take_along", "cast", "uniform", "constant"}  # any element type  # fmt: skip
EMITTED = {"max_pool_grad", "max_pool_pick", "average_pool_grad", "relu_grad", "reduce_prod_grad",
           "take_grad", "softmax_grad", "cross_entropy_grad",
           "softmax_cross_entropy_grad"}  # by gradients  # fmt: skip
NO_GRADIENT = {"fused", "elementwise"}  # what passes make, after differentiation


def graph_of(example):
    b = ir.Builder("one")
    values = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    for i, result in enumerate(b.emit(example.op, values)):
        b.output(f"y{i}", result)
    return b.build()


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_composite_op_is_what_its_expansion_computes(example):
    if isinstance(example.op, Composite) and not isinstance(example.op, CompositeGrad):
        arrays = example.arrays(np.random.default_rng(2), "float64")
        graph = example.op.expansion([ir.TensorType.of(array) for array in arrays])
        assert not any(isinstance(node.op, Composite) for node in graph.nodes)
        given = dict(zip(graph.inputs, arrays, strict=True))
        parts = ir.interpret(graph, given, dtype="float64")
        for got, expected in zip(parts.values(), example.op.evaluate(*arrays), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def named(arrays):
    return {f"in{i}": array for i, array in enumerate(arrays)}


@pytest.mark.parametrize("op", ir.OPS, ids=lambda op: op.name)
def test_an_op_has_a_name_a_formula_and_enough_examples(op):
    examples = op.examples()
    assert ir.OP_BY_NAME[op.name] is op and op.formula and op.__doc__
    assert 5 <= len(examples) <= 13
    assert len({example.name for example in examples}) == len(examples)


def test_every_op_has_a_method_of_the_builder_unless_it_is_emitted():
    methods = "".join(inspect.getsource(part) for part in ir.Builder.__mro__[:-1])
    called = {op.name for op in ir.OPS if re.search(rf"\b{op.__name__}\(", methods)}
    assert {op.name for op in ir.OPS} - called == EMITTED | NO_GRADIENT


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infer_and_evaluate_agree_and_keep_the_element_type(example, dtype):
    op = example.op.with_dtype(ir.DType.of(dtype))
    arrays = example.arrays(np.random.default_rng(0), dtype)
    types = [ir.TensorType.of(array) for array in arrays]
    results = op.evaluate(*arrays)
    assert tuple(map(ir.TensorType.of, results)) == op.infer(*types)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_text_form_round_trips(example):
    graph = graph_of(example)
    assert ir.parse(str(graph)) == graph


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_cost_counts_every_byte_once(example):
    cost = example.op.cost(*example.inputs)
    types = [*example.inputs, *example.op.infer(*example.inputs)]
    assert cost.bytes == sum(type.nbytes for type in types)
    assert cost.flops >= 0


@pytest.mark.parametrize("example", EXAMPLES)
def test_wrong_operands_are_refused_with_the_name_of_the_op(example):
    wrong = [dataclasses.replace(type, dtype=ir.DType.INT64) for type in example.inputs]
    if example.op.name not in MOVED:
        with pytest.raises(ir.DTypeError, match=getattr(example.op, "root", example.op).name):
            example.op.infer(*wrong)
    with pytest.raises(ir.GraphError, match="operands"):
        example.op.result_types([*example.inputs, *example.inputs, ir.TensorType.parse("f32[]")])


@pytest.mark.parametrize("op", ir.OPS, ids=lambda op: op.name)
def test_attributes_of_any_kind_are_taken_or_refused_with_the_name_of_the_op(op):
    for example in op.examples():
        for field, value in itertools.product(dataclasses.fields(op), STRANGE):
            try:
                changed = dataclasses.replace(example.op, **{field.name: value})
            except ir.AttributeValueError as error:
                assert op.name in str(error)
            else:
                with contextlib.suppress(ir.Error):  # whose place is said where the op stands
                    changed.infer(*example.inputs)


@pytest.mark.parametrize("op", ir.OPS, ids=lambda op: op.name)
def test_operands_of_any_type_are_taken_or_refused(op):
    types = list(map(ir.TensorType.parse, ("f32[]", "f32[3]", "i64[3]", "f32[2, 0, 4]", "f32[N, 3]",
                                           "f32[2, 3, 4]", "f64[1, 2, 3, 4]")))  # fmt: skip
    example = op.examples()[0]
    for given in itertools.islice(itertools.product(types, repeat=len(example.inputs)), 500):
        with contextlib.suppress(ir.Error):
            example.op.infer(*given)


@pytest.mark.parametrize("example", EXAMPLES)
def test_gradients_are_the_finite_differences(example):
    graph = graph_of(example)
    inputs = named(example.arrays(np.random.default_rng(1), "float64"))
    if example.op.name in NO_GRADIENT:
        with pytest.raises(ir.GradientError, match=example.op.name):
            ir.vjp(graph)
    elif has_gradients(graph):
        assert ir.check_gradients(graph, inputs) <= 1e-6
    else:
        with pytest.raises(ir.GradientError, match="there is no gradient"):
            ir.check_gradients(graph, inputs)


def has_gradients(graph):
    results = [graph.types[value] for value in graph.outputs.values()]
    return all(any(type.dtype.is_float for type in types) for types in
               (graph.inputs.values(), results))  # fmt: skip


@pytest.mark.parametrize("op", [op for op in ir.OPS if op.name not in NO_GRADIENT],
                         ids=lambda op: op.name)  # fmt: skip
def test_gradients_a_little_off_are_not_the_finite_differences(op, monkeypatch):
    """In any one of the operands."""
    right, graph = op.grad, graph_of(op.examples()[0])
    if not has_gradients(graph):
        return
    inputs = named(op.examples()[0].arrays(np.random.default_rng(1), "float64"))
    floats = {n: v for n, v in graph.outputs.items() if graph.types[v].dtype.is_float}
    ones = {f"grad_{n}": np.ones(graph.types[v].static_shape) for n, v in floats.items()}
    exact = ir.interpret(ir.vjp(graph), {**inputs, **ones}, "float64")
    for number, name in enumerate(graph.inputs):
        if not np.any(exact.get(f"grad_{name}", 0)):
            continue

        def wrong(self, b, operands, results, upstream, number=number):
            grads = right(self, b, operands, results, upstream)
            return tuple(g and (b.scale(g, 1.0001) if n == number else g)
                         for n, g in enumerate(grads))  # fmt: skip

        monkeypatch.setattr(op, "grad", wrong)
        with pytest.raises(ir.GradientError, match=rf"direction in '{name}', the gradient of 'y"):
            ir.check_gradients(graph, inputs)


def test_integer_data_are_whole_and_labels_in_range():
    rng = np.random.default_rng(0)
    for op in ir.OPS:
        for example in op.examples():
            for array, type in zip(example.arrays(rng, integers=True), example.inputs, strict=True):
                assert np.array_equal(array, np.round(array))
                if type.dtype is ir.DType.INT64:
                    assert np.all((array >= 0) & (array < example.high))


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_an_op_makes_of_an_image_alone_is_its_part_of_the_whole(example):
    op = example.op.with_dtype(ir.DType.FLOAT64)
    arrays = example.arrays(np.random.default_rng(5), "float64")
    types = [ir.TensorType.of(array) for array in arrays]
    whole = op.evaluate(*arrays)
    for images in itertools.product((False, True), repeat=len(arrays)):
        counts = {array.shape[:1] for array, own in zip(arrays, images, strict=True) if own}
        single = op.for_image(types, images) if len(counts) == 1 and () not in counts else None
        if single is None:
            continue
        ((count,),) = counts
        for image in range(count):
            given = [a[image : image + 1] if own else a
                     for a, own in zip(arrays, images, strict=True)]  # fmt: skip
            for part, of in zip(single.evaluate(*given), whole, strict=True):
                assert part.shape == (1, *of.shape[1:])
                np.testing.assert_allclose(part[0], of[image], rtol=1e-12, atol=1e-12)


def test_the_ops_of_networks_take_an_image_alone():
    known = {
        type(example.op)
        for op in ir.OPS
        for example in op.examples()
        if example.inputs and example.inputs[0].rank
        and example.op.for_image(example.inputs, [n < 1 for n in range(len(example.inputs))])
    }  # fmt: skip
    names = "Conv MaxPool AveragePool Add Bias Relu Dense Sum Softmax Reshape"
    assert known > {getattr(ir.ops, name) for name in names.split()}
