"""Weights and graphs on disk, against the safetensors library and against corruption."""

import json

import numpy as np
import pytest

import ir
from ir.safetensors import MAX_HEADER, decode, read_tensors, write_tensors


def tensors():
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b/c.d": rng.standard_normal((2, 0, 3)),
        "é": np.arange(7, dtype=np.int64),
        "scalar": np.array(2.5),
        "odd": np.ones(3, np.float32),
    }


def same(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and np.array_equal(array, right[name])
        assert array.shape == right[name].shape


def test_the_library_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    write_tensors(tmp_path / "w", tensors())
    same(library.load_file(tmp_path / "w"), tensors())


def test_we_read_what_the_library_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(tensors(), tmp_path / "w", metadata={"made": "by a test"})
    same(read_tensors(tmp_path / "w"), tensors())


def test_files_are_deterministic_and_leave_nothing_behind(tmp_path):
    write_tensors(tmp_path / "w", tensors())
    first = (tmp_path / "w").read_bytes()
    write_tensors(tmp_path / "w", dict(reversed(tensors().items())))
    assert (tmp_path / "w").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_tensors(tmp_path / "w", {"a": np.ones(2)})
    with pytest.raises(ir.DTypeError):
        write_tensors(tmp_path / "w", {"a": np.ones(2), "b": np.ones(2, np.int8)})
    same(read_tensors(tmp_path / "w"), {"a": np.ones(2)})


def blob(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\1\2", "too few"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "larger than"),
        ((100).to_bytes(8, "little") + b"{}", "beyond the file"),
        (blob(b"{nope"), "not valid JSON"),
        (blob(b"\xff\xfe"), "not valid JSON"),
        (blob(b"[" * 100_000), "not valid JSON"),
        (blob(b"[]"), "not a JSON object"),
        (blob(b'{"a": 1, "a": 1}'), "twice"),
        (blob({"a": 3}), "needs exactly"),
        (blob({"a": {**entry(), "extra": 1}}), "needs exactly"),
        (blob({"a": entry(dtype="BF16")}), "'BF16'; convert"),
        (blob({"a": entry(dtype=["F32"])}), "convert"),
        (blob({"a": entry(shape=(-2,))}), "non-negative"),
        (blob({"a": entry(shape=(True, 2))}), "non-negative"),
        (blob({"a": entry(shape=(3,))}), "of 12 bytes"),
        (blob({"a": entry(8, 0)}), "data_offsets"),
        (blob({"a": entry(4, 12)}, b"\0" * 12), "leaves a gap"),
        (blob({"a": entry(), "b": entry(4, 12)}, b"\0" * 12), "overlaps"),
        (blob({"a": entry()}, b"\0" * 7), "truncated"),
        (blob({"a": entry()}, b"\0" * 9), "follow the last"),
        (blob({}, b"\0"), "follow the last"),
    ],
)
def test_corrupt_files_are_refused(content, message, tmp_path):
    with pytest.raises(ir.WeightsError, match=message):
        decode(content)
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ir.WeightsError, match=r"weights '.*w': "):
        read_tensors(tmp_path / "w")


def test_every_truncation_is_refused(tmp_path):
    write_tensors(tmp_path / "w", tensors())
    content = (tmp_path / "w").read_bytes()
    for end in range(len(content)):
        with pytest.raises(ir.WeightsError):
            decode(content[:end])


def model():
    b = ir.Builder("model")
    x = b.input("x", "f32[N, 3]")
    b.output("y", b.dense(x, b.weight("w", np.ones((3, 2), np.float32))))
    return b.build()


@pytest.mark.parametrize("name", ["model.ir", "model.v1.ir"])
def test_graphs_round_trip(tmp_path, name):
    model().save(tmp_path / name)
    assert ir.load(tmp_path / name) == model()
    stem = name.removesuffix(".ir")
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.ir", f"{stem}.safetensors"}


def test_load_errors_name_the_file(tmp_path):
    model().save(tmp_path / "m.ir")
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(ir.WeightsError, match=r"m.safetensors \(no such file\): missing weights"):
        ir.load(tmp_path / "m.ir")
    (tmp_path / "m.ir").write_text("graph g {\n oops }")
    with pytest.raises(ir.ParseError, match=r"m.ir: line 2, column 2: ") as caught:
        ir.load(tmp_path / "m.ir")
    assert (caught.value.line, caught.value.column) == (2, 2)
    (tmp_path / "m.ir").write_bytes(b"\xff")
    with pytest.raises(ir.ParseError, match="UTF-8"):
        ir.load(tmp_path / "m.ir")


@pytest.mark.parametrize("name", ["model", "model.v1", "model.txt", ".ir"])
def test_a_graph_lives_in_a_file_that_ends_in_ir(tmp_path, name):
    for use in (model().save, ir.load):
        with pytest.raises(ir.Error, match=r"does not end in \.ir.*did you mean '.*\.ir'"):
            use(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    path = tmp_path / "none" / "m.ir"
    with pytest.raises(ir.FileError, match="folder does not exist; make it first") as caught:
        model().save(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, OSError)
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(ir.FileError, match="cannot be written: Is a directory") as refused:
        model().save(tmp_path / "m.ir")
    assert str(refused.value).startswith(f"{tmp_path / 'm.ir'}: ")
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.ir").mkdir()
    for name, why in (("folder.ir", "Is a directory"), ("none.ir", "No such file or directory")):
        with pytest.raises(ir.FileError) as caught:
            ir.load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: cannot be read: {why}"
    for use in (model().save, ir.load):
        with pytest.raises(ir.FileError, match="null character"):
            use("a\0.ir")
