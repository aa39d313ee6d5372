"""Rows of the tables as domain values: the queries that the writer and the readers share."""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding, Entry, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Record, extend_prefix
from appliance.flashlog.spans import PrunedMark, Span, Totals

SELECT_ENTRY = """
    SELECT e.position, e.payload_id, e.idx, p.block_number, e.encoding, e.body, e.checksum
    FROM entries e JOIN payloads p USING (payload_id)
"""

SELECT_RECORD = """
    SELECT e.position, e.payload_id, e.idx, p.block_number, e.encoding, e.body, e.checksum,
        e.builder, e.received_at, e.prefix
    FROM entries e JOIN payloads p USING (payload_id)
"""

SELECT_SPAN = """
    SELECT payload_id, block_number, first_position, last_position, bytes, appended_at FROM payloads
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A flashblock on its way into the log. ``received_at`` is wall clock seconds.

    ``position`` is where it was in the log that it is imported from; None is "after the last one". ``after`` is the
    prefix that the log must have at the index before; None is "whatever it has".
    """

    flashblock: Flashblock
    builder: str
    received_at: float
    position: int | None = None
    after: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Evidence: a second body for a key that was held. ``received_at`` is wall clock seconds."""

    payload_id: PayloadId
    index: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes


EntryRow = tuple[int, str, int, int, str, bytes, int]
RecordRow = tuple[int, str, int, int, str, bytes, int, str, float, bytes | None]


class DamagedError(LogError):
    """A body on disk is not the one that was appended."""


def entry_of(row: EntryRow) -> Entry:
    """One row of SELECT_ENTRY; DamagedError where the body does not have its checksum."""
    position, payload_id, index, block_number, encoding, body, checksum = row
    if zlib.crc32(body) != checksum:
        raise DamagedError(f"position {position}: the body does not have its checksum")
    return Entry(position, PayloadId(payload_id), index, block_number, body, Encoding(encoding))


def record_of(connection: sqlite3.Connection, row: RecordRow) -> Record:
    """One row of SELECT_RECORD; DamagedError where the body does not have its checksum."""
    position, payload_id, index, block_number, encoding, body, checksum, builder, received_at, prefix = row
    entry = entry_of((position, payload_id, index, block_number, encoding, body, checksum))
    if prefix is None:
        prefix = computed_prefix(connection, entry.payload_id, index)
    return Record(position, entry.payload_id, index, block_number, entry.encoding, builder, received_at, body, prefix)


def records_of(connection: sqlite3.Connection, rows: Iterable[RecordRow], max_bytes: int) -> Iterator[Record]:
    """Records until their bodies exceed ``max_bytes`` or one is damaged, but at least one: DamagedError."""
    total = 0
    for row in rows:
        try:
            record = record_of(connection, row)
        except DamagedError:
            if total:
                return
            raise
        total += len(record.body)
        if total > max_bytes and total > len(record.body):
            return
        yield record


def prefix_at(connection: sqlite3.Connection, payload_id: PayloadId, index: int) -> bytes | None:
    """The prefix through ``index``; b"" for index -1, None where the index is not held."""
    if index < 0:
        return b""
    row = connection.execute(
        "SELECT prefix FROM entries WHERE payload_id = ? AND idx = ?", (payload_id, index)
    ).fetchone()
    if row is None:
        return None
    return computed_prefix(connection, payload_id, index) if row[0] is None else bytes(row[0])


def computed_prefix(connection: sqlite3.Connection, payload_id: PayloadId, through: int) -> bytes:
    """The prefix from the bodies: for entries that an earlier version wrote."""
    prefix = b""
    for encoding, body in connection.execute(
        "SELECT encoding, body FROM entries WHERE payload_id = ? AND idx <= ? ORDER BY idx", (payload_id, through)
    ):
        prefix = extend_prefix(prefix, body, Encoding(encoding))
    return prefix


def cursor_of(connection: sqlite3.Connection, peer: str) -> Cursor | None:
    """How far ``peer``'s log was followed."""
    row = connection.execute("SELECT log_id, position FROM cursors WHERE peer = ?", (peer,)).fetchone()
    return None if row is None else Cursor(*row)


def closed_at(connection: sqlite3.Connection, payload_id: PayloadId) -> int | None:
    """The index from which a payload takes nothing more; None where it is not closed."""
    row = connection.execute("SELECT at FROM closed WHERE payload_id = ?", (payload_id,)).fetchone()
    return None if row is None else int(row[0])


def entries_of(rows: Iterable[EntryRow], max_bytes: int) -> Iterator[Entry]:
    """Entries until their bodies exceed ``max_bytes`` or one is damaged, but at least one: DamagedError."""
    total = 0
    for row in rows:
        try:
            entry = entry_of(row)
        except DamagedError:
            if total:
                return
            raise
        total += len(entry.body)
        if total > max_bytes and total > len(entry.body):
            return
        yield entry


def span_of(row: tuple[str, int, int, int, int, float] | None) -> Span | None:
    """One row of SELECT_SPAN."""
    return None if row is None else Span(PayloadId(row[0]), *row[1:])


def pruned_mark(connection: sqlite3.Connection) -> PrunedMark | None:
    """What retention removed, None if nothing yet."""
    row = connection.execute(
        "SELECT position, payload_id, block_number, idx, highest_block_number, highest_idx FROM pruned"
    ).fetchone()
    if row is None:
        return None
    return PrunedMark(row[0], PayloadId(row[1]), row[2], row[3], (row[4], row[5]))


def totals(connection: sqlite3.Connection) -> Totals:
    """What the log holds. One pass over the payloads: 10 ms for a day of one-second blocks."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM payloads"
    ).fetchone()
    return Totals(*row)


def last_position(connection: sqlite3.Connection) -> int:
    """The newest position, 0 in an empty log."""
    (position,) = connection.execute("SELECT coalesce(max(position), 0) FROM entries").fetchone()
    return int(position)
