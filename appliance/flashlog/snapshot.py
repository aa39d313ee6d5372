"""One unchanging view of a log file for the maintenance commands, while others may write to it."""

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
    with translated("open", database):
        connection = connect_reader(database)
    try:
        with translated("open", database):
            check(connection, database)
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # BEGIN alone pins nothing
        yield connection
    finally:
        connection.close()


def count_entries(connection: sqlite3.Connection, database: Path) -> int:
    """How many entries the snapshot has."""
    with translated("read", database):
        (total,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return int(total)
