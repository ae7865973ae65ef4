"""Object files: linked into a C program by the system compiler, they give the model's results."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import convc
import ir
from convc.backend import aot
from convc.backend.aot import c_name
from convc.backend.target import available
from convc.tools.compile import Artifact, compile_object, with_gradients
from convc.train.lenet import lenet, with_loss

CC = shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="no system C compiler")

MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include "{header}"
static void *load(const char *path, size_t bytes) {{
  void *data = malloc(bytes); FILE *f = fopen(path, "rb");
  if (!f || fread(data, 1, bytes, f) != bytes) exit(3);
  fclose(f); return data;
}}
static void save(const char *path, const void *data, size_t bytes) {{
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(data, 1, bytes, f) != bytes) exit(4);
  fclose(f);
}}
int main(void) {{
{loads}
  void *workspace = malloc({macro}_WORKSPACE_BYTES + 1);
  for (int turn = 0; turn < 2; turn++) {symbol}({names}, workspace);
{saves}
  return 0;
}}
"""


def run_in_c(
    artifact: Artifact, graph: ir.Graph, inputs: dict[str, np.ndarray], folder: Path
) -> dict[str, np.ndarray]:
    """Compile a main program around the object, run it on files, read the outputs back."""
    loads, saves, outputs = [], [], {}
    for number, argument in enumerate(artifact.arguments):
        size, file = argument.type.nbytes, folder / f"{number}.bin"
        if argument.output:
            loads.append(f"  void *a{number} = malloc({size});")
            saves.append(f'  save("{file}", a{number}, {size});')
            outputs[argument.public] = (file, argument.type)
        else:
            file.write_bytes(inputs[argument.public].tobytes())
            loads.append(f'  void *a{number} = load("{file}", {size});')
    source = MAIN.format(
        header=artifact.header_file.name,
        macro=artifact.symbol.removesuffix("_run").upper(),
        symbol=artifact.symbol,
        names=", ".join(f"a{n}" for n in range(len(artifact.arguments))),
        loads="\n".join(loads),
        saves="\n".join(saves),
    )
    (folder / "main.c").write_text(source)
    command = [CC, "-Wall", "-Werror", "main.c", artifact.object_file.name, "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run([folder / "main"], check=True)
    return {
        name: np.fromfile(file, type.dtype.numpy).reshape(type.static_shape)
        for name, (file, type) in outputs.items()
    }


def random_inputs(graph: ir.Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
        if type.dtype.is_float
        else rng.integers(0, 10, type.static_shape)
        for name, type in graph.inputs.items()
    }


@needs_cc
@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("gradients", [False, True])
def test_object_gives_the_model_s_bits(target: str, gradients: bool, tmp_path: Path) -> None:
    network = with_loss(lenet())
    graph = (with_gradients(network) if gradients else network).bind({"N": 3})
    artifact = compile_object(graph, tmp_path, target=target)
    inputs = random_inputs(graph)
    expected = convc.compile(graph, threads=1, target=target).run(inputs)
    outputs = run_in_c(artifact, graph, inputs, tmp_path)
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)


def symbols(artifact: Artifact) -> list[tuple[str, str]]:
    """The kinds and names of an object's symbols, as nm has them."""
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    command = ["nm", artifact.object_file]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [(line.split()[-2], line.split()[-1]) for line in listing.splitlines()]


def test_object_has_one_global_symbol_and_no_writable_data(tmp_path: Path) -> None:
    kinds = symbols(compile_object(lenet().bind({"N": 1}), tmp_path))
    assert [name for kind, name in kinds if kind == "T"] == ["lenet_run"]
    assert not [name for kind, name in kinds if kind in "BbDdCVvW"]
    assert {name for kind, name in kinds if kind == "U"} <= {"memcpy", "memset"}


