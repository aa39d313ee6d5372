"""`appliance log verify`: whether a log keeps what it promises, looked at from outside.

SQLite's own check, then every entry in log order: its checksum, that its body is the flashblock that the row
says, and that each payload is contiguous; last, that the payload rows agree with what was seen.
"""

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding, EndOfPayload
from appliance.domain.replicas import extend_prefix
from appliance.flashlog import rows
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.snapshot import open_snapshot
from appliance.wire.flashblock import decode

MAX_PROBLEMS = 100
"""Problems that a report lists; more are only counted."""

Progress = Callable[[int, int], None]
"""Called now and then with how much is done and how much there is, in the unit of the command."""

PROGRESS_EVERY = 1000


def silent(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(slots=True)
class Report:
    """What `verify` found. ``problems`` has one line each. Unless ``complete``, reading the entries had to stop."""

    entries: int = 0
    payloads: int = 0
    first_position: int = 0
    last_position: int = 0
    refused: int = 0
    complete: bool = False
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def add(self, problem: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One entry as it is stored, its payload's block number with it (None where the payload row is missing)."""

    position: int
    payload_id: str
    index: int
    block_number: int | None
    encoding: Encoding
    checksum: int
    body: bytes
    prefix: bytes | None = None


@dataclass(slots=True)
class _Seen:
    first_position: int
    last_position: int
    prefix: bytes = b""
    entries: int = 0
    bytes: int = 0


class Walk:
    """The pure part: takes entries in log order and notes what does not add up."""

    def __init__(self, report: Report, pruned_through: int) -> None:
        self._report = report
        self._pruned_through = pruned_through
        self._seen: dict[str, _Seen] = {}

    def take(self, row: StoredRow) -> None:
        """Check one entry against itself and against what came before."""
        report = self._report
        report.entries += 1
        report.first_position = report.first_position or row.position
        report.last_position = row.position
        if row.position <= self._pruned_through:
            report.add(f"position {row.position}: retention removed everything up to {self._pruned_through}")
        self._check_order(row)
        for problem in body_problems(row):
            report.add(f"position {row.position}: {problem}")

    def _check_order(self, row: StoredRow) -> None:
        seen = self._seen.setdefault(row.payload_id, _Seen(row.position, row.position))
        if row.index != seen.entries:
            self._report.add(
                f"position {row.position}: payload {row.payload_id} has index {row.index}, expected {seen.entries}"
            )
        seen.prefix = extend_prefix(seen.prefix, row.body, row.encoding)
        if row.prefix not in (None, seen.prefix):  # an earlier version wrote none
            self._report.add(f"position {row.position}: the prefix is not that of the bodies up to it")
        seen.entries = row.index + 1
        seen.last_position = row.position
        seen.bytes += len(row.body) + ENTRY_OVERHEAD_BYTES

    def take_payload(self, payload_id: str, facts: tuple[int, int, int, int]) -> None:
        """Check a payload row: (first position, last position, entries, bytes)."""
        self._report.payloads += 1
        seen = self._seen.pop(payload_id, None)
        found = (seen.first_position, seen.last_position, seen.entries, seen.bytes) if seen else None
        if found != facts:
            self._report.add(f"payload {payload_id}: its row says {facts}, its entries {found}")

    def finish(self) -> None:
        """Note entries without a payload row."""
        for payload_id in self._seen:
            self._report.add(f"payload {payload_id}: entries without a payload row")

    def take_closed(self, payload_id: str, at: int, entries: int) -> None:
        """Check a tombstone against how many entries its payload has."""
        if entries > at:
            self._report.add(f"payload {payload_id}: closed at index {at}, but it has {entries} entries")


def body_problems(row: StoredRow) -> Iterator[str]:
    """What is wrong with the body of one entry."""
    if zlib.crc32(row.body) != row.checksum:
        yield "the body does not have its checksum"
    try:
        flashblock = decode(row.body, row.encoding)
    except DecodeError as error:
        yield f"the body does not decode: {error}"
        return
    if isinstance(flashblock, EndOfPayload):
        yield "the body is an end of payload, not a flashblock"
    elif (flashblock.payload_id, flashblock.index) != (row.payload_id, row.index):
        yield f"the body is flashblock {flashblock.index} of payload {flashblock.payload_id}"
    elif flashblock.block_number not in (None, row.block_number):
        yield f"the body says block {flashblock.block_number}, its payload {row.block_number}"


def verify(path: Path, progress: Progress = silent) -> Report:
    """Check the log in ``path`` (its folder or its file), also while it is being written to.

    Damage becomes problems of the report. LogError is for what is not a log at all.
    """
    report = Report()
    with open_snapshot(path) as connection:
        with _damage_reported(report, "checking the file"):
            _check_file(connection, report)
        with _damage_reported(report, "reading the entries"):
            _check_entries(connection, report, progress)
            report.complete = True
    return report


@contextlib.contextmanager
def _damage_reported(report: Report, doing: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # damage can also show as a wrong type
        report.add(f"{doing} stopped: {error}")


def _check_file(connection: sqlite3.Connection, report: Report) -> None:
    for (line,) in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})"):
        if line != "ok":
            report.add(f"SQLite: {line}")
    (sequence,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
    if sequence < rows.last_position(connection):
        report.add(f"the next position would be {sequence + 1}, which is in use")
    (log_id, committed) = connection.execute("SELECT log_id, coalesce(committed, 0) FROM replication").fetchone()
    if not log_id:
        report.add("the log has no id")
    if sequence < committed:
        report.add(f"it is committed through {committed}, but no position is after {sequence}")
    (report.refused,) = connection.execute("SELECT count(*) FROM refused").fetchone()


def _check_entries(connection: sqlite3.Connection, report: Report, progress: Progress) -> None:
    mark = rows.pruned_mark(connection)
    walk = Walk(report, mark.position if mark else 0)
    (total,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    for row in _stored_rows(connection):
        walk.take(row)
        if report.entries % PROGRESS_EVERY == 0:
            progress(report.entries, total)
    for payload_id, *facts in connection.execute(
        "SELECT payload_id, first_position, last_position, entries, bytes FROM payloads"
    ):
        walk.take_payload(payload_id, (facts[0], facts[1], facts[2], facts[3]))
    walk.finish()
    for payload_id, at, entries in connection.execute(
        "SELECT payload_id, c.at, p.entries FROM closed c JOIN payloads p USING (payload_id)"
    ):
        walk.take_closed(payload_id, at, entries)
    progress(report.entries, total)


def _stored_rows(connection: sqlite3.Connection) -> Iterator[StoredRow]:
    for position, payload_id, index, number, encoding, checksum, body, prefix in connection.execute(
        "SELECT e.position, e.payload_id, e.idx, p.block_number, e.encoding, e.checksum, e.body, e.prefix"
        " FROM entries e LEFT JOIN payloads p USING (payload_id) ORDER BY e.position"
    ):
        yield StoredRow(position, payload_id, index, number, Encoding(encoding), checksum, body, prefix)
