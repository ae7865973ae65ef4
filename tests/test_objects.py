"""Machine code on the disk: found again, and never trusted."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.backend import jit, objects
from convc.backend.objects import Objects, key_of
from convc.backend.target import TARGETS, target_named
from convc.runtime.threads import runtime_code
from convc.settings import cache_folder
from ir.loops import Kernel, KernelBuilder, to_text

X = np.arange(-8, 9, dtype=np.float32)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Objects:
    """The cache, turned on, of this test alone, with the runtime in memory already."""
    runtime_code()
    monkeypatch.setenv("CONVC_CACHE_MIB", "8")
    cache = objects.objects()
    assert cache is not None
    return cache


def graph(factor: float = 3.0) -> ir.Graph:
    b = ir.Builder("kept")
    b.output("y", b.relu(b.scale(b.input("x", "f32[17]"), factor)))
    return b.build()


def right(factor: float = 3.0) -> None:
    """Compile anew, from the disk if it is there, and look at the result."""
    jit._COMPILED.clear()
    np.testing.assert_array_equal(
        convc.compile(graph(factor), threads=1)(X), np.maximum(X * np.float32(factor), 0)
    )


def files(kept: Objects) -> list[Path]:
    return [path for _, _, path in kept.entries()]


def kernel(size: int = 4) -> Kernel:
    k = KernelBuilder("copy")
    x, y = k.read("x", "f32", (size,)), k.write("y", "f32", (size,))
    with k.loop("i", size, "parallel") as i:
        k.store(y[i], x[i])
    return k.build()


def test_code_is_compiled_once(kept: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    right()
    assert files(kept)

    def never(*args: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(jit, "kernel_module", never)
    right()


def test_kernels_are_compiled_together_and_equal_ones_once(kept: Objects) -> None:
    target = target_named(None)
    one, two, again = jit.compile_kernels([kernel(4), kernel(5), kernel(4)], target)
    assert one is again and one.address != two.address
    assert one.engine is two.engine and len(files(kept)) == 2
    three, old = jit.compile_kernels([kernel(6), kernel(5)], target)
    assert old is two and three.engine is not two.engine


def test_others_may_compile_or_fork_after_every_kernel(
    kept: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held = threading.Lock(), list[int]()

    class Watched:
        def __enter__(self) -> None:
            lock.acquire()
            held.append(0)

        def __exit__(self, *_: object) -> None:
            lock.release()

    def one(*how: Any) -> Any:
        held[-1] += 1
        return kernel_module(*how)

    kernel_module = jit.kernel_module
    monkeypatch.setattr(jit, "_LOCK", Watched())
    monkeypatch.setattr(jit, "kernel_module", one)
    jit.compile_kernels([kernel(size) for size in range(4, 10)], target_named(None))
    assert sum(held) == 6 and max(held) == 1


def test_threads_that_compile_the_same_share_the_work(
    kept: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the disk too."""
    monkeypatch.setattr(jit, "objects", lambda: None)
    made = list[str]()

    def counted(each: Kernel, *how: Any) -> Any:
        made.append(jit.digest(each))
        return kernel_module(each, *how)

    kernel_module = jit.kernel_module
    monkeypatch.setattr(jit, "kernel_module", counted)
    start = threading.Barrier(4)

    def work(_: int) -> list[jit.Compiled]:
        start.wait(60)
        return jit.compile_kernels([kernel(size) for size in range(20, 40)], target_named(None))

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(work, range(4))
    assert len(made) == len(set(made)) == 20
    assert all(other == first for other in others)


def test_assembled_text_is_kept_too(kept: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "define void @nothing() { ret void }"
    assert not jit.assembled(text, target_named(None), "nothing").cached
    monkeypatch.setattr(jit, "parsed", None)
    assert jit.assembled(text, target_named(None), "nothing").cached
    assert len(files(kept)) == 1


def test_a_damaged_file_is_compiled_again(kept: Objects) -> None:
    right()
    for path in files(kept):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            right()
            assert path.read_bytes() == whole
        for length in (0, 10, len(whole) - 1):
            path.write_bytes(whole[:length])
            right()


def test_code_under_another_key_is_not_taken(kept: Objects) -> None:
    kept.put("a", b"code")
    (kept.folder / "a.object").rename(kept.folder / "b.object")
    assert kept.get("b") is None


def test_keys_hold_all_that_shapes_code(monkeypatch: pytest.MonkeyPatch) -> None:
    one = to_text(kernel())
    keys = {key_of(one, target) for target in TARGETS.values()} | {
        key_of(to_text(kernel(5)), target_named(None)), key_of(one, target_named(None))
    }  # fmt: skip
    assert len(keys) >= len(TARGETS) + 1
    before = key_of(one, target_named(None))
    monkeypatch.setattr(objects, "generator", lambda: "another compiler")
    assert key_of(one, target_named(None)) != before


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    cache = Objects(folder, 1 << 20)
    cache.put("a", b"code")
    assert cache.get("a") is None and not list(folder.iterdir())
    assert "can be written by others" in caplog.text


def test_a_folder_that_cannot_be_made_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path / "file" / "cache"))
    right()
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert objects.objects() is None
    right()


def test_the_folder_is_private_and_keeps_to_its_limit(tmp_path: Path) -> None:
    cache = Objects(tmp_path / "code", 5000)
    for number in range(10):
        cache.put(str(number), bytes(1000))
        os.utime(cache._path(str(number)), (number, number))
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.get("0") is not None  # used just now: it stays
    cache.prune()
    left = {path.stem for path in (path for _, _, path in cache.entries())}
    assert {"0", "9"} <= left and "1" not in left
    assert sum(size for _, size, _ in cache.entries()) <= 5000


def test_what_killed_writers_left_is_dropped_and_what_others_write_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    Objects(folder, 5000).put("kept", b"code")
    (folder / "new-killed").write_bytes(bytes(3000))
    os.utime(folder / "new-killed", (0, 0))
    (folder / "new-writing").write_bytes(b"half")
    Objects(folder, 5000).put("more", b"code")  # another process, whose first it is
    assert {path.name for path in folder.iterdir()} == {
        "kept.object", "more.object", "new-writing"
    }  # fmt: skip
    os.utime(folder / "new-writing", (0, 0))
    Objects(folder, 5000).prune(0)
    assert not list(folder.iterdir())


def test_a_writer_whose_file_was_dropped_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Objects(tmp_path / "code", 5000)

    def dropped(source: str, target: Path) -> None:
        os.unlink(source)
        raise FileNotFoundError(source)

    monkeypatch.setattr("os.replace", dropped)
    cache.put("a", b"code")
    assert cache.get("a") is None and not list(cache.folder.iterdir())


def together(number: int) -> bool:
    right(2.0 + number % 3)
    return True


def test_processes_share_it() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all(pool.map(together, range(8)))


def test_the_command_shows_and_clears_it(kept: Objects) -> None:
    right()

    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "convc", "cache", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    folder = cache_folder()
    assert str(folder) in said() and "kernels" in said()
    assert '"kernels": 0' in said("--clear", "--json")
    right()
