"""The reading side of flashlog.db: synchronous, one read-only connection, used by one thread at a time."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

from appliance.domain.errors import PrunedError
from appliance.domain.flashblocks import Encoding, Entry
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import Located, Resume
from appliance.domain.replicas import Cursor, Record
from appliance.flashlog import rows
from appliance.flashlog.connection import connect_reader, transaction, translated
from appliance.flashlog.contiguity import GREATEST_NUMBER
from appliance.flashlog.locate import Oldest, locate
from appliance.flashlog.rows import DamagedError, Refused
from appliance.flashlog.spans import PayloadRecord, PrunedMark, Space, Span, Totals


class Reader:
    """Queries on one snapshot each. ``head`` bounds what they see: entries after it do not exist yet.

    On a ``connection`` that is given, all that need no transaction of their own see its snapshot.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection | None = None) -> None:
        self.path = path
        with translated("open", path):
            self._connection = connection or connect_reader(path)

    def __repr__(self) -> str:
        return f"<Reader {self.path}>"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def read(self, after: int, head: int, limit: int, max_bytes: int) -> list[Entry]:
        """Entries after ``after``, at most ``limit`` and ``max_bytes`` but one at least; PrunedError if one is gone."""
        with translated("read", self.path), transaction(self._connection, "DEFERRED"):
            mark = rows.pruned_mark(self._connection)
            if mark is not None and after < mark.position:
                oldest = SqlIndex(self._connection, head).oldest()
                raise PrunedError(f"position {after} is not in the log any more", oldest.key if oldest else None)
            found = self._connection.execute(
                f"{rows.SELECT_ENTRY} WHERE e.position > ? AND e.position <= ? ORDER BY e.position LIMIT ?",
                (after, head, limit),
            )
            return list(rows.entries_of(found, max_bytes))

    def records(self, after: int, through: int, limit: int, max_bytes: int) -> list[Record]:
        """Like `read`, with all that another host needs of an entry."""
        with translated("read", self.path), transaction(self._connection, "DEFERRED"):
            mark = rows.pruned_mark(self._connection)
            if mark is not None and after < mark.position:
                oldest = SqlIndex(self._connection, through).oldest()
                raise PrunedError(f"position {after} is not in the log any more", oldest.key if oldest else None)
            found = self._connection.execute(
                f"{rows.SELECT_RECORD} WHERE e.position > ? AND e.position <= ? ORDER BY e.position LIMIT ?",
                (after, through, limit),
            )
            return list(rows.records_of(self._connection, found, max_bytes))

    def record(self, payload_id: PayloadId, index: int) -> Record | None:
        """One entry by its key, committed or not."""
        with translated("read", self.path), transaction(self._connection, "DEFERRED"):
            row = self._connection.execute(
                f"{rows.SELECT_RECORD} WHERE e.payload_id = ? AND e.idx = ?", (payload_id, index)
            ).fetchone()
            return None if row is None else rows.record_of(self._connection, row)

    def log_id(self) -> str:
        """The id of this file among the logs of all hosts."""
        with translated("read", self.path):
            (log_id,) = self._connection.execute("SELECT log_id FROM replication").fetchone()
            return str(log_id)

    def cursor_of(self, peer: str) -> Cursor | None:
        """How far ``peer``'s log was followed."""
        with translated("read", self.path):
            return rows.cursor_of(self._connection, peer)

    def closed_at(self, payload_id: PayloadId) -> int | None:
        """The index from which a payload takes nothing more; None where it is not closed."""
        with translated("read", self.path):
            return rows.closed_at(self._connection, payload_id)

    def recovering(self) -> bool:
        """Whether this log has not voted yet."""
        with translated("read", self.path):
            (found,) = self._connection.execute("SELECT recovering FROM replication").fetchone()
            return bool(found)

    def given_through(self) -> int:
        """The last position that was ever given; 0 in a log that never held anything."""
        with translated("read", self.path):
            row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
            return int(row[0]) if row else 0

    def closed(self) -> list[tuple[PayloadId, int]]:
        """Every tombstone, oldest first; the store bounds them."""
        with translated("read", self.path):
            found = self._connection.execute("SELECT payload_id, at FROM closed ORDER BY id")
            return [(PayloadId(row[0]), row[1]) for row in found]

    def settled(self, limit: int) -> list[tuple[PayloadId, PayloadState, str | None]]:
        """What became of the newest ``limit`` payloads that are no longer being built, in log order."""
        with translated("read", self.path):
            found = self._connection.execute(
                "SELECT payload_id, state, block_hash FROM payloads WHERE state <> 'building'"
                " ORDER BY first_position DESC LIMIT ?",
                (limit,),
            ).fetchall()
            return [(PayloadId(row[0]), PayloadState(row[1]), row[2]) for row in reversed(found)]

    def locate(self, resume: Resume, head: int) -> Located:
        """Where ``resume`` goes on, by the rule of the module `locate`."""
        with translated("read", self.path), transaction(self._connection, "DEFERRED"):
            return locate(SqlIndex(self._connection, head), resume)

    def newest(self, limit: int, max_bytes: int) -> list[Entry]:
        """The last entries, in log order; only those behind a damaged one, which must not prevent a start."""
        with translated("read", self.path), contextlib.suppress(DamagedError):
            found = self._connection.execute(f"{rows.SELECT_ENTRY} ORDER BY e.position DESC LIMIT ?", (limit,))
            return list(rows.entries_of(found, max_bytes))[::-1]
        return []

    def head(self) -> int:
        """The newest position, 0 in an empty log."""
        with translated("read", self.path):
            return rows.last_position(self._connection)

    def totals(self) -> Totals:
        """What the log holds."""
        with translated("read", self.path):
            return rows.totals(self._connection)

    def mark(self) -> PrunedMark | None:
        """What retention removed, None if nothing yet."""
        with translated("read", self.path):
            return rows.pruned_mark(self._connection)

    def oldest_spans(self, limit: int) -> list[Span]:
        """The first ``limit`` payloads by first position."""
        with translated("read", self.path):
            found = self._connection.execute(f"{rows.SELECT_SPAN} ORDER BY first_position LIMIT ?", (limit,))
            return [Span(PayloadId(row[0]), *row[1:]) for row in found]

    def payload(self, payload_id: PayloadId) -> PayloadRecord | None:
        """What the log knows about one payload."""
        with translated("read", self.path):
            row = self._connection.execute(
                "SELECT payload_id, block_number, builder, state, block_hash, entries, opened_at, appended_at,"
                " sealed_at, ended_at FROM payloads WHERE payload_id = ?",
                (payload_id,),
            ).fetchone()
        return None if row is None else PayloadRecord(row[0], row[1], row[2], PayloadState(row[3]), *row[4:])

    def unfinished(self, limit: int) -> list[Entry]:
        """The last entry of each payload that neither landed nor was dropped; the newest ``limit``, in log order."""
        with translated("read", self.path):
            found = self._connection.execute(
                f"{rows.SELECT_ENTRY} WHERE p.state IN ('building', 'sealed') AND e.position = p.last_position"
                " ORDER BY e.position DESC LIMIT ?",
                (limit,),
            ).fetchall()
            return [rows.entry_of(row) for row in reversed(found)]

    def evidence(self) -> list[Refused]:
        """All refused bodies that are kept, oldest first; the store bounds them."""
        with translated("read", self.path):
            found = self._connection.execute(
                "SELECT payload_id, idx, encoding, builder, received_at, body FROM refused ORDER BY id"
            )
            return [Refused(row[0], row[1], Encoding(row[2]), *row[3:]) for row in found]

    def space(self) -> Space:
        """Pages of the file and how many of them are free."""
        with translated("read", self.path):
            return Space(*(self._pragma(name) for name in ("page_size", "page_count", "freelist_count")))

    def _pragma(self, name: str) -> int:
        (value,) = self._connection.execute(f"PRAGMA {name}").fetchone()
        return int(value)


