import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding
from appliance.flashlog import open_flashlog, verification
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.store import Store
from appliance.flashlog.verification import Report, StoredRow, Walk, verify
from tests.flashlog.support import flashblock, payload_id, real_flashblocks, store_append


def make(folder: Path, *, payloads: int = 3) -> Path:
    """A good log of text and brotli."""
    with closing(Store(folder / DATABASE_NAME)) as store:
        for payload in range(1, payloads + 1):
            for index in range(3):
                encoding = Encoding.BROTLI if payload % 2 else Encoding.TEXT
                store_append(store, flashblock(payload, index, encoding=encoding))
    return folder


def damage(folder: Path, *statements: str) -> Report:
    """Do to the file what the appliance would never do."""
    with closing(sqlite3.connect(folder / DATABASE_NAME, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return verify(folder)


def test_a_good_log_is_good(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = verify(make(tmp_path), lambda done, total: progress.append((done, total)))
    assert report.ok
    assert (report.entries, report.payloads) == (9, 3)
    assert (report.first_position, report.last_position) == (1, 9)
    assert progress[-1] == (9, 9)
    assert verify(tmp_path / DATABASE_NAME) == report


def test_real_flashblocks_are_good(tmp_path: Path) -> None:
    with closing(Store(tmp_path / DATABASE_NAME)) as store:
        for original in real_flashblocks():
            store_append(store, original)
    report = verify(tmp_path)
    assert report.ok, report.problems


async def test_a_log_in_use_can_be_verified(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log:
        await log.append(flashblock(1, 0), "a")
        report = verify(tmp_path)
        assert report.ok
        assert report.entries == 1
        await log.append(flashblock(1, 1), "a")


def test_a_log_with_retention_behind_it_is_good(tmp_path: Path) -> None:
    make(tmp_path)
    with closing(Store(tmp_path / DATABASE_NAME)) as store:
        store.apply([lambda s: s.remove_through(3)])
    report = verify(tmp_path)
    assert report.ok
    assert (report.first_position, report.entries) == (4, 6)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM entries WHERE position = 2", "position 3: payload 0x0+1 has index 2, expected 1"),
        ("DELETE FROM entries WHERE position = 3", r"its row says \(1, 3, 3, \d+\), its entries \(1, 2, 2"),
        ("UPDATE entries SET body = x'00' WHERE position = 5", "position 5: the body does not have its checksum"),
        ("UPDATE entries SET body = x'00' WHERE position = 5", "position 5: the body does not decode: "),
        ("UPDATE entries SET idx = 7 WHERE position = 5", "position 5: the body is flashblock 1 of payload 0x0+2"),
        ("UPDATE payloads SET block_number = 5 WHERE first_position = 4", "says block 1002, its payload 5"),
        ("DELETE FROM payloads WHERE first_position = 4", "payload 0x0+2: entries without a payload row"),
        ("UPDATE payloads SET bytes = bytes + 1 WHERE first_position = 4", "payload 0x0+2: its row says"),
        ("UPDATE sqlite_sequence SET seq = 4", "the next position would be 5, which is in use"),
        ("INSERT INTO pruned VALUES (1, 4, 'x', 1, 1, 1, 1)", "position 4: retention removed everything up to 4"),
        ("DROP TABLE refused", "^checking the file stopped: no such table: refused$"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, statement: str, problem: str) -> None:
    report = damage(make(tmp_path), statement)
    assert not report.ok
    assert any(re.search(problem, found) for found in report.problems), report.problems


def test_pages_of_garbage_are_reported(tmp_path: Path) -> None:
    path = make(tmp_path, payloads=30) / DATABASE_NAME
    content = bytearray(path.read_bytes())
    for page in range(5, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    report = verify(tmp_path)
    assert not report.ok
    malformed = [problem for problem in report.problems if "malformed" in problem]
    assert len(set(malformed)) == len(malformed) > 0
    assert not report.complete


def test_damage_that_stops_the_reading_is_not_taken_for_the_end(tmp_path: Path) -> None:
    report = damage(
        make(tmp_path),
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE entries SET encoding = 'gzip' WHERE position = 5",
    )
    assert report.problems[-1] == "reading the entries stopped: 'gzip' is not a valid Encoding"
    assert (report.complete, report.entries, report.last_position) == (False, 4, 4)


def test_a_file_that_cannot_be_checked_as_a_whole_is_read_all_the_same(tmp_path: Path) -> None:
    report = damage(make(tmp_path), "DROP TABLE refused")
    assert (report.ok, report.complete, report.entries, report.payloads) == (False, True, 9, 3)


def test_a_damaged_index_is_reported(tmp_path: Path) -> None:
    report = damage(
        make(tmp_path),
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX payloads_by_block ON payloads (builder, bytes)'"
        " WHERE name = 'payloads_by_block'",
    )
    assert any(problem.startswith("SQLite: ") for problem in report.problems)


def test_many_problems_are_counted_and_not_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_PROBLEMS", 4)
    report = damage(make(tmp_path), "UPDATE entries SET checksum = 0")
    assert (report.problem_count, len(report.problems)) == (9, 4)


def test_what_is_not_a_log_is_a_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=rf"^there is no flashblock log at {tmp_path}/flashlog.db$"):
        verify(tmp_path)
    (tmp_path / "text").write_text("not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(LogError, match=r"^cannot open .*/text: it is not a SQLite database"):
        verify(tmp_path / "text")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(LogError, match="is not a flashblock log: it is empty"):
        verify(tmp_path / "empty")


def row(position: int, index: int, body: bytes = b"") -> StoredRow:
    return StoredRow(position, payload_id(1), index, 1001, Encoding.TEXT, 0, body)


def test_an_end_of_payload_is_not_an_entry() -> None:
    body = f'{{"payload_id": "{payload_id(1)}"}}'.encode()
    report = Report()
    Walk(report, 0).take(row(1, 0, body))
    assert "position 1: the body is an end of payload, not a flashblock" in report.problems


def test_interleaved_payloads_are_in_order() -> None:
    report = Report()
    walk = Walk(report, 0)
    for position, (payload, index) in enumerate([(1, 0), (2, 0), (1, 1), (2, 1)], start=1):
        body = flashblock(payload, index).body
        stored = StoredRow(position, payload_id(payload), index, 1000 + payload, Encoding.TEXT, 0, body)
        walk.take(stored)
    assert [problem for problem in report.problems if "checksum" not in problem] == []
