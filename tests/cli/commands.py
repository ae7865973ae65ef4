"""What the tests of the command line share: a small network, and running commands."""

import numpy as np

import ir
from convc import cli


def network():
    rng = np.random.default_rng(0)
    b = ir.Builder("network")
    x, labels = b.input("x", "f32[N, 1, 8, 8]"), b.input("labels", "i64[N]")
    h = b.conv(x, weight(b, rng, "conv1.weight", 3, 1, 3, 3), pad=1, name="conv1")
    h = b.relu(b.bias(h, weight(b, rng, "conv1.bias", 3)), name="relu1")
    h = b.max_pool(h, 2, name="pool1")
    scores = b.dense(b.flatten(h), weight(b, rng, "dense.weight", 48, 5), name="dense")
    b.output("scores", scores + scores)
    b.output("loss", b.softmax_cross_entropy(scores, labels))
    return b.build()


def weight(b, rng, name, *shape):
    return b.weight(name, rng.standard_normal(shape, np.float32))


def status(*argv):
    return cli.main([str(arg) for arg in argv])


def refused(capsys, *argv):
    """The one or two lines on standard error, after those on progress, of a command that gives
    up."""
    assert status(*argv) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    _, mark, told = said.err.rpartition("convc: error: ")
    assert mark
    assert len(told.splitlines()) <= 2
    return mark + told
