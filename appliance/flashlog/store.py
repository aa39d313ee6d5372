"""The writing side of flashlog.db: synchronous, one connection, used by one thread at a time.

Nothing that decides is kept in memory between transactions: after a failed one there is nothing to undo.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import EquivocationError, LogError
from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.replicas import Record, extend_prefix
from appliance.flashlog import rows
from appliance.flashlog.connection import PAGE_BYTES, configure_writer, connect, transaction, translated
from appliance.flashlog.contiguity import HeldPayload, admit, check_transition
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.rows import Arrival, Refused
from appliance.flashlog.schema import identify, migrate

MAX_REFUSED = 256
MAX_REFUSED_BYTES = 32 * 2**20
MAX_REFUSED_PER_KEY = 4
"""Bounds of the evidence. A flood on one key keeps the first four; when all is full the oldest goes."""

CHECKPOINT_BYTES = 8 * 2**20
"""Written since the last one, about: then the writer copies the WAL into the file as soon as it is idle, 5 to 20 ms.
SQLite does that by itself at 16 MiB, but within a commit: somebody would wait for it."""

TRANSACTION_BYTES = 32 * 2**10
"""What a transaction writes to the WAL beside the bodies: some eight pages, of the tables and their indices."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The entry of a flashblock; ``new`` is False where the log held the same body already."""

    record: Record
    new: bool

    @property
    def entry(self) -> Entry:
        """What subscribers see of it."""
        return self.record.entry


@dataclass(frozen=True, slots=True)
class Removed:
    """What one step of retention took out."""

    payloads: int = 0
    entries: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.payloads + other.payloads, self.entries + other.entries, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class StateSet:
    """A payload's state as it is now recorded; ``changed`` is False where it was so before."""

    payload_id: PayloadId
    state: PayloadState
    block_hash: str | None
    changed: bool


Work = Callable[["Store"], object]
"""One job inside a transaction. It may raise LogError: that is its outcome, and what it wrote stays."""


