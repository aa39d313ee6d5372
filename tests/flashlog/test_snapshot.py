"""One view of a log, also where nothing may be made beside it. How that looks to a user is in tests/cli."""

import os
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.flashlog import connection, snapshot
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.snapshot import count_entries, open_snapshot
from appliance.flashlog.store import Store
from tests.flashlog.support import flashblock, store_append


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three entries, at rest for a long time."""
    path = tmp_path / DATABASE_NAME
    with closing(Store(path)) as store:
        for payload in range(3):
            store_append(store, flashblock(payload, 0))
    os.utime(path, (1_700_000_000, 1_700_000_000))  # a write in the same tick of the kernel's clock would not show
    return path


@pytest.fixture
def _nothing_may_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite says in a folder that it may not write into, where no `-shm` is."""

    def connect_reader(path: Path, *, at_rest: bool = False) -> sqlite3.Connection:
        if at_rest:
            return connection.connect_reader(path, at_rest=True)
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY | 6 << 8  # READONLY_DIRECTORY
        raise error

    monkeypatch.setattr(snapshot, "connect_reader", connect_reader)


def add(store: Store, payload: int) -> None:
    store_append(store, flashblock(payload, 0))


@pytest.mark.usefixtures("_nothing_may_be_made")
def test_a_log_at_rest_is_read_alone(log: Path) -> None:
    with open_snapshot(log) as opened:
        assert count_entries(opened, log) == 3
    assert [path.name for path in log.parent.iterdir()] == [DATABASE_NAME]


@pytest.mark.usefixtures("_nothing_may_be_made")
def test_an_appliance_that_starts_meanwhile_is_not_seen(log: Path) -> None:
    with ExitStack() as longer:
        with open_snapshot(log) as opened:
            store = longer.enter_context(closing(Store(log)))
            add(store, 10)
            assert count_entries(opened, log) == 3
        assert log.stat().st_mtime == 1_700_000_000  # what came is in the WAL


@pytest.mark.usefixtures("_nothing_may_be_made")
def test_what_was_read_does_not_count_when_the_file_was_written_to(log: Path) -> None:
    def read_while_it_is_used() -> None:
        with open_snapshot(log) as opened, closing(Store(log)) as store:
            add(store, 10)
            assert count_entries(opened, log) == 3

    with pytest.raises(LogError, match=f"^{log} was written to while it was read: try again$"):
        read_while_it_is_used()  # the close of the store has written the WAL into the file


@pytest.mark.usefixtures("_nothing_may_be_made")
def test_nonsense_that_was_read_from_a_file_that_was_written_to_is_not_called_damage(log: Path) -> None:
    def read_while_it_changes() -> None:
        with open_snapshot(log):
            os.utime(log)
            raise LogError("the file is damaged")

    with pytest.raises(LogError, match="was written to while it was read: try again"):
        read_while_it_changes()


@pytest.mark.usefixtures("_nothing_may_be_made")
def test_entries_that_are_in_the_wal_are_not_left_out(log: Path) -> None:
    with closing(Store(log)) as store:
        add(store, 10)
        with (
            pytest.raises(LogError, match=r"its newest entries are in flashlog\.db-wal, to read which"),
            open_snapshot(log),
        ):
            pass


@pytest.mark.usefixtures("_nothing_may_be_made")
@pytest.mark.parametrize(("ending", "what"), [("wal", "are in"), ("journal", "is in")])
def test_a_link_does_not_hide_what_lies_beside_the_file(log: Path, tmp_path: Path, ending: str, what: str) -> None:
    log.with_name(f"{DATABASE_NAME}-{ending}").write_bytes(b"not empty")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "copy.db"
    link.symlink_to(log)
    for path in (log, link):
        with pytest.raises(LogError, match=rf"{what} flashlog\.db-{ending}, to read"), open_snapshot(path):
            pass


def test_what_is_wrong_otherwise_is_said_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database at all, but long enough to be looked at" * 100)
    with (
        pytest.raises(LogError, match=r"^cannot open .*/text: it is not a SQLite database"),
        open_snapshot(tmp_path / "text"),
    ):
        pass
