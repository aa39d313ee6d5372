"""Retention by hand."""

import io
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.flashlog import RetentionLimits, open_flashlog
from appliance.flashlog.connection import FolderLock
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import backup, export_to, verify
from appliance.flashlog.pruning import prune
from appliance.flashlog.replica_jobs import begin
from appliance.flashlog.snapshot import count_entries, open_snapshot
from appliance.flashlog.store import Removed, Store
from tests.flashlog.support import flashblock, store_append

PAYLOADS = 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Payload n came at second n."""
    with closing(Store(tmp_path / DATABASE_NAME)) as store:
        for payload in range(PAYLOADS):
            for index in range(2):
                store_append(store, flashblock(payload, index, size=2000), now=float(payload))
    return tmp_path


def hours(count: float) -> RetentionLimits:
    return RetentionLimits(max_age_s=count * 3600, max_bytes=None, slack_bytes=0)


def test_what_is_too_old_goes_and_so_does_its_room(folder: Path) -> None:
    path = folder / DATABASE_NAME
    before = path.stat().st_size
    said = prune(path, hours(0.01), now=PAYLOADS, dry_run=True)
    assert path.stat().st_size == before
    removed = prune(folder, hours(0.01), now=PAYLOADS)
    assert removed == said
    assert (removed.payloads, removed.entries) == (PAYLOADS - 36, 2 * (PAYLOADS - 36))
    assert path.stat().st_size < before / 3
    report = verify(folder)
    assert report.ok, report.problems
    assert report.entries == 2 * 36


def test_what_is_too_much_goes_but_never_the_newest(folder: Path) -> None:
    removed = prune(folder, RetentionLimits(max_age_s=None, max_bytes=0, slack_bytes=0), now=0)
    assert removed.payloads == PAYLOADS - 1
    assert verify(folder).entries == 2
    assert prune(folder, RetentionLimits(max_age_s=None, max_bytes=0), now=0) == Removed()


def test_nothing_goes_where_nothing_is_due(folder: Path) -> None:
    assert prune(folder, hours(24), now=PAYLOADS) == Removed()


async def test_a_log_in_use_is_left_alone(folder: Path) -> None:
    async with open_flashlog(folder):
        with pytest.raises(LogError, match="is in use by another process"):
            prune(folder, hours(0), now=PAYLOADS)
        assert prune(folder, hours(0), now=PAYLOADS, dry_run=True).payloads == PAYLOADS - 1


def test_pruning_leaves_a_replicated_log_replicated(folder: Path) -> None:
    with closing(Store(folder / DATABASE_NAME)) as store:
        store.apply([lambda s: begin(s, replicated=True)])
        store_append(store, flashblock(999, 0), now=float(PAYLOADS))
    prune(folder, hours(0.01), now=PAYLOADS)
    with closing(Store(folder / DATABASE_NAME)) as store:
        (committed,) = store.apply([lambda s: begin(s, replicated=True)])
    assert committed == 2 * PAYLOADS  # what was not committed still is not


def exports(*paths: Path) -> list[bytes]:
    """All that each file holds."""
    streams = [io.BytesIO() for _ in paths]
    for path, stream in zip(paths, streams, strict=True):
        export_to(path, stream)
    return [stream.getvalue() for stream in streams]


def test_a_copy_is_pruned_and_the_log_beside_it_is_not_even_while_it_is_in_use(folder: Path) -> None:
    log, copy = folder / DATABASE_NAME, folder / "copy.db"
    backup(log, copy)
    (before,) = exports(log)
    lock = FolderLock(folder)
    said = prune(copy, hours(0.01), now=PAYLOADS, dry_run=True)
    assert prune(copy, hours(0.01), now=PAYLOADS) == said
    assert said.entries == 2 * (PAYLOADS - 36)
    lock.release()
    assert exports(log) == [before]
    assert verify(copy).entries == 2 * 36
    assert verify(copy).ok


def test_pruning_a_copy_makes_nothing_beside_it(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    backup(folder, alone / "copy.db")
    assert prune(alone / "copy.db", hours(0.01), now=PAYLOADS).payloads == PAYLOADS - 36
    assert verify(alone / "copy.db").ok
    assert [path.name for path in alone.iterdir()] == ["copy.db"]


def test_a_copy_that_is_being_read_is_pruned_and_stays_in_wal_mode(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.flashlog.connection.BUSY_TIMEOUT_S", 0.01)
    copy = tmp_path / "copy.db"
    with closing(Store(folder / DATABASE_NAME)) as store:
        store.connection.execute("VACUUM INTO ?", (str(copy),))
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    with open_snapshot(copy) as reading:
        assert prune(copy, hours(0.01), now=PAYLOADS).payloads == PAYLOADS - 36
        assert count_entries(reading, copy) == 2 * PAYLOADS
    assert verify(copy).entries == 2 * 36


def test_a_link_is_the_log_that_it_leads_to_and_so_is_its_lock(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "link.db"
    link.symlink_to(folder / DATABASE_NAME)
    lock = FolderLock(folder)
    with pytest.raises(LogError, match=f"^the flashblock log in {folder} is in use by another process"):
        prune(link, hours(0), now=PAYLOADS)
    lock.release()
    assert prune(link, hours(0.01), now=PAYLOADS).payloads == PAYLOADS - 36
    assert verify(folder).entries == 2 * 36
    assert [path.name for path in elsewhere.iterdir()] == ["link.db"]


def test_an_appliance_whose_log_is_a_link_has_its_lock_where_the_link_is(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / DATABASE_NAME).symlink_to(folder / DATABASE_NAME)
    lock = FolderLock(elsewhere)
    with pytest.raises(LogError, match=f"^the flashblock log in {elsewhere} is in use by another process"):
        prune(elsewhere, hours(0), now=PAYLOADS)
    lock.release()
    assert prune(elsewhere, hours(0.01), now=PAYLOADS).payloads == PAYLOADS - 36


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_not_a_log_is_refused_and_left_as_it_is(tmp_path: Path, *, dry_run: bool) -> None:
    empty, text = tmp_path / "empty.db", tmp_path / "text.db"
    empty.touch()
    text.write_text("something that somebody wrote, and longer than the header of a database" * 10)
    with pytest.raises(LogError, match=r"empty\.db is not a flashblock log: it is empty"):
        prune(empty, hours(0), now=0, dry_run=dry_run)
    with pytest.raises(LogError, match=r"^cannot open .*text\.db: it is not a SQLite database"):
        prune(text, hours(0), now=0, dry_run=dry_run)
    with pytest.raises(LogError, match=r"^there is no flashblock log at .*none\.db$"):
        prune(tmp_path / "none.db", hours(0), now=0, dry_run=dry_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "text.db"]
    assert empty.read_bytes() == b""
    assert text.read_text().startswith("something")
