"""Slices, pads, joins and products against formulas and other libraries; the builder's methods."""

import itertools

import numpy as np
import pytest

import ir
from ir.ops import Concat, Dense, MatMul, Mean, Pad, Reverse, Slice


def evaluated(op, *arrays):
    return op.evaluate(*arrays)[0]


def built(method, *arrays, **arguments):
    """The result of a builder method on arrays."""
    b = ir.Builder()
    values = [b.input(f"x{i}", ir.TensorType.of(array)) for i, array in enumerate(arrays)]
    b.output("y", method(b, *values, **arguments))
    return ir.interpret(b.build(), {f"x{i}": array for i, array in enumerate(arrays)})["y"]


def numbers(*shape, dtype=np.float64):
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def test_a_pad_puts_entries_where_its_formula_says():
    rng = np.random.default_rng(0)
    for _ in range(60):
        rank = int(rng.integers(1, 4))
        shape = tuple(int(n) for n in rng.integers(0, 5, rank))
        gaps = tuple(int(n) for n in rng.integers(0, 3, rank))
        pads = tuple((int(a), int(b)) for a, b in rng.integers(-3, 4, (rank, 2)))
        sizes = [n * (1 + gap) - gap + lo + hi
                 for n, gap, (lo, hi) in zip(shape, gaps, pads, strict=True)]  # fmt: skip
        if min(sizes) < 0:
            with pytest.raises(ir.ShapeError, match="pad"):
                Pad(pads, gaps, 0.5).infer(ir.TensorType(ir.DType.FLOAT64, shape))
            continue
        x = rng.standard_normal(shape)
        want = np.full(sizes, 0.5)
        for index in itertools.product(*map(range, shape)):
            place = tuple(lo + i * (1 + gap)
                          for i, gap, (lo, _) in zip(index, gaps, pads, strict=True))  # fmt: skip
            if all(0 <= i < n for i, n in zip(place, sizes, strict=True)):
                want[place] = x[index]
        np.testing.assert_array_equal(evaluated(Pad(pads, gaps, 0.5), x), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pads_and_turns_are_those_of_torch(dtype):
    torch = pytest.importorskip("torch")
    x = numbers(2, 3, 5, 7, dtype=dtype)
    padded = torch.nn.functional.pad(torch.tensor(x), (1, 2, -1, 3), value=-2.5)
    got = built(ir.Builder.pad, x, pads={-1: (1, 2), 2: (-1, 3)}, value=-2.5)
    np.testing.assert_array_equal(got, padded.numpy())
    np.testing.assert_array_equal(
        built(ir.Builder.reverse, x, axes=(-1, 1)), torch.flip(torch.tensor(x), (3, 1)).numpy()
    )
    np.testing.assert_array_equal(
        built(ir.Builder.vec, x), torch.tensor(x).permute(0, 1, 3, 2).reshape(2, -1).numpy()
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_slices_are_those_of_numpy(dtype):
    x = numbers(5, 6, 7, dtype=dtype)
    cuts = {0: (1, 4), 1: (None, -1, 2), -1: (-3, None)}
    np.testing.assert_array_equal(built(ir.Builder.slice, x, cuts=cuts), x[1:4, :-1:2, -3:])
    np.testing.assert_array_equal(built(ir.Builder.slice, x, cuts={2: (4, 2)}), x[:, :, 4:2])


@pytest.mark.parametrize(
    ("a", "b", "flags"),
    [
        ((3, 5), (5, 2), (False, False)),
        ((2, 1, 3, 5), (4, 5, 2), (False, False)),
        ((7, 5, 3), (5, 17), (True, False)),
        ((1, 3, 5), (6, 17, 5), (False, True)),
        ((2, 3, 4, 5), (5, 3), (False, False)),
        ((2, 3, 4, 5), (3, 5), (False, True)),
        ((0, 4, 5), (5, 3), (False, False)),
    ],
)
def test_products_are_those_of_torch(a, b, flags):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal(a), rng.standard_normal(b)
    tensors = [torch.tensor(x, requires_grad=True) for x in (left, right)]
    turned = [t.mT if flag else t for t, flag in zip(tensors, flags, strict=True)]
    want = turned[0] @ turned[1]
    g = rng.standard_normal(want.shape)
    want.backward(torch.tensor(g))
    builder = ir.Builder()
    values = [builder.input(n, ir.TensorType.of(x)) for n, x in (("a", left), ("b", right))]
    builder.output("y", builder.matmul(*values, *flags))
    inputs = {"a": left, "b": right, "grad_y": g}
    got = ir.interpret(ir.vjp(builder.build()), inputs)
    np.testing.assert_allclose(got["y"], want.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(got["grad_a"], tensors[0].grad.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got["grad_b"], tensors[1].grad.numpy(), rtol=1e-12, atol=1e-12)


def test_many_matrices_by_one_are_one_product():
    b = ir.Builder()
    y = b.matmul(b.input("x", "f32[N, 3, 5]"), b.input("w", "f32[5, 2]"))
    b.output("y", y)
    assert str(y.type) == "f32[N, 3, 2]"
    assert [node.op.name for node in b.build().nodes] == ["reshape", "dense", "reshape"]


def test_vec_stacks_columns_then_maps():
    x = np.array([[[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]]])
    stacked = built(ir.Builder.vec, x)
    assert stacked.tolist() == [[1, 3, 2, 4, 5, 7, 6, 8]]
    np.testing.assert_array_equal(built(ir.Builder.unvec, stacked, to=(2, 2, 2)), x)
    volume = numbers(2, 3, 4, 5, 6)
    rows = built(ir.Builder.vec, volume)
    for n, c in np.ndindex(2, 3):
        part = rows[n].reshape(3, -1)[c]
        np.testing.assert_array_equal(part, volume[n, c].ravel(order="F"))
    np.testing.assert_array_equal(built(ir.Builder.unvec, rows, to=(3, 4, 5, 6)), volume)


def test_expanded_blocks_and_every_second_element():
    x = numbers(2, 3, 4, 5)
    blocks = built(ir.Builder.expand_blocks, x, factors=(3, 2))
    np.testing.assert_array_equal(blocks, np.kron(x, np.ones((1, 1, 3, 2))))
    np.testing.assert_array_equal(built(ir.Builder.downsample, blocks, factors=(3, 2)), x)
    np.testing.assert_array_equal(built(ir.Builder.downsample, x, factors=3), x[..., ::3, ::3])


def test_a_masked_layer_and_its_gradient():
    b = ir.Builder()
    x, w, mask = (b.input(n, t) for n, t in (("x", "f64[2, 3]"), ("w", "f64[3, 4]"),
                                             ("mask", "f64[3, 4]")))  # fmt: skip
    b.output("y", b.dense(x, w, mask=mask))
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 3)), "w": rng.standard_normal((3, 4)),
              "mask": rng.integers(0, 2, (3, 4)).astype(float)}  # fmt: skip
    g = rng.standard_normal((2, 4))
    got = ir.interpret(ir.vjp(b.build()), {**arrays, "grad_y": g})
    np.testing.assert_allclose(got["y"], arrays["x"] @ (arrays["w"] * arrays["mask"]))
    np.testing.assert_allclose(got["grad_w"], (arrays["x"].T @ g) * arrays["mask"])
    assert not got["grad_mask"].any()  # training moves no connections


