import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.flashlog.connection import (
    FolderLock,
    configure_writer,
    connect,
    connect_reader,
    transaction,
    translated,
)


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_the_writer_puts_every_commit_on_disk(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a.db")) as connection:
        configure_writer(connection, tmp_path / "a.db")
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL
        assert pragma(connection, "auto_vacuum") == 2  # INCREMENTAL
        assert pragma(connection, "secure_delete") == 0


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "with space, ? and #.db"
    with closing(connect(path)) as writer:
        configure_writer(writer, path)
        writer.execute("CREATE TABLE t (x)")
        with closing(connect_reader(path)) as reader:
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
            refused = pytest.raises(LogError, match=r"cannot write .*: it is not writable \(attempt to write a")
            with refused, translated("write", path):
                reader.execute("INSERT INTO t VALUES (1)")


def test_a_reader_does_not_create_the_file(tmp_path: Path) -> None:
    refused = pytest.raises(LogError, match=r"cannot open .*: it cannot be opened")
    with refused, translated("open", tmp_path / "none.db"):
        connect_reader(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def insert_and_fail(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (1)")
        raise KeyError


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
        with pytest.raises(KeyError):
            insert_and_fail(connection)
        assert not connection.in_transaction
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_lock_of_another_program_is_the_worlds_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.flashlog.connection.BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "a.db"
    with closing(connect(path)) as ours, closing(connect(path)) as theirs:
        theirs.execute("BEGIN IMMEDIATE")
        refused = pytest.raises(LogError, match="another program holds a lock on it")
        with refused, translated("write", path), transaction(ours):
            pass
        theirs.execute("ROLLBACK")
        with translated("write", path), transaction(ours):
            ours.execute("CREATE TABLE t (x)")


def test_a_mistake_in_our_sql_is_not_the_worlds_fault(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a.db")) as connection:
        raised = pytest.raises(sqlite3.OperationalError, match="no such table")
        with raised, translated("write", tmp_path / "a.db"):
            connection.execute("SELECT * FROM missing")


def test_errors_of_the_operating_system_are_the_worlds_fault(tmp_path: Path) -> None:
    refused = pytest.raises(LogError, match=r"^cannot open /x: No such file or directory$")
    with refused, translated("open", Path("/x")):
        (tmp_path / "none").read_bytes()


def test_a_folder_is_locked_by_one_and_says_by_whom(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(
        LogError,
        match=rf"^the flashblock log in {tmp_path} is in use by another process \({os.getpid()}\)$",
    ):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_a_folder_is_locked_against_other_processes_until_they_end(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from appliance.flashlog.connection import FolderLock;"
        f"lock = FolderLock(pathlib.Path({str(tmp_path)!r})); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(LogError, match=rf"in use by another process \({other.pid}\)"):
            FolderLock(tmp_path)
        other.kill()
    FolderLock(tmp_path).release()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"cannot open .*flashlog\.lock: No such file or directory"):
        FolderLock(tmp_path / "none")
