"""The one door to SQLite: connections, transactions, the lock of the folder, and errors in our words."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from appliance.domain.errors import LogError

BUSY_TIMEOUT_S = 2.0
"""How long a statement waits for a lock that another program holds (an operator's sqlite3 shell, say)."""

PAGE_BYTES = 4096
"""Measured with bodies of 8 and 20 KB: 8,192 is no faster, 16,384 is slower."""

LOCK_NAME = "flashlog.lock"

_WORLDLY = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_BUSY: "another program holds a lock on it",
    sqlite3.SQLITE_LOCKED: "another connection holds a lock on it",
    sqlite3.SQLITE_READONLY: "it is not writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_TOOBIG: "a value is too big",
    sqlite3.SQLITE_PROTOCOL: "its lock protocol failed (a network file system?)",
}


@contextlib.contextmanager
def translated(doing: str, path: Path) -> Iterator[None]:
    """Turn what the world did (disk, locks, damage) into LogError; errors of our own SQL propagate as they are."""
    try:
        yield
    except sqlite3.Error as error:
        why = _WORLDLY.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if why is None:
            raise
        raise LogError(f"cannot {doing} {path}: {why} ({error})") from error
    except OSError as error:
        raise LogError(f"cannot {doing} {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    """One transaction; any exception rolls it back. SQLite may have done that already, on a full disk say."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def connect(path: Path) -> sqlite3.Connection:
    """Open for writing, creating the file. A connection is used by one thread at a time, not always the same."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def configure_writer(connection: sqlite3.Connection, path: Path) -> None:
    """WAL and synchronous FULL: what is committed is on disk. Only for a file that is known to be ours."""
    # Only a file without tables takes these two; INCREMENTAL lets retention give pages back to the disk.
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LogError(f"cannot open {path}: its file system has no shared memory for SQLite's WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = OFF")  # Debian compiles it on: zeroes each page that is freed
    # The writer checkpoints when it is idle; SQLite's own checkpoint, inside a commit, is the safety net.
    connection.execute("PRAGMA wal_autocheckpoint = 4096")
    connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")


def connect_reader(path: Path, *, at_rest: bool = False) -> sqlite3.Connection:
    """Open an existing file for reading only; such a connection never writes a checkpoint either.

    ``at_rest`` takes no lock, makes nothing beside the file and reads no WAL: it is for a file whose WAL is empty, and
    what it finds is worth nothing if somebody writes to the file meanwhile.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if at_rest else ''}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


class FolderLock:
    """One writing process per folder. The kernel lets go of the lock when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock, or raise LogError with the id of the process that has it."""
        self._path = folder / LOCK_NAME
        with translated("open", self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._take(folder)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise LogError(f"the flashblock log in {folder} is in use by another process ({owner})") from None
        with translated("write", self._path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next process have the folder; the file stays, so that no two processes lock different files."""
        os.close(self._descriptor)
