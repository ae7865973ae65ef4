"""The database of measured times: SQLite, in the cache folder, shared by processes.

Nothing here raises for what is on the disk. A folder that cannot be used, or a damaged file, is
said once; from then on the process goes by what it has measured itself.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock

from convc import settings
from convc.backend.target import Target
from convc.tuning.records import Context, Row, rows, times_of

LOG = logging.getLogger("convc")
FILE = "tuning-2.sqlite3"  # the number changes with the table
TABLE = """CREATE TABLE IF NOT EXISTS seconds (
    signature TEXT, target TEXT, triple TEXT, threads INTEGER, version TEXT, algorithm TEXT,
    source TEXT, seconds REAL,
    PRIMARY KEY (signature, target, triple, threads, version, algorithm)
) WITHOUT ROWID"""
INSERT = "INSERT OR REPLACE INTO seconds VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
SELECT = (
    "SELECT signature, target, triple, threads, version, algorithm, source, seconds FROM seconds"
)
UNDER = " WHERE target = ? AND triple = ? AND threads = ? AND version = ?"
AROUND = UNDER.replace("threads = ?", "threads IN (?, 1)")
DELETE = "DELETE FROM seconds" + UNDER + " AND signature = ?"
PATIENCE = 10.0  # seconds to wait for another process that writes


class Database:
    """Times in a file, or, without a path or where the file is of no use, in this process alone.

    Threads and processes may share it; a connection lives only as long as one call.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.problem: str | None = None
        self._own: dict[tuple[object, ...], Row] = {}
        self._lock = Lock()

    def times(self, context: Context) -> dict[str, dict[str, float]]:
        """All times taken under a context, and on one thread, by key and algorithm."""
        found = self._read(SELECT + AROUND, tuple(vars(context).values()))
        return times_of([*found, *self._own.values()], context)

    def record(self, context: Context, signature: str, times: Mapping[str, float]) -> None:
        """Keep the times of some algorithms for one signature; older ones of theirs go."""
        self._write(rows(context, signature, times))

    def replace(self, context: Context, signature: str, times: Mapping[str, float]) -> None:
        """Keep these times for one signature, and no other ones."""
        self._write(rows(context, signature, times), (context, signature))

    def rows(self) -> list[Row]:
        """Everything, sorted."""
        found = {_key(row): row for row in self._read(SELECT)}
        return sorted((found | self._own).values())

    def add(self, given: Iterable[Row]) -> None:
        """Keep rows; older ones of the same key are replaced."""
        self._write(list(given))

    def __str__(self) -> str:
        """Where it is and how it is, for people."""
        if self.path is None:
            return "none (CONVC_CACHE=off)"
        count = len(self.rows())
        state = f"cannot be used: {self.problem}" if self.problem else f"{count} measurements"
        return f"{self.path}: {state}"

    def _write(self, added: list[Row], instead: tuple[Context, str] | None = None) -> None:
        """Add rows, all those of a context and signature having gone before."""
        if self.path is not None and self.problem is None:
            try:
                with self._writer(self.path) as connection:
                    if instead is not None:
                        context, signature = instead
                        connection.execute(DELETE, (*vars(context).values(), signature))
                    connection.executemany(INSERT, [tuple(vars(row).values()) for row in added])
                return
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
        with self._lock:
            kept = {k: r for k, r in self._own.items() if (r.context, r.signature) != instead}
            self._own = kept | {_key(row): row for row in added}

    def _read(self, query: str, given: tuple[object, ...] = ()) -> list[Row]:
        if self.path is None or self.problem is not None:
            return []
        try:
            if not self.path.exists():
                return []
            fixed = "" if os.access(self.path.parent, os.W_OK) else "&immutable=1"
            uri = f"{self.path.absolute().as_uri()}?mode=ro{fixed}"
            with closing(sqlite3.connect(uri, PATIENCE, uri=True)) as connection:
                found = [Row(*values) for values in connection.execute(query, given)]
        except (sqlite3.Error, OSError, OverflowError) as error:
            self._give_up(error)
            return []
        return [row for row in found if row.problem() is None]

    @contextmanager
    def _writer(self, path: Path) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction; the folder and the table are made when missing."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, PATIENCE)) as connection:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(TABLE)
                yield connection

    def _give_up(self, error: Exception) -> None:
        """Say once why the file is not used any more."""
        with self._lock:
            if self.problem is None:
                self.problem = str(error)
                LOG.warning("tuning database %s cannot be used, going on without: %s "
                            "(remove it, or set CONVC_CACHE)", self.path, error)  # fmt: skip


@functools.cache
def _database_in(folder: Path | None) -> Database:
    return Database(None if folder is None else folder / FILE)


def database() -> Database:
    """The database in the cache folder that ``CONVC_CACHE`` names now."""
    return _database_in(settings.cache_folder())


def measured(target: Target, threads: int) -> dict[str, dict[str, float]]:
    """What the database knows for a target and so many threads."""
    return database().times(Context.of(target, threads))


def _key(row: Row) -> tuple[object, ...]:
    return tuple(vars(row).values())[:-2]
