"""Jobs of replication inside a transaction of the store: what other hosts' logs hold, and branches that lost.

what is here at the key          given                            verdict
the same prefix                  anything                         HELD
another prefix                   anything                         REFUSED, evidence
nothing; closed at or below it   anything                         CLOSED
nothing; retention had it        anything                         PASSED
nothing                          no body                          NEED_BODY
nothing, its predecessor not     a body, one before it refused    REFUSED, evidence: the branch goes on
nothing, its predecessor not     a body                           OUT_OF_ORDER
nothing, its predecessor         a body that makes the prefix     NEW
nothing, its predecessor         a body that makes another one    REFUSED, evidence: it follows another branch
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from appliance.domain.errors import OutOfOrderError
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Record, Replica, Verdict, extend_prefix
from appliance.flashlog import rows
from appliance.flashlog.contiguity import admit
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.rows import Arrival, Refused
from appliance.flashlog.store import Appended, Removed, Store

MAX_CLOSED = 4096
"""Tombstones that are kept; the oldest go. Payloads are closed only where sequencers split evenly."""


@dataclass(frozen=True, slots=True)
class Received:
    """What came of another host's entries: a receipt for each, and those that are new here."""

    receipts: tuple[Receipt, ...]
    appended: tuple[Appended, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """Entries that lost their place: where they were, and how much that was."""

    positions: tuple[int, ...]
    removed: Removed


@dataclass(frozen=True, slots=True)
class BranchChange:
    """A branch was cut off, and another one may have taken its place."""

    removal: Removal
    received: Received


def append_from(
    store: Store,
    peer: str,
    replicas: Sequence[Replica],
    cursor: Cursor | None,
    late: Collection[int] = frozenset(),
) -> Received:
    """Take what follows or is new, refuse what contradicts, and note how far the peer's log was followed.

    What is new at the positions ``late`` ends its payload here instead.
    """
    taken = [_take(store, peer, replica, is_late=replica.position in late) for replica in replicas]
    if cursor is not None:
        set_cursor(store, peer, cursor)
    receipts = tuple(receipt for receipt, _ in taken)
    return Received(receipts, tuple(appended for _, appended in taken if appended is not None))


def _take(store: Store, peer: str, replica: Replica, *, is_late: bool) -> tuple[Receipt, Appended | None]:
    known = _verdict_without_body(store, peer, replica)
    if known is not None:
        return known, None
    if replica.body is None:
        return Receipt(Verdict.NEED_BODY), None
    return _append(store, peer, replica, replica.body, is_late=is_late)


def _verdict_without_body(store: Store, peer: str, replica: Replica) -> Receipt | None:
    payload_id, index = replica.payload_id, replica.index
    have = rows.prefix_at(store.connection, payload_id, index)
    if have == replica.prefix:
        return Receipt(Verdict.HELD, _position(store, payload_id, index))
    if have is not None:
        return _refuse(store, peer, replica)
    closed = rows.closed_at(store.connection, payload_id)
    if closed is not None and index >= closed:
        return Receipt(Verdict.CLOSED, is_sibling=_is_sibling(store, replica))
    if _is_past(store, replica):
        return Receipt(Verdict.PASSED)
    return None


def _is_past(store: Store, replica: Replica) -> bool:
    """Whether retention has removed the payload: taken again it would be shown to subscribers as new."""
    mark = rows.pruned_mark(store.connection)
    if mark is None or (replica.block_number, replica.index) > mark.highest:
        return False
    return store.held(replica.payload_id) is None


def _append(
    store: Store, peer: str, replica: Replica, body: bytes, *, is_late: bool
) -> tuple[Receipt, Appended | None]:
    flashblock = _flashblock(replica, body)
    try:
        number = admit(store.held(replica.payload_id), flashblock)
    except OutOfOrderError:
        number = None
    before = rows.prefix_at(store.connection, replica.payload_id, replica.index - 1)
    if before is None and _was_refused_before(store, replica):
        return _refuse(store, peer, replica), None
    if number is None or before is None:
        return Receipt(Verdict.OUT_OF_ORDER), None
    if extend_prefix(before, body, replica.encoding) != replica.prefix:
        return _refuse(store, peer, replica), None
    if is_late:
        _keep_refused(store, peer, replica, body)
        close_payload(store, replica.payload_id, replica.index)
        return Receipt(Verdict.CLOSED, is_sibling=True), None
    appended = store.insert(Arrival(flashblock, replica.builder, replica.received_at), number, replica.prefix)
    return Receipt(Verdict.NEW, appended.record.position), appended


def _was_refused_before(store: Store, replica: Replica) -> bool:
    """Whether this continues a branch of which something is among the evidence."""
    (found,) = store.connection.execute(
        "SELECT EXISTS (SELECT 1 FROM refused WHERE payload_id = ? AND idx < ?)", (replica.payload_id, replica.index)
    ).fetchone()
    return bool(found)


def _refuse(store: Store, peer: str, replica: Replica) -> Receipt:
    if replica.body is not None:
        _keep_refused(store, peer, replica, replica.body)
    return Receipt(Verdict.REFUSED, is_sibling=_is_sibling(store, replica))


def _keep_refused(store: Store, peer: str, replica: Replica, body: bytes) -> None:
    store.keep_evidence(
        Refused(
            replica.payload_id,
            replica.index,
            replica.encoding,
            f"{replica.builder}@{peer}",  # the evidence says which host brought it
            replica.received_at,
            body,
        )
    )


def _is_sibling(store: Store, replica: Replica) -> bool:
    """Whether this log has the same predecessor."""
    before = rows.prefix_at(store.connection, replica.payload_id, replica.index - 1)
    if before is None or replica.body is None:
        return False
    return extend_prefix(before, replica.body, replica.encoding) == replica.prefix


def _flashblock(replica: Replica, body: bytes) -> Flashblock:
    return Flashblock(replica.payload_id, replica.index, replica.block_number, None, None, body, replica.encoding)


def _position(store: Store, payload_id: PayloadId, index: int) -> int:
    (position,) = store.connection.execute(
        "SELECT position FROM entries WHERE payload_id = ? AND idx = ?", (payload_id, index)
    ).fetchone()
    return int(position)


def set_cursor(store: Store, peer: str, cursor: Cursor) -> None:
    """Note how far ``peer``'s log was followed; it may also go back."""
    store.connection.execute(
        "INSERT OR REPLACE INTO cursors (peer, log_id, position) VALUES (?, ?, ?)",
        (peer, cursor.log_id, cursor.position),
    )


def replace(
    store: Store,
    payload_id: PayloadId,
    from_index: int,
    peer: str,
    replicas: Sequence[Replica],
    cursors: Mapping[str, Cursor],
) -> BranchChange:
    """Cut a payload's branch off at ``from_index`` and put ``replicas``, which ``peer`` brought, in its place."""
    # A tombstone before it stays: that vote is given.
    store.connection.execute("DELETE FROM closed WHERE payload_id = ? AND at >= ?", (payload_id, from_index))
    removal = remove_from(store, payload_id, from_index)
    received = append_from(store, peer, replicas, None)
    for host, cursor in cursors.items():
        set_cursor(store, host, cursor)
    return BranchChange(removal, received)


def close_payload(store: Store, payload_id: PayloadId, at: int) -> BranchChange:
    """End a payload before index ``at`` for good; of two calls the lower index holds."""
    store.connection.execute(
        "INSERT INTO closed (payload_id, at) VALUES (?1, ?2) ON CONFLICT (payload_id) DO UPDATE SET at = min(at, ?2)",
        (payload_id, at),
    )
    store.connection.execute(
        "DELETE FROM closed WHERE id <= (SELECT id FROM closed ORDER BY id DESC LIMIT 1 OFFSET ?)", (MAX_CLOSED,)
    )
    return BranchChange(remove_from(store, payload_id, at), Received((), ()))


def requeue(store: Store, payload_id: PayloadId, from_index: int) -> BranchChange:
    """Give a payload's entries from an index on new positions at the end of the log, in their order."""
    life = store.connection.execute(
        "SELECT state, block_hash, opened_at, sealed_at, ended_at FROM payloads WHERE payload_id = ?", (payload_id,)
    ).fetchone()
    moved = _records_from(store, payload_id, from_index)
    removal = _removal(store, payload_id, from_index, moved)
    appended = tuple(
        store.insert(
            Arrival(_flashblock(record, record.body), record.builder, record.received_at),
            record.block_number,
            record.prefix,
        )
        for record in moved
    )
    if life is not None:
        store.connection.execute(
            "UPDATE payloads SET state = ?, block_hash = ?, opened_at = ?, sealed_at = ?, ended_at = ?"
            " WHERE payload_id = ?",
            (*life, payload_id),
        )
    return BranchChange(removal, Received((), appended))


def remove_from(store: Store, payload_id: PayloadId, from_index: int) -> Removal:
    """Remove a payload's entries from ``from_index`` on, keeping them as evidence."""
    gone = _records_from(store, payload_id, from_index)
    for record in gone:
        store.keep_evidence(
            Refused(payload_id, record.index, record.encoding, record.builder, record.received_at, record.body)
        )
    return _removal(store, payload_id, from_index, gone)


def _records_from(store: Store, payload_id: PayloadId, from_index: int) -> list[Record]:
    return [
        rows.record_of(store.connection, row)
        for row in store.connection.execute(
            f"{rows.SELECT_RECORD} WHERE e.payload_id = ? AND e.idx >= ? ORDER BY e.idx", (payload_id, from_index)
        ).fetchall()
    ]


def _removal(store: Store, payload_id: PayloadId, from_index: int, gone: Sequence[Record]) -> Removal:
    size = sum(len(record.body) + ENTRY_OVERHEAD_BYTES for record in gone)
    if gone:
        _cut_off(store, payload_id, from_index, size)
    positions = tuple(record.position for record in gone)
    return Removal(positions, Removed(payloads=int(bool(gone) and from_index == 0), entries=len(gone), bytes=size))


def _cut_off(store: Store, payload_id: PayloadId, from_index: int, size: int) -> None:
    store.connection.execute("DELETE FROM entries WHERE payload_id = ? AND idx >= ?", (payload_id, from_index))
    if from_index == 0:
        store.connection.execute("DELETE FROM payloads WHERE payload_id = ?", (payload_id,))
        return
    store.connection.execute(
        "UPDATE payloads SET entries = ?2, bytes = bytes - ?3,"
        " last_position = (SELECT max(position) FROM entries WHERE payload_id = ?1) WHERE payload_id = ?1",
        (payload_id, from_index, size),
    )


def begin(store: Store, *, replicated: bool | None) -> int:
    """Return the position through which the log is committed at a start; to be called within `Store.apply`.

    A log that was not replicated before is committed as a whole; one that no longer is, too. With None nothing
    is written.
    """
    last = rows.last_position(store.connection)
    if replicated is None:
        return last
    if not replicated:
        store.connection.execute("UPDATE replication SET committed = NULL WHERE committed IS NOT NULL")
        return last
    store.connection.execute("UPDATE replication SET committed = ? WHERE committed IS NULL", (last,))
    (committed,) = store.connection.execute("SELECT committed FROM replication").fetchone()
    return int(committed)


def uncommitted(store: Store) -> int:
    """How many positions of a replicated log wait for peers; 0 for a log that is not replicated."""
    (committed,) = store.connection.execute("SELECT committed FROM replication").fetchone()
    return 0 if committed is None else max(0, rows.last_position(store.connection) - int(committed))


def commit_imported(store: Store) -> None:
    """Commit a replicated log as a whole. Peers are followed beyond what an import adds: no votes for it would come."""
    store.connection.execute(
        "UPDATE replication SET committed = ? WHERE committed IS NOT NULL", (rows.last_position(store.connection),)
    )


def set_recovering(store: Store, *, recovering: bool) -> None:
    """Note that this host must not vote, or that it may."""
    store.connection.execute("UPDATE replication SET recovering = ?", (int(recovering),))


def renew(store: Store) -> str:
    """Make this another log to other hosts, without a vote: it was set back to an earlier state."""
    store.connection.execute("UPDATE replication SET log_id = lower(hex(randomblob(16))), recovering = 1")
    (log_id,) = store.connection.execute("SELECT log_id FROM replication").fetchone()
    return str(log_id)


def note_committed(store: Store, position: int) -> None:
    """Make a commit point durable; it never goes back."""
    store.connection.execute("UPDATE replication SET committed = ?1 WHERE committed < ?1", (position,))
