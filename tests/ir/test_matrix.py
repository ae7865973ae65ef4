"""Convolutions as matrices, and what graphs tell without running."""

import numpy as np
import pytest
import scipy.linalg

import ir
from ir.analysis import ReceptiveField, parameters, receptive_fields
from ir.matrix import convolution_matrix


def test_one_axis_makes_a_toeplitz_matrix():
    w = np.array([1.0, 2.0, 3.0])
    matrix = convolution_matrix(w[None, None], (6,))
    assert np.array_equal(matrix, scipy.linalg.toeplitz([1, 0, 0, 0], [1, 2, 3, 0, 0, 0]))
    flipped = convolution_matrix(w[None, None], (6,), pad="full", flip=True)
    assert np.array_equal(flipped, scipy.linalg.convolution_matrix(w, 6))


def test_one_axis_that_goes_round_makes_a_circulant_matrix():
    w = np.array([1.0, 2.0, 3.0])
    circular = {"pad": [(0, 2)], "boundary": "circular"}
    matrix = convolution_matrix(w[None, None], (5,), **circular)
    assert np.array_equal(matrix, scipy.linalg.circulant([1, 0, 0, 3, 2]))
    values = np.linalg.eigvals(matrix)
    np.testing.assert_allclose(sorted(np.abs(values)), sorted(np.abs(np.fft.fft(w, 5))))


def test_two_axes_make_blocks_of_blocks():
    w = np.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    matrix = convolution_matrix(w, (3, 4)).reshape(2, 3, 3, 4)
    for row, column in np.ndindex(2, 3):
        block = matrix[row, :, column]
        expected = convolution_matrix(w[:, :, column - row], (4,)) if 0 <= column - row < 2 else 0
        assert np.array_equal(block, np.zeros((3, 4)) + expected)
    with_zeros = convolution_matrix(w, (3, 3), pad=[(0, 1), (0, 1)])
    around = convolution_matrix(w, (3, 3), pad=[(0, 1), (0, 1)], boundary="circular")
    assert np.count_nonzero(with_zeros) < np.count_nonzero(around) == 36


def test_each_number_is_used_once_for_every_output_that_it_reaches():
    used = [np.count_nonzero(convolution_matrix(np.eye(3)[[tap]][None], (5,), pad="same"))
            for tap in range(3)]  # fmt: skip
    assert used == [4, 5, 4]


def test_groups_are_blocks_on_the_diagonal():
    w = np.random.default_rng(0).standard_normal((4, 2, 3))
    matrix = convolution_matrix(w, (5,), groups=2)
    halves = [convolution_matrix(w[half], (5,)) for half in (slice(0, 2), slice(2, 4))]
    assert np.array_equal(matrix, scipy.linalg.block_diag(*halves))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (5, 5)}, r"w has shape \(2, 1, 3\), but must be \[K, C/groups, \*k\]"),
        ({"size": (5,), "groups": 4}, "in 4 groups"),
        ({"size": (2,)}, "smaller than a kernel"),
        ({"size": (5,), "boundary": "mirror"}, "boundary = 'mirror' must be"),
        ({"size": (5,), "pad": "most"}, "is not a mode"),
    ],
)
def test_matrices_of_what_is_no_convolution_are_refused(arguments, message):
    with pytest.raises((ir.ShapeError, ir.AttributeValueError), match=message):
        convolution_matrix(np.ones((2, 1, 3)), **arguments)


def small_network():
    b = ir.Builder("net")
    x = b.input("x", "f32[N, 3, H, 20]")
    y = b.conv(x, b.weight("w", np.zeros((4, 3, 3, 5), np.float32)), (1, 2), "same", name="c")
    y = b.relu(b.bias(y, b.weight("b", np.zeros(4, np.float32))), name="r")
    p = b.max_pool(y, (2, 3), (2, 1), name="p")
    t = b.weight("t", np.zeros((4, 2, 3, 1, 2, 2), np.float32))
    q = b.tiled_conv(p, t, pad="same", groups=2, name="q")
    b.output("z", b.sum(b.concat([q, p], name="both"), (1, 2, 3)))
    b.output("s", b.slice(p, {2: (1, None, 2), 3: (3, -1)}, name="s"))
    return b.build()


def test_receptive_fields_grow_from_layer_to_layer():
    fields = receptive_fields(small_network(), "x")
    assert fields["x"] == ReceptiveField((1, 1), (1, 1), (0, 0))
    assert fields["c"] == fields["r"] == ReceptiveField((3, 5), (1, 2), (-1, -2))
    assert fields["p"] == ReceptiveField((4, 9), (2, 2), (-1, -2))
    assert fields["q"] == fields["both"] == ReceptiveField((8, 9), (2, 2), (-3, -2))
    assert fields["s"] == ReceptiveField((4, 9), (4, 2), (1, 4))
    assert "sum" not in fields
    assert receptive_fields(small_network(), "r")["p"] == ReceptiveField((2, 3), (2, 1), (0, 0))
    with pytest.raises(ir.GraphError, match=r"has no value 'X'"):
        receptive_fields(small_network(), "X")


def test_branches_see_what_either_sees():
    b = ir.Builder()
    x = b.input("x", "f32[1, 1, 9]")
    w = b.weight("w", np.zeros((1, 1, 3), np.float32))
    b.output("y", b.add(b.conv(x, w, pad="same"), b.conv(x, w, pad=[(4, 0)], dilation=2), "both"))
    b.output("z", b.add(b.conv(x, w, 2, name="odd"), b.input("g", "f32[1, 1, 4]"), "other"))
    fields = receptive_fields(b.build(), "x")
    assert fields["both"] == ReceptiveField((6,), (1,), (-4,))
    assert fields["other"] == fields["odd"] == ReceptiveField((3,), (2,), (0,))


def test_parameters_are_the_numbers_in_the_weights():
    assert parameters(small_network()) == 4 * 3 * 15 + 4 + 4 * 2 * 3 * 4