def test_parts_and_joins_under_symbolic_extents():
    b = ir.Builder()
    x = b.input("x", "f64[N, 6, W]")
    first, second = b.split(x, (2, 4))
    joined = b.concat([second, first])
    cut = b.slice(x, {0: (None, None, 2), -1: (1, -1)})
    b.output("joined", joined)
    b.output("cut", cut)
    b.output("means", b.mean(x, -1, keepdims=True))
    graph = b.build()
    assert str(cut.type) == "f64[(N+1)//2, 6, W-2]"
    for n, w in ((0, 2), (1, 3), (4, 7)):
        x = np.random.default_rng(n).standard_normal((n, 6, w))
        got = ir.interpret(graph, {"x": x})
        np.testing.assert_array_equal(got["joined"], np.concatenate([x[:, 2:], x[:, :2]], 1))
        np.testing.assert_array_equal(got["cut"], x[::2, :, 1:-1])
        np.testing.assert_allclose(got["means"], x.mean(-1, keepdims=True))
        upstream = {f"grad_{name}": np.ones_like(array) for name, array in got.items()}
        back = ir.interpret(ir.vjp(graph), {"x": x, **upstream})["grad_x"]
        want = np.ones_like(x) + 1 / w
        want[::2, :, 1:-1] += 1
        np.testing.assert_allclose(back, want)


