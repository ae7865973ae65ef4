"""The worker threads: Python owns them, native code is all they run, without the GIL."""

from __future__ import annotations

import ctypes
import os
import threading

from convc import settings
from convc.backend.native import MAILBOX_BYTES, Native, native


class Pool:
    """Workers shared by all models of the process, started when first needed.

    One run at a time uses them; a second caller meanwhile runs on its own thread alone, with the
    same result.
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._boxes: list[int] = []
        self._pointers = (ctypes.c_void_p * 0)()
        self._runtime = runtime_code()

    def run(self, program: int, arguments: int, table: int, sync: int, threads: int) -> None:
        """Run a program on up to so many threads, the caller being the first."""
        runtime = self._runtime
        if threads > 1 and self._busy.acquire(blocking=False):
            try:
                threads = min(threads, 1 + self._grow(threads - 1, runtime))
                if threads > 1:
                    boxes = ctypes.addressof(self._pointers)
                    runtime.launch(boxes, program, arguments, table, sync, threads)
                    return
            finally:
                self._busy.release()
        runtime.run(program, arguments, table)

    def _grow(self, workers: int, runtime: Native) -> int:
        """Have at least so many workers, or as many as can be started."""
        while len(self._boxes) < workers:
            box = ctypes.create_string_buffer(MAILBOX_BYTES + 64)
            _MAILBOXES.append(box)  # before anything can go wrong: a worker may be using it
            address = -(-ctypes.addressof(box) // 64) * 64
            name = f"convc-{len(self._boxes) + 1}"
            thread = threading.Thread(
                target=runtime.worker, args=(address,), name=name, daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads
                break
            self._boxes.append(address)
            self._pointers = (ctypes.c_void_p * len(self._boxes))(*self._boxes)
        return len(self._boxes)


_MAILBOXES: list[ctypes.Array[ctypes.c_char]] = []  # never freed: workers live as long as we
_CREATION = threading.Lock()
_POOLS: list[Pool] = []


def runtime_code() -> Native:
    """The native runtime with the spinning time that the environment asks for."""
    return native(settings.number("CONVC_SPIN_US"))


def pool() -> Pool:
    """The process's pool."""
    if not _POOLS:
        with _CREATION:
            if not _POOLS:
                _POOLS.append(Pool())
    return _POOLS[0]


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    global _CREATION
    _CREATION = threading.Lock()
    _POOLS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
