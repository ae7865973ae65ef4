"""``convc bench``: the layers, the peers' translations of them, and what is made of the times."""

import importlib
import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest

import convc
import ir
from convc import zoo
from convc.backend.target import target_named
from convc.tools import bench_layers, bench_plot, comparison, layers, peers, timing
from convc.tools.layers import DIRECTIONS, LAYERS, Layer
from convc.tools.ops_cases import FAMILIES
from tests.cli.commands import refused, status

TINY = "depthwise-3x3-960-7"
SMALL = (
    Layer("plain", 3, 5, (6, 7), (3, 3)),
    Layer("strided", 4, 6, (8, 7), (3, 1), stride=2, batch=2),
    Layer("groups", 4, 6, (5, 6), (3, 3), dilation=2, groups=2),
    Layer("depthwise", 3, 3, (5, 5), (3, 3), groups=3, weights="rank1"),
    Layer("line", 2, 3, (9,), (3,), dilation=2),
    Layer("volume", 2, 3, (3, 4, 5), (3, 3, 3)),
    Layer("up", 4, 3, (4, 5), (2, 2), stride=2, kind="transposed"),
    Layer("up-odd", 4, 6, (4, 5), (3, 3), stride=2, groups=2, kind="transposed"),
)


def inputs_of(graph, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {name: type.static_shape for name, type in graph.inputs.items()}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def bench(capsys, *argv):
    """The exit status and the JSON of a run of one round."""
    code = status("bench", "--layers", *argv, "--rounds", 1, "--json")
    return code, json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- the layers


def test_names_are_unique():
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_layers_have_the_shapes_that_they_state(layer):
    graphs = {direction: layers.graph(layer, direction) for direction in DIRECTIONS}
    shapes = {d: graph.types["y"].static_shape for d, graph in graphs.items()}
    up = layer.kind == "transposed"
    size = [n * layer.stride if up else -(-n // layer.stride) for n in layer.size]
    assert shapes["c"] == (layer.batch, layer.outputs, *size)
    assert shapes["g"] == graphs["c"].types["w"].static_shape
    assert shapes["h"] == (layer.batch, layer.channels, *layer.size)
    assert len({graph.cost().flops for graph in graphs.values()}) == 1
    assert set(graphs["c"].weights) == {"w"}
    assert not graphs["g"].weights
    assert not graphs["h"].weights


def test_flops_are_those_of_the_direct_sum():
    (layer,) = layers.named(["3x3-64-56"])
    assert layers.graph(layer, "c").cost().flops == 2 * 64 * 64 * 56 * 56 * 9


def test_kernels_of_rank_1_are_of_rank_1():
    layer = Layer("volume", 2, 3, (5, 5, 5), (3, 4, 5), weights="rank1")
    for kernel in layers.weights(layer).reshape(6, 3, 4, 5):
        for axis in range(3):
            flat = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
            assert np.linalg.matrix_rank(flat, rtol=1e-5) == 1


def test_layers_are_chosen_by_pattern(capsys):
    assert [layer.name for layer in layers.named(["up-2x2*", TINY])] == [TINY, "up-2x2-s2-64-32-56"]
    assert layers.named([]) == list(LAYERS)
    assert f"did you mean '{TINY}'" in refused(capsys, "bench", "--layers", TINY[:-1])


@pytest.mark.parametrize(
    "argv",
    [
        ["lenet", "--directions", "g"],
        ["lenet", "--algorithm", "direct"],
        ["lenet", "--plot", "x.png"],
        ["--layers", "--sizes", "N=2"],
        ["--ops", "--vs", "torch_nhwc"],
        ["--ops", "--batch", "2"],
        ["--ops", "--without", "simplify"],
        ["conv", "--sizes", "N=2"],
        ["conv", "--threads", "2"],
        ["--batch", "2"],
        ["--passes", "none"],
    ],
    ids=" ".join,
)
def test_an_option_that_means_nothing_is_refused(argv, monkeypatch, capsys):
    monkeypatch.setattr(peers, "require", lambda names: None)
    option = [word for word in argv if word.startswith("--") and word not in ("--layers", "--ops")]
    said = refused(capsys, "bench", *argv)
    assert f"error: {option[0]} is for " in said
    assert "; leave it out" in said


# ---------------------------------------------------------------- peers


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
@pytest.mark.parametrize("peer", peers.PEERS)
def test_peers_compute_what_the_interpreter_computes(peer, layer, direction):
    for package in peers.PACKAGES[peer]:
        pytest.importorskip(package)
    graph = layers.graph(layer, direction)
    inputs = inputs_of(graph)
    call = peers.contender(peer, graph, inputs, 1)
    flat = peer == "torch_nhwc" and len(layer.size) != 2
    assert (call is None) == flat
    if call is not None:
        reference = ir.interpret(graph, inputs, "float64")["y"]
        np.testing.assert_allclose(call(), reference, rtol=1e-4, atol=1e-4)


def test_a_missing_peer_is_named_with_the_way_to_install_it(monkeypatch, capsys):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    said = refused(capsys, "bench", "--layers", TINY, "--vs", "onnxruntime")
    assert 'onnx is not installed: pip install "convc[bench,onnx]"' in said


# ---------------------------------------------------------------- measuring


def test_contenders_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.measure(calls, rounds=3, block=0.0)
    assert order == [*"aabb", *"aabb" * 3]
    assert all(0 < each.least <= each.median for each in times.values())


def test_calls_together_all_run_and_pass_errors_on():
    done = []
    timing.together([lambda: done.append(1), lambda: done.append(2)])()
    assert sorted(done) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        timing.together([lambda: None, lambda: 1 / 0])()


def test_the_peak_is_the_best_of_short_calls_on_every_thread(monkeypatch):
    naps = iter([0.02, 0.002, 0.01] * 100)

    def nap():
        time.sleep(next(naps))

    monkeypatch.setattr(timing, "peak_call", lambda target, turns: (nap, 1e9))
    one, two = (timing.peak_rate(target_named(), threads, 0.1) for threads in (1, 2))
    assert 1e9 / 0.004 < one <= 1e9 / 0.002
    assert 1.2 * one < two <= 2e9 / 0.002


def test_a_layer_alone(capsys):
    code, said = bench(capsys, TINY, "--directions", "c", "g", "h")
    assert code == 0
    assert [(r["layer"], r["direction"]) for r in said["results"]] == [(TINY, d) for d in "cgh"]
    for result in said["results"]:
        assert result["algorithm"]
        assert result["rate"] == pytest.approx(result["flops"] / result["times"]["convc"]["median"])
        assert result["share_of_peak"] > 0
        assert result["ratio"] is None
    assert said["peak"] > 0
    assert said["stream"] > 0


def test_a_layer_beside_a_peer(capsys, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "found.json"
    argv = ("bench", "--layers", TINY, "--vs", "onnxruntime", "--batch", 2, "--rounds", 1)
    assert status(*argv, "--json", file) == 0
    said = capsys.readouterr()
    assert "geometric mean" in said.out
    assert TINY in said.err
    (result,) = json.loads(file.read_text())["results"]
    assert (result["batch"], result["best_peer"]) == (2, "onnxruntime")
    times = result["times"]
    assert result["ratio"] == times["onnxruntime"]["median"] / times["convc"]["median"]


def test_several_threads(capsys):
    code, said = bench(capsys, TINY, "--threads", 2)
    assert (code, said["threads"]) == (0, 2)


def test_an_algorithm_that_does_not_apply_is_an_error_of_its_layer(capsys):
    code, said = bench(capsys, TINY, "--algorithm", "pointwise")
    assert code == 1
    (result,) = said["results"]
    assert "pointwise does not apply" in result["errors"]["convc"]
    assert not result["times"]


def test_a_wrong_result_has_no_time(monkeypatch, capsys):
    def wrong(peer, graph, inputs, threads):
        return lambda: np.zeros(graph.types["y"].static_shape, np.float32)

    monkeypatch.setattr(peers, "require", lambda names: None)
    monkeypatch.setattr(peers, "contender", wrong)
    code, said = bench(capsys, TINY, "--vs", "torch")
    assert code == 0
    (result,) = said["results"]
    assert list(result["times"]) == ["convc"]
    assert result["errors"] == {"torch": "differs from float64 by 1.0e+00 of the largest"}


def test_not_a_number_is_wrong():
    graph = layers.graph(SMALL[0], "c")
    inputs = inputs_of(graph)
    right = ir.interpret(graph, inputs)["y"]
    calls = {"convc": lambda: np.full_like(right, np.nan), "torch": lambda: right}
    assert list(bench_layers._errors(graph, inputs, calls)) == ["convc"]


def test_ratios_are_those_of_the_fastest_peer():
    times = {"convc": timing.Timing(1.0, 2.0), "a": timing.Timing(4.0, 5.0),
             "b": timing.Timing(3.0, 6.0)}  # fmt: skip
    result = comparison.Comparison(flops=100, times=times, peak=100.0)
    assert (result.best, result.ratio, result.least_ratio) == ("a", 2.5, 3.0)
    assert (result.rate, result.share) == (50.0, 0.5)
    assert replace(result, times={"a": times["a"]}).ratio is None


def test_roofline(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "roofline.png"
    assert status("bench", "--layers", TINY, "--rounds", 1, "--plot", file) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("directions", ["c", "cgh"])
def test_a_roofline_can_be_read(directions):
    overlaps = pytest.importorskip("matplotlib.transforms").BboxBase.overlaps
    rng = np.random.default_rng(0)
    results = []
    for layer, direction in itertools.product(layers.LAYERS, directions):
        cost = layers.graph(layer, direction).cost()
        took = cost.flops / rng.uniform(50e9, 500e9)
        times = {name: timing.Timing(took * times, took * times)
                 for name, times in (("convc", 1.0), ("torch", 1.5))}  # fmt: skip
        results.append(bench_layers.Result(
            layer=layer.name, direction=direction, batch=1, flops=cost.flops,
            nbytes=cost.bytes, times=times,
        ))  # fmt: skip
    how = comparison.How(target=target_named("plain"), threads=2, vs=("torch",))
    figure = bench_plot.drawn(bench_layers.Report(how, results, 300e9, 12e9))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
        ticks = [float(label.get_text().replace(",", "")) for label in axis]
        assert len(ticks) > 3 and {f"{tick:g}"[0] for tick in ticks} <= set("0125")
    assert "flops per byte" in axes.get_xlabel() and "GFLOP/s" in axes.get_ylabel()
    assert "plain with 2 threads" in axes.get_title()
    numbers = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert len(numbers) == len(results)
    crossing = [pair for pair in itertools.combinations(numbers.values(), 2)
                if pair[0].overlaps(pair[1])]  # fmt: skip
    assert len(crossing) <= len(results) // 20
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("12 GB/s" in text for text in told) and any("300 GFLOP/s" in text for text in told)
    assert sum("best of torch" in text for text in told) == len(directions)
    listed = [line for text in figure.texts for line in text.get_text().splitlines()]
    assert [line.split()[0] for line in listed] == list(numbers)
    columns = [text.get_window_extent() for text in figure.texts]
    assert not any(map(overlaps, columns, columns[1:]))
    assert all(0 < column.y0 < column.y1 < figure.bbox.y1 for column in columns)


# ---------------------------------------------------------------- the named cases


@pytest.mark.parametrize("case", ["conv", "overhead"])
def test_cases(case, capsys):
    assert status("bench", case, "--rounds", 1, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["case"] for row in rows} == {case}
    assert all(0 < row["least_us"] <= row["median_us"] for row in rows)


# ---------------------------------------------------------------- networks


def test_a_network_beside_a_peer(capsys):
    pytest.importorskip("torch")
    argv = ("bench", "lenet", "autoencoder", "--vs", "torch", "--batch", 2, "--rounds", 1)
    assert status(*argv, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [result["network"] for result in said["results"]] == ["lenet", "autoencoder"]
    first = said["results"][0]
    assert first["inputs"] == {"x": "f32[2, 1, 28, 28]"}
    assert list(first["times"]) == list(first["load_seconds"]) == ["convc", "torch"]
    assert first["ratio"] == first["times"]["torch"]["median"] / first["times"]["convc"]["median"]
    product = np.prod([result["ratio"] for result in said["results"]])
    assert said["geometric_mean"]["medians"] == pytest.approx(product**0.5)


def test_networks_of_any_size_and_in_files(tmp_path, capsys):
    zoo.build("lenet", "N").save(tmp_path / "mine.ir")
    argv = ("bench", tmp_path / "mine.ir", "classifier_convolutional", "--sizes", "H=32,W=40")
    assert status(*argv, "--rounds", 1) == 0
    said = capsys.readouterr().out
    assert "classifier_convolutional" in said
    assert "mine.ir" in said
    assert "no network has" in refused(capsys, *argv[:2], "--sizes", "M=3")


def test_the_batch_of_a_network_is_said_once(tmp_path, capsys):
    zoo.build("lenet", 3).save(tmp_path / "fixed.ir")
    b = ir.Builder("named")
    x = b.input("x", "f32[images, 2, S]")
    b.output("y", b.relu(x))
    b.build().save(tmp_path / "named.ir")
    named, fixed = tmp_path / "named.ir", tmp_path / "fixed.ir"

    def shape(*argv):
        assert status("bench", named, "--rounds", 1, "--json", *argv) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        return result["inputs"]["x"]

    assert shape() == "f32[1, 2, 64]"
    assert shape("--batch", 5, "--sizes", "S=7") == "f32[5, 2, 7]"
    assert shape("--sizes", "images=4") == "f32[4, 2, 64]"
    said = refused(capsys, "bench", "lenet", "--batch", 2, "--sizes", "N=2")
    assert "--batch and --sizes both say what N is; give one of them" in said
    assert "the batch size of " in refused(capsys, "bench", fixed, "--batch", 2)


def test_a_network_with_a_wrong_result(monkeypatch, capsys):
    monkeypatch.setattr(convc, "compile", lambda *args, **more: np.zeros_like)
    assert status("bench", "autoencoder", "--rounds", 1) == 1
    said = capsys.readouterr().out
    assert "wrong" in said
    assert "autoencoder: convc: differs from float64" in said


def test_arguments_that_make_no_sense(capsys):
    said = refused(capsys, "bench", "--layers", TINY, "--algorithm", "winograd3")
    assert "--algorithm: no algorithm 'winograd3'; did you mean 'winograd" in said
    said = refused(capsys, "bench", "--layers", TINY, "--algorithm", "nope")
    assert "no algorithm 'nope'; there are direct, " in said
    said = refused(capsys, "bench", "--layers", TINY, "--directions", "q")
    assert "no direction 'q'; there are c, g, h" in said
    assert "'lanet'; did you mean 'lenet'" in refused(capsys, "bench", "lanet")
    assert "one by one" in refused(capsys, "bench", "conv", "--layers")
    assert ".json" in refused(capsys, "bench", "--json", "conv")


def test_ops_are_measured_beside_pytorch(capsys):
    pytest.importorskip("torch")
    assert status("bench", "--ops", "relu", "reverse", "--rounds", "1") == 0
    said = capsys.readouterr().out
    assert "relu" in said and "both" in said and "geometric mean" in said
    said = refused(capsys, "bench", "--ops", "rellu")
    assert "did you mean 'relu'" in said
    assert "families: convolution" in said and "'conv, groups', 'transposed'" in said


@pytest.mark.parametrize(
    "case", [case for cases in FAMILIES.values() for case in cases], ids=lambda case: case.name
)
def test_every_case_of_the_ops_is_a_graph_with_gradients(case):
    b = ir.Builder("case")
    operands = [b.input(f"x{number}", type) for number, type in enumerate(case.types)]
    b.output("y", case.emit(b, *operands))
    assert ir.expand(ir.vjp(b.build())).nodes
