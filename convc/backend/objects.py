"""Machine code kept on disk: a file for each kernel, under a key of everything that shapes it.

An entry is code that will run, so the folder must belong to this user and be closed to others.
Whatever is wrong with a file or the folder means compiling again, never an error.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import llvmlite
from llvmlite import binding

from convc import settings
from convc.backend.target import Target, host_features
from ir import loops

LOG = logging.getLogger("convc")
MAGIC = b"convc-object-1\n"
DIGEST = hashlib.sha256().digest_size
SUFFIX = ".object"
UNFINISHED = "new-"  # begins the name of a file that somebody writes
ABANDONED = 3600.0  # seconds after which nobody does: writing takes milliseconds
SPARE = 0.8  # of the limit is kept where the limit is passed


@functools.cache
def generator() -> str:
    """What checks kernels and generates code: the sources, llvmlite, LLVM."""
    made = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(loops.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            made.update(path.read_bytes())
    versions = llvmlite.__version__, *map(str, binding.llvm_version_info)
    return f"{made.hexdigest()} {' '.join(versions)} {' '.join(sorted(host_features()))}"


def key_of(content: str, target: Target) -> str:
    """A name for the machine code of a kernel, given as text."""
    text = f"{generator()}\n{target}\n{content}"
    return hashlib.sha256(text.encode()).hexdigest()


class Objects:
    """Object files by key, in a folder of this user alone; at most ``limit`` bytes of them."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._usable: bool | None = None
        self._pruned = False

    def get(self, key: str) -> bytes | None:
        """The object file, or None where there is no undamaged one."""
        if not self.usable():
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
            checksum, code = data[len(MAGIC) : len(MAGIC) + DIGEST], data[len(MAGIC) + DIGEST :]
            if not data.startswith(MAGIC) or checksum != _checksum(key, code):
                LOG.info("%s is damaged; compiling again", path)
                return None
            os.utime(path)  # what was used last is kept longest
        except OSError:
            return None
        return code

    def put(self, key: str, code: bytes) -> None:
        """Keep an object file: whole or not at all, whoever else writes."""
        if not self.usable():
            return
        if not self._pruned:  # once a process: it takes long
            self._pruned = True
            self.prune()
        try:
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=UNFINISHED)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(MAGIC + _checksum(key, code) + code)
                os.replace(name, self._path(key))
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            LOG.warning("cannot keep code in %s: %s", self.folder, error)
            self._usable = False

    def usable(self) -> bool:
        """Whether the folder is there, or could be made, and nobody else can write to it."""
        if self._usable is None:
            self._usable = self._made()
        return self._usable

    def __str__(self) -> str:
        """Where it is and how full, for people."""
        listed = self.entries()
        size = sum(size for _, size, _ in listed) / 2**20
        return f"{self.folder}: {len(listed)} kernels, {size:.1f} of {self.limit >> 20} MiB"

    def entries(self) -> list[tuple[float, int, Path]]:
        """When each was used last, its bytes, its file; the oldest first."""
        return sorted(self._entries())

    def prune(self, limit: int | None = None) -> None:
        """Drop what was not used for longest until a limit (default: the folder's) is kept, and
        what writers have left behind that were killed."""
        self._drop_abandoned()
        listed = self.entries()
        total = sum(size for _, size, _ in listed)
        most = self.limit if limit is None else limit
        if total <= most:
            return
        for _, size, path in listed:
            if total <= most * SPARE:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

    def _drop_abandoned(self) -> None:
        before = time.time() - ABANDONED
        with suppress(OSError):
            for path in self.folder.glob(f"{UNFINISHED}*"):
                with suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()

    def _made(self) -> bool:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            LOG.info("no cache of code in %s: %s", self.folder, error)
            return False
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            LOG.warning("%s can be written by others: no code is kept there", self.folder)
            return False
        return True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        with suppress(OSError):
            for path in self.folder.glob(f"*{SUFFIX}"):
                with suppress(OSError):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path


def objects() -> Objects | None:
    """The cache of this process's settings; None where it is off."""
    folder = settings.cache_folder()
    limit = settings.number("CONVC_CACHE_MIB")
    return _objects(folder / "code", limit << 20) if folder and limit else None


@functools.cache
def _objects(folder: Path, limit: int) -> Objects:
    return Objects(folder, limit)


def _checksum(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()
