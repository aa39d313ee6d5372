"""The schema of flashlog.db: numbered SQL files, applied once each, through sqlite-utils.

`PRAGMA application_id` says that a file is ours, `PRAGMA user_version` how many migrations it has seen; both
are written in the transaction of the migrations. A file from the future is refused, never guessed at.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlite_utils import Database, Migrations

from appliance.domain.errors import LogError

APPLICATION_ID = 0x464C4F47  # "FLOG"


def migrations_folder() -> Path:
    """The folder of the SQL files: beside this module in a wheel, at the top level in a checkout."""
    packaged = Path(__file__).parent / "migrations" / "flashlog"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "migrations" / "flashlog"


def migration_files(folder: Path | None = None) -> list[Path]:
    """All migrations, in order. LogError where there are none: the installation is broken."""
    folder = folder or migrations_folder()
    files = sorted(folder.glob("[0-9]*.sql"))
    if not files:
        raise LogError(f"no migrations in {folder}: the installation is incomplete")
    return files


def identify(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for an empty file; LogError for another program's or a newer one's file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise LogError(f"{path} is not a flashblock log, but another program's database")
    known = len(migration_files())
    if version > known:
        raise LogError(f"{path} is from a newer version: its schema is {version}, this one knows {known}")
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path, folder: Path | None = None) -> None:
    """Bring an empty or older file to the current schema, in one transaction."""
    files = migration_files(folder)
    if identify(connection, path) == len(files):
        return
    database = Database(connection, execute_plugins=False)
    with database.atomic():
        _collect(files).apply(database)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(files)}")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LogError unless the file is a flashblock log of the current schema."""
    known = len(migration_files())
    version = identify(connection, path)
    if version == 0:
        raise LogError(f"{path} is not a flashblock log: it is empty")
    if version < known:
        raise LogError(f"{path} has schema {version}, this version needs {known}: start the appliance once")


def _collect(files: list[Path]) -> Migrations:
    migrations = Migrations("flashlog")
    for file in files:
        migrations(name=file.stem)(_Script(file))
    return migrations


class _Script:
    """One SQL file. Statement by statement: `executescript` would commit the transaction around it."""

    def __init__(self, file: Path) -> None:
        self.__name__ = file.stem
        self._file = file

    def __call__(self, database: Database) -> None:
        for statement in statements(self._file.read_text(encoding="utf-8")):
            database.conn.execute(statement)


def statements(script: str) -> Iterator[str]:
    """Split a script into statements: at semicolons that end one, not at those in comments, text or triggers."""
    pending = ""
    *ended, rest = script.split(";")
    for part in ended:
        pending += f"{part};"
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""
    if (pending + rest).strip():
        raise LogError(f"a migration ends within a statement: {(pending + rest).strip()[:60]}")
