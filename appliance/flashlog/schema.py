"""The schemas of our databases: numbered SQL files, applied once each, through sqlite-utils.

`PRAGMA application_id` says that a file is ours, `PRAGMA user_version` how many migrations it has seen; both
are written in the transaction of the migrations. A file from the future is refused, never guessed at.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database, Migrations

from appliance.domain.errors import LogError

APPLICATION_ID = 0x464C4F47  # "FLOG"


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of database: the folder of its SQL files, the id that marks its files, and its name for people."""

    folder: str
    application_id: int
    title: str


FLASHLOG = Schema("flashlog", APPLICATION_ID, "flashblock log")
STATE = Schema("state", 0x41535441, "state file of the appliance")  # "ASTA"


def migrations_folder(schema: Schema = FLASHLOG) -> Path:
    """The folder of the SQL files: beside this module in a wheel, at the top level in a checkout."""
    packaged = Path(__file__).parent / "migrations" / schema.folder
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "migrations" / schema.folder


def migration_files(folder: Path | None = None) -> list[Path]:
    """All migrations, in order. LogError where there are none: the installation is broken."""
    folder = folder or migrations_folder()
    files = sorted(folder.glob("[0-9]*.sql"))
    if not files:
        raise LogError(f"no migrations in {folder}: the installation is incomplete")
    return files


def identify(connection: sqlite3.Connection, path: Path, schema: Schema = FLASHLOG) -> int:
    """Return the schema version, 0 for an empty file; LogError for another program's or a newer one's file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != schema.application_id and (application or version or tables):
        raise LogError(f"{path} is not a {schema.title}, but another program's database")
    known = len(migration_files(migrations_folder(schema)))
    if version > known:
        raise LogError(f"{path} is from a newer version: its schema is {version}, this one knows {known}")
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path, folder: Path | None = None, schema: Schema = FLASHLOG) -> None:
    """Bring an empty or older file to the current schema, in one transaction."""
    files = migration_files(folder or migrations_folder(schema))
    if identify(connection, path, schema) == len(files):
        return
    database = Database(connection, execute_plugins=False)
    with database.atomic():
        _collect(schema.folder, files).apply(database)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {len(files)}")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LogError unless the file is a flashblock log of the current schema."""
    known = len(migration_files())
    version = identify(connection, path)
    if version == 0:
        raise LogError(f"{path} is not a flashblock log: it is empty")
    if version < known:
        raise LogError(f"{path} has schema {version}, this version needs {known}: start the appliance once")


def _collect(name: str, files: list[Path]) -> Migrations:
    migrations = Migrations(name)
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