class SqlIndex:
    """The log as the rule of `locate` sees it."""

    def __init__(self, connection: sqlite3.Connection, head: int) -> None:
        self.head = head
        self._connection = connection

    def pruned(self) -> PrunedMark | None:
        return rows.pruned_mark(self._connection)

    def oldest(self) -> Oldest | None:
        row = self._connection.execute(
            "SELECT first_position, block_number FROM payloads WHERE first_position <= ?"
            " ORDER BY first_position LIMIT 1",
            (self.head,),
        ).fetchone()
        return None if row is None else Oldest(row[0], (row[1], 0))

    def newest(self) -> Span | None:
        return self._span(
            "WHERE payload_id = (SELECT payload_id FROM entries WHERE position <= ? ORDER BY position DESC LIMIT 1)",
            self.head,
        )

    def payload(self, payload_id: PayloadId) -> Span | None:
        if not payload_id.isascii():  # it came from a URL; what is not UTF-8 cannot even be asked for
            return None
        return self._span("WHERE payload_id = ? AND first_position <= ?", payload_id, self.head)

    def waiting(self, payload_id: PayloadId) -> int | None:
        if not payload_id.isascii():
            return None
        row = self._connection.execute(
            "SELECT block_number FROM payloads WHERE payload_id = ? AND first_position > ?", (payload_id, self.head)
        ).fetchone()
        return None if row is None else int(row[0])

    def _span(self, where: str, *values: object) -> Span | None:
        span = rows.span_of(self._connection.execute(f"{rows.SELECT_SPAN} {where}", values).fetchone())
        if span is None or span.last_position <= self.head:
            return span
        visible = self._position(
            "SELECT max(position) FROM entries WHERE payload_id = ? AND position <= ?",
            span.payload_id,
            self.head,
        )
        return replace(span, last_position=visible or span.first_position)

    def position_of(self, payload_id: PayloadId, index: int) -> int | None:
        return self._position(
            "SELECT max(position) FROM entries WHERE payload_id = ? AND idx = ? AND position <= ?",
            payload_id,
            _clamp(index),
            self.head,
        )

    def first_position_of(self, key: tuple[int, int]) -> int | None:
        return self._position(
            "SELECT min(e.position) FROM payloads p JOIN entries e USING (payload_id)"
            " WHERE p.block_number = ? AND e.idx = ? AND e.position <= ?",
            *_clamped(key),
            self.head,
        )

    def first_position_beyond(self, key: tuple[int, int]) -> int | None:
        block_number, index = _clamped(key)
        # Left to itself SQLite walks payloads_by_position for min(): all payloads, to find that none is beyond.
        return self._position(
            "SELECT min(position) FROM ("
            " SELECT min(e.position) AS position FROM payloads p JOIN entries e USING (payload_id)"
            " WHERE p.block_number = ?1 AND e.idx > ?2 AND e.position <= ?3"
            " UNION ALL"
            " SELECT min(first_position) FROM payloads INDEXED BY payloads_by_block"
            " WHERE block_number > ?1 AND first_position <= ?3)",
            block_number,
            index,
            self.head,
        )

    def _position(self, query: str, *values: object) -> int | None:
        (position,) = self._connection.execute(query, values).fetchone()
        return None if position is None else int(position)


def _clamped(key: tuple[int, int]) -> tuple[int, int]:
    """Numbers that a subscriber wrote into a URL, within what SQLite can compare."""
    block_number, index = key
    return _clamp(block_number), _clamp(index)


def _clamp(number: int) -> int:
    return max(-1, min(number, GREATEST_NUMBER))
