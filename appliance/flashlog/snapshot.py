"""One unchanging view of a log file for the maintenance commands, while others may write to it.

SQLite reads a file in WAL mode through a `-shm` beside it, and makes one where there is none. Where it may not (an
archive, a folder of another user) no appliance runs, or its `-shm` would be there: then the file is read alone. Should
one start and write to it meanwhile, what was read is refused: no lock that a mere reader holds may keep it from that.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from appliance.domain.errors import LogError
from appliance.flashlog.connection import connect_reader, translated
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.schema import check


def database_path(path: Path) -> Path:
    """The file itself, given it or its folder; LogError where there is none, or none that one may read."""
    with translated("open", path):
        database = path / DATABASE_NAME if path.is_dir() else path
        if not database.is_file():
            raise LogError(f"there is no flashblock log at {database}")
    # Opening it to see would do harm: closing any descriptor of a file ends all locks that this process has on it.
    if not os.access(database, os.R_OK):
        raise LogError(f"cannot open {database}: Permission denied")
    return database


@contextlib.contextmanager
def open_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection in one read transaction. The writer goes on; its WAL grows until this ends."""
    database = database_path(path)
    with contextlib.ExitStack() as stack:
        with translated("open", database):
            try:
                connection = _begun(database, at_rest=False)
            except sqlite3.OperationalError as error:
                if not _wants_files_beside(error):
                    raise
                stack.enter_context(_at_rest(database))
                connection = _begun(database, at_rest=True)
        stack.callback(connection.close)
        yield connection


def _begun(database: Path, *, at_rest: bool) -> sqlite3.Connection:
    connection = connect_reader(database, at_rest=at_rest)
    try:
        check(connection, database)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # BEGIN alone pins nothing
    except BaseException:
        connection.close()
        raise
    return connection


def _wants_files_beside(error: sqlite3.Error) -> bool:
    """READONLY where there is no WAL, CANTOPEN where there is one without its `-shm`."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@contextlib.contextmanager
def _at_rest(database: Path) -> Iterator[None]:
    """LogError unless the file alone is the whole log now, and if it was written to before the end of the block."""
    database = Path(os.path.realpath(database))  # SQLite has its other files where a link leads
    before = _state_of(database)
    for ending, what in (("wal", "its newest entries are in"), ("journal", "what makes it whole again is in")):
        beside = database.with_name(f"{database.name}-{ending}")
        if beside.exists() and beside.stat().st_size:
            text = f"{what} {beside.name}, to read which a file must be made beside it"
            raise LogError(f"cannot open {database}: {text}: copy both into a folder of yours")
    try:
        yield
    finally:
        if _state_of(database) != before:
            raise LogError(f"{database} was written to while it was read: try again")


def _state_of(database: Path) -> tuple[int, ...]:
    with translated("read", database):
        found = database.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def count_entries(connection: sqlite3.Connection, database: Path) -> int:
    """How many entries the snapshot has."""
    with translated("read", database):
        (total,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return int(total)