class Store:
    """Append, states, retention and evidence on one SQLite connection."""

    def __init__(self, path: Path) -> None:
        """Open and migrate; raises LogError where the file is not ours, newer, damaged or locked."""
        self.path = path
        self._since_checkpoint = 0
        with translated("open", path):
            self.connection = connect(path)
            try:
                identify(self.connection, path)
                configure_writer(self.connection, path)
                migrate(self.connection, path)
            except BaseException:
                self.connection.close()
                raise

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def close(self) -> None:
        """Checkpoint what is left and close."""
        with translated("close", self.path):
            self.connection.close()

    def apply(self, jobs: Sequence[Work]) -> list[object]:
        """Run all jobs in one transaction and return their outcomes, LogErrors included, once it is on disk.

        Raises LogError when the transaction failed: then no job has happened.
        """
        self._since_checkpoint += TRANSACTION_BYTES
        with translated("write", self.path), transaction(self.connection):
            return [self._attempt(job) for job in jobs]

    def _attempt(self, job: Work) -> object:
        try:
            return job(self)
        except LogError as error:
            return error

    # --- jobs: to be called within `apply` ---

    def append(self, arrival: Arrival) -> Appended:
        """Append, or find the same entry; EquivocationError (with evidence kept), OutOfOrderError."""
        flashblock = arrival.flashblock
        number = admit(self.held(flashblock.payload_id), flashblock)
        if number is None:
            return Appended(self._same_entry(arrival), new=False)
        before = rows.prefix_at(self.connection, flashblock.payload_id, flashblock.index - 1) or b""
        self._check_branch(arrival, before)
        return self.insert(arrival, number, extend_prefix(before, flashblock.body, flashblock.encoding))

    def _check_branch(self, arrival: Arrival, before: bytes) -> None:
        """Another host's branch may have taken the place of what this one is to follow; a payload may be closed."""
        payload_id, index = arrival.flashblock.payload_id, arrival.flashblock.index
        closed = rows.closed_at(self.connection, payload_id)
        if closed is not None and index >= closed:
            self.keep_evidence(refused_of(arrival))
            raise EquivocationError(f"payload {payload_id} was closed at index {closed}: no body can have a majority")
        if arrival.after is not None and arrival.after != before:
            self.keep_evidence(refused_of(arrival))
            raise EquivocationError(
                f"flashblock {index} of payload {payload_id} from {arrival.builder}: the log holds another branch of it"
            )

    def held(self, payload_id: PayloadId) -> HeldPayload | None:
        """What is held of one payload."""
        row = self.connection.execute(
            "SELECT block_number, entries FROM payloads WHERE payload_id = ?", (payload_id,)
        ).fetchone()
        return HeldPayload(*row) if row else None

    def insert(self, arrival: Arrival, number: int, prefix: bytes) -> Appended:
        """Insert what was found to follow, in a payload of block ``number``."""
        position = self._insert_entry(arrival, prefix)
        self._count_in_payload(arrival, number, position)
        return Appended(_record(arrival, position, number, prefix), new=True)

    def _insert_entry(self, arrival: Arrival, prefix: bytes) -> int:
        flashblock = arrival.flashblock
        self._since_checkpoint += len(flashblock.body)
        cursor = self.connection.execute(
            "INSERT INTO entries (position, payload_id, idx, encoding, builder, received_at, checksum, body, prefix)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._free_position(arrival.position),
                flashblock.payload_id,
                flashblock.index,
                flashblock.encoding.value,
                arrival.builder,
                arrival.received_at,
                zlib.crc32(flashblock.body),
                flashblock.body,
                prefix,
            ),
        )
        return int(cursor.lastrowid or 0)

    def _free_position(self, wanted: int | None) -> int | None:
        """An imported entry keeps its position where that is still ahead; NULL is the next one."""
        if wanted is None or wanted <= rows.last_position(self.connection):
            return None
        return wanted

    def _count_in_payload(self, arrival: Arrival, block_number: int, position: int) -> None:
        flashblock = arrival.flashblock
        size = len(flashblock.body) + ENTRY_OVERHEAD_BYTES
        self.connection.execute(
            "INSERT INTO payloads (payload_id, block_number, builder, state, first_position, last_position,"
            " entries, bytes, opened_at, appended_at)"
            " VALUES (?1, ?2, ?3, 'building', ?4, ?4, 1, ?5, ?6, ?6)"
            " ON CONFLICT (payload_id) DO UPDATE SET last_position = ?4, entries = entries + 1,"
            " bytes = bytes + ?5, appended_at = ?6",
            (flashblock.payload_id, block_number, arrival.builder, position, size, arrival.received_at),
        )

    def _same_entry(self, arrival: Arrival) -> Record:
        flashblock = arrival.flashblock
        row = self.connection.execute(
            f"{rows.SELECT_RECORD} WHERE e.payload_id = ? AND e.idx = ?",
            (flashblock.payload_id, flashblock.index),
        ).fetchone()
        record = rows.record_of(self.connection, row)
        if record.body != flashblock.body or record.encoding is not flashblock.encoding:
            self.keep_evidence(refused_of(arrival))
            raise EquivocationError(
                f"flashblock {flashblock.index} of payload {flashblock.payload_id} from {arrival.builder}: "
                f"another body is held at position {record.position}"
            )
        return record

    def keep_evidence(self, refused: Refused) -> None:
        """Keep a body that was not taken, or that had to go, within the bounds."""
        (kept,) = self.connection.execute(
            "SELECT count(*) FROM refused WHERE payload_id = ? AND idx = ?",
            (refused.payload_id, refused.index),
        ).fetchone()
        if kept >= MAX_REFUSED_PER_KEY:
            return
        self.connection.execute(
            "INSERT INTO refused (payload_id, idx, encoding, builder, received_at, digest, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                refused.payload_id,
                refused.index,
                refused.encoding.value,
                refused.builder,
                refused.received_at,
                hashlib.sha256(refused.encoding.value.encode() + refused.body).digest(),
                refused.body,
            ),
        )
        self._bound_evidence()

    def _bound_evidence(self) -> None:
        self.connection.execute(
            "DELETE FROM refused WHERE id IN (SELECT id FROM (SELECT id, count(*) OVER newer AS number,"
            " sum(length(body)) OVER newer AS bytes FROM refused WINDOW newer AS (ORDER BY id DESC))"
            " WHERE number > ? OR bytes > ?)",
            (MAX_REFUSED, MAX_REFUSED_BYTES),
        )

    def set_state(self, payload_id: PayloadId, state: PayloadState, block_hash: str | None, now: float) -> StateSet:
        """Move a payload on; LogError where it is unknown or the step is not allowed."""
        row = self.connection.execute("SELECT state FROM payloads WHERE payload_id = ?", (payload_id,)).fetchone()
        if row is None:
            raise LogError(f"payload {payload_id} is not in the log")
        check_transition(payload_id, PayloadState(row[0]), state)
        self.connection.execute(
            "UPDATE payloads SET state = ?1, block_hash = coalesce(?2, block_hash),"
            " sealed_at = CASE WHEN ?1 = 'sealed' THEN coalesce(sealed_at, ?3) ELSE sealed_at END,"
            " ended_at = CASE WHEN ?1 IN ('landed', 'dropped') AND state <> ?1 THEN ?3 ELSE ended_at END"
            " WHERE payload_id = ?4",
            (state.value, block_hash, now, payload_id),
        )
        return StateSet(payload_id, state, block_hash, changed=row[0] != state.value)

    def remove_through(self, cut: int) -> Removed:
        """Remove whole payloads up to position ``cut``; nothing if that would touch or split a later one."""
        if not self._is_clean(cut):
            return Removed()
        row = self.connection.execute(
            "SELECT count(*), coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM payloads"
            " WHERE first_position <= ?",
            (cut,),
        ).fetchone()
        if row[0]:
            self._move_mark(cut)
            self.connection.execute("DELETE FROM entries WHERE position <= ?", (cut,))
            self.connection.execute("DELETE FROM payloads WHERE first_position <= ?", (cut,))
        return Removed(*row)

    def _is_clean(self, cut: int) -> bool:
        (split, newer) = self.connection.execute(
            "SELECT EXISTS (SELECT 1 FROM payloads WHERE first_position <= ?1 AND last_position > ?1),"
            " EXISTS (SELECT 1 FROM payloads WHERE first_position > ?1)",
            (cut,),
        ).fetchone()
        return bool(newer and not split)

    def _move_mark(self, cut: int) -> None:
        last = self.connection.execute(
            "SELECT e.position, e.payload_id, p.block_number, e.idx FROM entries e JOIN payloads p USING (payload_id)"
            " WHERE e.position <= ? ORDER BY e.position DESC LIMIT 1",
            (cut,),
        ).fetchone()
        before = rows.pruned_mark(self.connection)
        highest = self.connection.execute(
            "SELECT block_number, max(entries) - 1 FROM payloads WHERE first_position <= ?"
            " GROUP BY block_number ORDER BY block_number DESC LIMIT 1",
            (cut,),
        ).fetchone()
        highest = max(highest, before.highest) if before else highest
        self.connection.execute(
            "INSERT OR REPLACE INTO pruned VALUES (1, ?, ?, ?, ?, ?, ?)",
            (*last, *highest),
        )

    def give_back(self, pages: int) -> None:
        """Return up to ``pages`` free pages from the end of the file to the disk."""
        self._since_checkpoint += pages * PAGE_BYTES
        # Python's sqlite3 makes only the first step of this pragma, which frees one page whatever its argument.
        for _ in range(pages):
            self.connection.execute("PRAGMA incremental_vacuum(1)")

    # --- outside of a transaction ---

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether enough was written that the WAL should be copied into the file."""
        return self._since_checkpoint >= CHECKPOINT_BYTES

    def checkpoint(self) -> None:
        """Copy the WAL into the file, as far as readers allow; raises LogError (a full disk, say)."""
        self._since_checkpoint = 0
        with translated("checkpoint", self.path):
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def refused_of(arrival: Arrival) -> Refused:
    """The evidence of a flashblock that was not taken."""
    flashblock = arrival.flashblock
    return Refused(
        flashblock.payload_id,
        flashblock.index,
        flashblock.encoding,
        arrival.builder,
        arrival.received_at,
        flashblock.body,
    )


def _record(arrival: Arrival, position: int, number: int, prefix: bytes) -> Record:
    flashblock = arrival.flashblock
    return Record(
        position,
        flashblock.payload_id,
        flashblock.index,
        number,
        flashblock.encoding,
        arrival.builder,
        arrival.received_at,
        flashblock.body,
        prefix,
    )