def test_weights_are_one_aligned_read_only_section(tmp_path: Path) -> None:
    """Its bytes are where readelf finds them."""
    weights = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    b = ir.Builder("sum")
    b.output("y", b.add(b.input("x", "f32[1001]"), b.weight("w", weights)))
    artifact = compile_object(b.build(), tmp_path)
    if shutil.which("readelf") is None:
        pytest.skip("no readelf: it comes with binutils, as nm does")
    command = ["readelf", "--wide", "--section-headers", artifact.object_file]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (line,) = (line for line in listing.splitlines() if ".rodata.weights" in line)
    kind, _, offset, size, _, flags, _, _, alignment = line.split(".rodata.weights")[1].split()
    assert (kind, flags, alignment) == ("PROGBITS", "A", "64")
    start, end = int(offset, 16), int(offset, 16) + int(size, 16)
    content = artifact.object_file.read_bytes()
    assert start % 64 == 0 and end == len(content)
    assert content[start:end].startswith(weights.tobytes())


@needs_cc
def test_two_models_of_no_and_of_empty_weights_in_a_shared_library(tmp_path: Path) -> None:
    b = ir.Builder("none")
    b.output("y", b.relu(b.input("x", "f32[17]")))
    none = b.build()
    b = ir.Builder("empty")
    x, w = b.input("x", "f32[3, 5]"), b.weight("w", np.zeros((5, 0), np.float32))
    b.output("y", b.dense(x, w))
    b.output("z", b.concat([x, b.weight("v", np.zeros((3, 0), np.float32))], 1))
    empty = b.build()
    objects = [compile_object(graph, tmp_path).object_file for graph in (none, empty)]
    command = [CC, "-shared", "-Wl,-z,text", *objects, "-o", tmp_path / "both.so"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(tmp_path / "both.so"))
    y, given = np.ones(17, np.float32), np.arange(-8, 9, dtype=np.float32)
    space = np.zeros(1 << 16, np.uint8)
    library.none_run(*(ctypes.c_void_p(a.ctypes.data) for a in (given, y, space)))
    np.testing.assert_array_equal(y, np.maximum(given, 0))
    x, y, z = np.ones((3, 5), np.float32), np.zeros(1, np.float32), np.zeros((3, 5), np.float32)
    library.empty_run(*(ctypes.c_void_p(a.ctypes.data) for a in (x, y, z, space)))
    np.testing.assert_array_equal(z, x)


def test_weights_beyond_the_reach_of_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aot, "REACH", 1 << 16)
    with pytest.raises(convc.CapacityError, match=r"packed weights cannot be linked"):
        compile_object(lenet().bind({"N": 1}), tmp_path)
    assert not list(tmp_path.glob("*.o"))


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_functions_need_no_library(dtype: str, target: str, tmp_path: Path) -> None:
    b = ir.Builder("functions")
    x = b.input("x", f"{dtype}[3, 17]")
    for function in (b.exp, b.log, b.sqrt, b.tanh, b.logistic, b.erf, b.softplus, b.gelu, b.silu,
                     b.elu, b.floor, b.ceil, b.round, b.softmax):  # fmt: skip
        b.output(function.__name__, function(x))
    b.output("power", b.power(x, 0.3))
    b.output("cast", b.cast(x, "i64"))
    kinds = symbols(compile_object(b.build(), tmp_path, target=target))
    assert [name for kind, name in kinds if kind == "U"] == []


def test_names_are_c_identifiers(tmp_path: Path) -> None:
    assert [c_name(n) for n in ("a.b", "1x", "", "double", "ünit")] == [
        "a_b", "v1x", "v", "double_", "_nit",
    ]  # fmt: skip
    b = ir.Builder("net-1")
    x = b.input("a.b", "f32[4]")
    b.output("a_b", b.relu(x))
    b.output("workspace", b.scale(x, 2.0))
    artifact = compile_object(b.build(), tmp_path)
    assert artifact.symbol == "net_1_run"
    assert [a.name for a in artifact.arguments] == ["a_b", "a_b_", "workspace_"]


def test_a_target_of_another_machine_is_refused(tmp_path: Path) -> None:
    other = "neon" if "plain" in available() else "avx2"
    with pytest.raises(convc.TargetError, match="cannot compile for"):
        compile_object(lenet().bind({"N": 1}), tmp_path, target=other)
