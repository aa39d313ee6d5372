import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from appliance.domain.errors import LogError
from appliance.flashlog import schema
from appliance.flashlog.connection import connect
from appliance.flashlog.schema import check, identify, migrate, migration_files, statements
from appliance.flashlog.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flashlog.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as opened:
        yield opened


def copy_of_migrations(folder: Path, **more: str) -> Path:
    """The real migrations and some from the future."""
    folder.mkdir()
    for file in migration_files():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, script in more.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(script)
    return folder


def test_an_empty_file_gets_all_migrations(connection: sqlite3.Connection, path: Path) -> None:
    assert identify(connection, path) == 0
    migrate(connection, path)
    assert identify(connection, path) == len(migration_files())
    tables = set(Database(connection).table_names())
    assert {"entries", "payloads", "pruned", "refused"} <= tables
    applied = [row["name"] for row in Database(connection)["_sqlite_migrations"].rows]
    assert applied == [file.stem for file in migration_files()]
    check(connection, path)


def test_a_second_start_applies_nothing(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path)
    before = connection.total_changes
    migrate(connection, path)
    assert connection.total_changes == before


def test_an_older_file_gets_what_is_missing(
    connection: sqlite3.Connection, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection, path)
    newer = copy_of_migrations(
        tmp_path / "m", m9001_notes="CREATE TABLE notes (peer TEXT);\n-- more\nCREATE INDEX c ON notes (peer);"
    )
    monkeypatch.setattr(schema, "migrations_folder", lambda *_: newer)
    with pytest.raises(LogError, match=r"has schema 2, this version needs 3: start the appliance once"):
        check(connection, path)
    migrate(connection, path)
    assert identify(connection, path) == 3
    assert "notes" in Database(connection).table_names()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    connection: sqlite3.Connection, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection, path)
    broken = copy_of_migrations(
        tmp_path / "m", m9001_good="CREATE TABLE good (x);", m9002_bad="CREATE TABLE bad (x); SELECT nonsense;"
    )
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations_folder", lambda *_: broken)
        with pytest.raises(sqlite3.OperationalError, match="nonsense"):
            migrate(connection, path)
    assert identify(connection, path) == 2
    assert not {"good", "bad"} & set(Database(connection).table_names())


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    Store(path).close()
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    known = len(migration_files())
    with pytest.raises(
        LogError,
        match=rf"^{path} is from a newer version: its schema is 99, this one knows {known}$",
    ):
        Store(path)


def test_another_programs_database_is_refused_and_not_touched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(LogError, match="is not a flashblock log, but another program's database"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_refused_and_not_touched(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(LogError, match=rf"^cannot open {path}: it is not a SQLite database \("):
        Store(path)
    assert path.read_bytes() == b"not a database" * 1000


def test_an_empty_file_is_not_a_log_to_read(connection: sqlite3.Connection, path: Path) -> None:
    with pytest.raises(LogError, match="is not a flashblock log: it is empty"):
        check(connection, path)


def test_an_installation_without_migrations_says_so(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=f"no migrations in {tmp_path}: the installation is incomplete"):
        migration_files(tmp_path)


def test_migrations_are_numbered_without_holes() -> None:
    numbers = [int(file.name.split("_")[0]) for file in migration_files()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_wheel_carries_the_migrations_beside_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "migrations" / "flashlog"
    packaged.mkdir(parents=True)
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "schema.py"))
    assert schema.migrations_folder() == packaged


def test_a_script_is_split_at_the_ends_of_statements_only() -> None:
    script = """-- a; comment
CREATE TABLE a (x TEXT DEFAULT ';');
CREATE TRIGGER t AFTER INSERT ON a BEGIN
  DELETE FROM a;
  SELECT 1;
END;

"""
    first, second = statements(script)
    assert first.endswith("DEFAULT ';');")
    assert second.startswith("CREATE TRIGGER")
    assert second.endswith("END;")


def test_a_script_that_ends_within_a_statement_is_refused() -> None:
    with pytest.raises(LogError, match="a migration ends within a statement: SELECT 1"):
        list(statements("SELECT 0; SELECT 1"))