def mean_of_nothing(b, x):
    return b.mean(b.slice(x, {1: (0, 0)}), 1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda b, x: b.slice(x, {1: (1, 9)}), ir.ShapeError, "8 elements .* end beyond the 5"),
        (lambda b, x: b.slice(x, {3: (0, 1)}), ir.ShapeError, "no axis 3; x has 2"),
        (lambda b, x: b.slice(x, {1: 2}), ir.AttributeValueError, r"\(start, stop"),
        (lambda b, x: b.slice(x, {1: (0, 2, -1)}), ir.AttributeValueError, "b.reverse"),
        (lambda b, x: b.slice(x, [(0, 2)]), ir.AttributeValueError, "must map axes"),
        (lambda b, x: b.pad(x, {1: (-3, -3)}), ir.ShapeError, "leave -1 elements"),
        (lambda b, x: b.pad(x, {1: 1}, "zero"), ir.AttributeValueError, "'zero'"),
        (lambda b, x: b.pad(x, {1: (1, 2, 3)}), ir.AttributeValueError, "pair"),
        (lambda b, x: b.concat([]), ir.AttributeValueError, "empty"),
        (lambda b, x: b.concat([x, b.transpose(x, (1, 0))]), ir.ShapeError, "all but axis 1"),
        (lambda b, x: b.concat([x], 2), ir.ShapeError, "all but axis 2"),
        (lambda b, x: b.split(x, (2, 2)), ir.ShapeError, "add up to 4"),
        (lambda b, x: b.reverse(x, 2), ir.ShapeError, "beyond the axes"),
        (lambda b, x: b.matmul(x, x), ir.ShapeError, "share 5 != 3"),
        (lambda b, x: b.matmul(x, b.sum(x, 0)), ir.ShapeError, "reshape vectors"),
        (mean_of_nothing, ir.ShapeError, "nothing on axes"),
        (lambda b, x: b.dense(x, x, mask=b.sum(x, 0)), ir.ShapeError, r"dense: %x .* each weight"),
        (lambda b, x: b.unvec(x, (3, 2)), ir.ShapeError, r"unvec: %x .* be \[N, 6\] for maps of"),
        (lambda b, x: b.bias(x, b.sum(x, 1)), ir.ShapeError, r"per channel, \[C\].* per location"),
        (lambda b, x: b.hinge_loss(x, b.sum(x, 0)), ir.ShapeError, "hinge_loss: %x is .* agree"),
        (lambda b, x: b.logistic_loss(x, b.cast(x, "i64")), ir.ShapeError, "logistic_loss: .*-1"),
    ],
)
def test_mistakes_are_explained(make, error, message):
    b = ir.Builder()
    with pytest.raises(error, match=message):
        make(b, b.input("x", "f32[3, 5]"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slice((0,), (1,), (0,)), "steps = 0 must be at least 1"),
        (lambda: Slice((0, 0), (1,), (1,)), "one entry per axis"),
        (lambda: Slice((-1,), (1,), (1,)), "at least 0"),
        (lambda: Pad(((0, 0),), (-1,), 0.0), "at least 0"),
        (lambda: Pad(((0, 0),), (0, 0), 0.0), "pair"),
        (lambda: Concat(0, 0), "at least 1"),
        (lambda: Reverse((0, 0)), "twice"),
        (lambda: Mean(0), "tuple"),
        (lambda: MatMul(1, False), "bool"),
        (lambda: Dense(False, "no"), "bool"),
    ],
)
def test_bad_attributes_are_refused(make, message):
    with pytest.raises(ir.AttributeValueError, match=message):
        make()


def test_a_filler_that_is_no_integer_is_refused_for_integers():
    integers = ir.TensorType.parse("i64[3]")
    assert Pad(((1, 1),), (0,), 2.0).infer(integers)
    with pytest.raises(ir.DTypeError, match="filler"):
        Pad(((1, 1),), (0,), 0.5).infer(integers)
    with pytest.raises(ir.DTypeError, match="several element types"):
        Concat(0, 2).infer(integers, ir.TensorType.parse("f32[3]"))
