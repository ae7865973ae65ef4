"""Object files: linked into a C program by the system compiler, they give the model's results."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import convc
import ir
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
