"""What other hosts' logs bring, on the store."""

import dataclasses
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from appliance.domain.errors import EquivocationError, LogError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadState
from appliance.domain.replicas import Cursor, Receipt, Replica, Verdict, extend_prefix
from appliance.flashlog import replica_jobs, rows
from appliance.flashlog.connection import connect
from appliance.flashlog.maintenance import backup
from appliance.flashlog.reader import Reader
from appliance.flashlog.replica_jobs import BranchChange, Received
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.rows import Arrival
from appliance.flashlog.schema import migrate, migrations_folder
from appliance.flashlog.store import Removed, Store, Work
from appliance.flashlog.verification import verify
from tests.flashlog.replicas import replicas, without_body
from tests.flashlog.support import assert_contiguous, flashblock, payload_id, store_append

MAX = 2**60
T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flashlog.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as opened:
        yield opened


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    with closing(Reader(store.path)) as opened:
        yield opened


def run(store: Store, job: Work) -> object:
    (outcome,) = store.apply([job])
    if isinstance(outcome, LogError):
        raise outcome
    return outcome


def take(store: Store, entries: Sequence[Replica], cursor: Cursor | None = None, peer: str = "b") -> list[Receipt]:
    received = run(store, lambda s: replica_jobs.append_from(s, peer, entries, cursor))
    assert isinstance(received, Received)
    return list(received.receipts)


def verdicts(receipts: Sequence[Receipt]) -> list[Verdict]:
    return [receipt.verdict for receipt in receipts]


def replace(
    store: Store,
    payload: int,
    from_index: int,
    with_: Sequence[Replica] = (),
    cursors: Mapping[str, Cursor] | None = None,
) -> BranchChange:
    change = run(store, lambda s: replica_jobs.replace(s, payload_id(payload), from_index, "b", with_, cursors or {}))
    assert isinstance(change, BranchChange)
    return change


def close(store: Store, payload: int, at: int) -> BranchChange:
    change = run(store, lambda s: replica_jobs.close_payload(s, payload_id(payload), at))
    assert isinstance(change, BranchChange)
    return change


def keys(reader: Reader) -> list[tuple[str, int]]:
    entries = reader.read(0, MAX, MAX, MAX)
    assert_contiguous(entries)
    return [(entry.payload_id, entry.index) for entry in entries]


def test_what_a_peer_has_is_taken_byte_for_byte_with_its_builder_and_time(store: Store, reader: Reader) -> None:
    sent = replicas([flashblock(1, index, size=index * 100) for index in range(4)], first_position=70)
    assert take(store, sent) == [Receipt(Verdict.NEW, position) for position in (1, 2, 3, 4)]
    for original, found in zip(sent, reader.records(0, MAX, MAX, MAX), strict=True):
        for name in ("payload_id", "index", "block_number", "encoding", "builder", "received_at", "body", "prefix"):
            assert getattr(found, name) == getattr(original, name)
    assert verify(store.path).ok


def test_what_is_held_is_held_whoever_brings_it_and_with_or_without_its_body(store: Store) -> None:
    sent = replicas([flashblock(1, 0), flashblock(1, 1)])
    take(store, sent)
    assert take(store, sent, peer="c") == [Receipt(Verdict.HELD, 1), Receipt(Verdict.HELD, 2)]
    assert take(store, [without_body(entry) for entry in sent]) == [Receipt(Verdict.HELD, 1), Receipt(Verdict.HELD, 2)]


def test_a_local_entry_and_a_peers_are_one_where_the_bodies_are(store: Store) -> None:
    for index in range(3):
        store_append(store, flashblock(1, index))
    sent = replicas([flashblock(1, index) for index in range(4)])
    assert verdicts(take(store, sent)) == [Verdict.HELD] * 3 + [Verdict.NEW]


def test_entries_and_cursor_come_together(store: Store, reader: Reader) -> None:
    assert reader.cursor_of("b") is None
    take(store, replicas([flashblock(1, 0)]), Cursor("log", 7))
    assert reader.cursor_of("b") == Cursor("log", 7)
    with pytest.raises(RuntimeError):
        store.apply(
            [
                lambda s: replica_jobs.append_from(s, "b", replicas([flashblock(2, 0)]), Cursor("log", 8)),
                lambda _: (_ for _ in ()).throw(RuntimeError("a bug")),
            ]
        )
    assert reader.cursor_of("b") == Cursor("log", 7)
    assert keys(reader) == [(payload_id(1), 0)]


def test_each_peer_has_a_cursor_and_a_new_log_of_its_begins_anew(store: Store, reader: Reader) -> None:
    take(store, [], Cursor("one", 7), peer="b")
    take(store, [], Cursor("two", 9), peer="c")
    take(store, [], Cursor("three", 1), peer="b")
    assert (reader.cursor_of("b"), reader.cursor_of("c")) == (Cursor("three", 1), Cursor("two", 9))


def test_another_body_is_refused_and_kept_with_the_name_of_who_brought_it(store: Store, reader: Reader) -> None:
    store_append(store, flashblock(1, 0), builder="mine")
    other = replicas([flashblock(1, 0, text="other")])
    assert take(store, other) == [Receipt(Verdict.REFUSED, is_sibling=True)]
    (refused,) = reader.evidence()
    assert (refused.builder, refused.body) == ("a@b", other[0].body)
    assert refused.received_at == other[0].received_at
    (held,) = reader.records(0, MAX, MAX, MAX)
    assert (held.body, held.builder) == (flashblock(1, 0).body, "mine")


def test_what_follows_a_refused_body_is_refused_although_its_key_is_free(store: Store, reader: Reader) -> None:
    store_append(store, flashblock(1, 0))
    other = replicas([flashblock(1, 0, text="other"), flashblock(1, 1), flashblock(1, 2)])
    assert verdicts(take(store, other)) == [Verdict.REFUSED] * 3
    assert keys(reader) == [(payload_id(1), 0)]
    assert {item.index for item in reader.evidence()} == {0, 1, 2}


def test_a_body_that_is_not_what_its_prefix_says_is_refused(store: Store) -> None:
    (honest,) = replicas([flashblock(1, 0)])
    lie = dataclasses.replace(honest, prefix=bytes(32))
    assert verdicts(take(store, [lie])) == [Verdict.REFUSED]


def test_an_entry_whose_predecessor_is_not_here_waits(store: Store, reader: Reader) -> None:
    sent = replicas([flashblock(1, index) for index in range(3)])
    assert verdicts(take(store, sent[1:])) == [Verdict.OUT_OF_ORDER] * 2
    assert verdicts(take(store, sent)) == [Verdict.NEW] * 3
    assert reader.evidence() == []


def test_an_entry_of_another_block_number_than_its_payloads_is_not_taken(store: Store) -> None:
    sent = replicas([flashblock(1, 0), flashblock(1, 1, block=7)])
    assert verdicts(take(store, sent)) == [Verdict.NEW, Verdict.OUT_OF_ORDER]


def test_without_a_body_that_is_needed_the_verdict_says_so(store: Store, reader: Reader) -> None:
    (sent,) = replicas([flashblock(1, 0)])
    assert take(store, [without_body(sent)]) == [Receipt(Verdict.NEED_BODY)]
    assert keys(reader) == []


def test_what_retention_removed_is_not_taken_again(store: Store, reader: Reader) -> None:
    for payload in (1, 2, 3):
        store_append(store, flashblock(payload, 0))
        store_append(store, flashblock(payload, 1))
    assert run(store, lambda s: s.remove_through(2)) == Removed(1, 2, 2 * ENTRY_OVERHEAD_BYTES + _bytes(1, 2))
    sent = replicas([flashblock(payload, index) for payload in (1, 2) for index in (0, 1)])
    assert verdicts(take(store, sent)) == [Verdict.PASSED] * 2 + [Verdict.HELD] * 2
    newer = replicas([flashblock(9, 0)])
    assert verdicts(take(store, newer)) == [Verdict.NEW]
    assert [record.payload_id for record in reader.records(2, MAX, MAX, MAX)] == [
        payload_id(n) for n in (2, 2, 3, 3, 9)
    ]


def _bytes(payload: int, count: int) -> int:
    return sum(len(flashblock(payload, index).body) for index in range(count))


def test_a_branch_that_lost_makes_room_for_the_one_that_won(store: Store, reader: Reader) -> None:
    for index in range(4):
        store_append(store, flashblock(1, index, text="" if index < 2 else "mine"))
    store_append(store, flashblock(2, 0))
    won = replicas([flashblock(1, index) for index in range(4)])
    assert verdicts(take(store, won, Cursor("log", 4))) == [Verdict.HELD] * 2 + [Verdict.REFUSED] * 2
    change = replace(store, 1, 2, won[2:], {"b": Cursor("log", 2)})
    assert change.removal.positions == (3, 4)
    assert change.received.receipts == (Receipt(Verdict.NEW, 6), Receipt(Verdict.NEW, 7))
    assert keys(reader) == [(payload_id(n), index) for n, index in [(1, 0), (1, 1), (2, 0), (1, 2), (1, 3)]]
    assert reader.cursor_of("b") == Cursor("log", 2)
    assert {item.builder for item in reader.evidence()} == {"a", "a@b"}
    report = verify(store.path)
    assert report.ok, report.problems
    assert verdicts(take(store, won)) == [Verdict.HELD] * 4


def test_a_whole_payload_can_be_replaced_and_its_positions_are_not_used_again(store: Store, reader: Reader) -> None:
    store_append(store, flashblock(1, 0, text="mine"))
    before = reader.totals()
    change = replace(store, 1, 0)
    assert change.removal.removed == Removed(before.payloads, before.entries, before.bytes)
    assert reader.payload(payload_id(1)) is None
    assert verdicts(take(store, replicas([flashblock(1, 0)]))) == [Verdict.NEW]
    assert [record.position for record in reader.records(0, MAX, MAX, MAX)] == [2]
    assert verify(store.path).ok


def test_replacing_what_is_not_held_only_takes(store: Store) -> None:
    change = replace(store, 1, 0, replicas([flashblock(1, 0)]))
    assert change.removal.positions == ()
    assert verdicts(change.received.receipts) == [Verdict.NEW]


def test_a_closed_payload_ends_and_takes_nothing_more(store: Store, reader: Reader) -> None:
    for index in range(3):
        store_append(store, flashblock(1, index))
    change = close(store, 1, 1)
    assert change.removal.positions == (2, 3)
    assert keys(reader) == [(payload_id(1), 0)]
    sent = replicas([flashblock(1, index) for index in range(3)])
    assert verdicts(take(store, sent)) == [Verdict.HELD, Verdict.CLOSED, Verdict.CLOSED]
    with pytest.raises(EquivocationError, match="was closed at index 1"):
        store_append(store, flashblock(1, 1, text="another one"))
    assert verify(store.path).ok


def test_a_payload_can_be_closed_before_anything_of_it_is_here(store: Store, reader: Reader) -> None:
    close(store, 1, 0)
    assert verdicts(take(store, replicas([flashblock(1, 0)]))) == [Verdict.CLOSED]
    with pytest.raises(EquivocationError, match="was closed at index 0"):
        store_append(store, flashblock(1, 0))
    assert reader.closed_at(payload_id(1)) == 0
    assert reader.closed_at(payload_id(2)) is None


def test_of_two_closings_the_lower_holds(store: Store, reader: Reader) -> None:
    for at in (3, 1, 2):
        close(store, 1, at)
    assert reader.closed_at(payload_id(1)) == 1


def test_tombstones_are_bounded(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_jobs, "MAX_CLOSED", 3)
    for payload in range(1, 6):
        close(store, payload, 1)
    assert [reader.closed_at(payload_id(payload)) for payload in range(1, 6)] == [None, None, 1, 1, 1]


def test_a_local_flashblock_does_not_follow_another_hosts_branch(store: Store, reader: Reader) -> None:
    mine = store_append(store, flashblock(1, 0, text="mine"))
    replace(store, 1, 0, replicas([flashblock(1, 0)]))
    arrival = Arrival(flashblock(1, 1), "a", 0.0, after=mine.record.prefix)
    with pytest.raises(EquivocationError, match="holds another branch"):
        run(store, lambda s: s.append(arrival))
    assert keys(reader) == [(payload_id(1), 0)]
    assert 1 in {item.index for item in reader.evidence()}


def test_the_commit_point_grows_and_outlives_the_process(path: Path) -> None:
    def begin(store: Store, *, replicated: bool) -> object:
        return run(store, lambda s: replica_jobs.begin(s, replicated=replicated))

    def note(store: Store, position: int) -> None:
        run(store, lambda s: replica_jobs.note_committed(s, position))

    with closing(Store(path)) as store:
        store_append(store, flashblock(1, 0))
        store_append(store, flashblock(1, 1))
        assert begin(store, replicated=False) == 2
        assert begin(store, replicated=True) == 2  # all that was shown before it was replicated stays shown
        store_append(store, flashblock(1, 2))
        store_append(store, flashblock(1, 3))
    with closing(Store(path)) as store:
        assert begin(store, replicated=True) == 2
        note(store, 3)
        note(store, 1)
    with closing(Store(path)) as store:
        assert begin(store, replicated=True) == 3
        assert begin(store, replicated=False) == 4
        note(store, 4)
        assert begin(store, replicated=True) == 4


def first_version(path: Path, tmp_path: Path) -> None:
    """A log as the version before replication wrote it."""
    folder = tmp_path / "first"
    folder.mkdir()
    source = migrations_folder() / "0001_flashblock_log.sql"
    (folder / source.name).write_text(source.read_text())
    with closing(connect(path)) as connection:
        migrate(connection, path, folder)
        for index in range(3):
            item = flashblock(1, index)
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute(
                "INSERT INTO entries (payload_id, idx, encoding, builder, received_at, checksum, body)"
                " VALUES (?, ?, 'text', 'a', 1.0, ?, ?)",
                (item.payload_id, index, zlib.crc32(item.body), item.body),
            )
        size = sum(len(flashblock(1, index).body) + ENTRY_OVERHEAD_BYTES for index in range(3))
        connection.execute(
            "INSERT INTO payloads (payload_id, block_number, builder, state, first_position, last_position, entries,"
            " bytes, opened_at, appended_at) VALUES (?, 1001, 'a', 'building', 1, 3, 3, ?, 1.0, 1.0)",
            (payload_id(1), size),
        )


def test_entries_of_an_earlier_version_get_their_prefix_when_it_is_needed(path: Path, tmp_path: Path) -> None:
    first_version(path, tmp_path)
    sent = replicas([flashblock(1, index) for index in range(5)])
    with closing(Store(path)) as store, closing(Reader(path)) as reader:
        assert [record.prefix for record in reader.records(0, MAX, MAX, MAX)] == [item.prefix for item in sent[:3]]
        assert verdicts(take(store, sent)) == [Verdict.HELD] * 3 + [Verdict.NEW] * 2
        assert rows.prefix_at(store.connection, payload_id(1), 4) == sent[4].prefix
        assert verify(path).ok


def test_a_backup_is_another_log_to_its_peers(store: Store, reader: Reader, tmp_path: Path) -> None:
    store_append(store, flashblock(1, 0))
    backup(store.path, tmp_path / "copy.db")
    with closing(Reader(tmp_path / "copy.db")) as copy:
        assert len(copy.log_id()) == len(reader.log_id()) == 32
        assert copy.log_id() != reader.log_id()
        assert copy.records(0, MAX, MAX, MAX) == reader.records(0, MAX, MAX, MAX)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE entries SET prefix = zeroblob(32) WHERE idx = 1", "prefix is not that of the bodies"),
        ("INSERT INTO closed (payload_id, at) SELECT payload_id, 1 FROM payloads", "closed at index 1, but it has 3"),
        ("UPDATE replication SET committed = 99", "committed through 99"),
    ],
)
def test_verify_finds_what_replication_would_never_do(store: Store, statement: str, problem: str) -> None:
    for index in range(3):
        store_append(store, flashblock(1, index))
    store.connection.execute(statement)
    report = verify(store.path)
    assert len(report.problems) == 1
    assert problem in report.problems[0]


def test_a_state_of_a_payload_that_was_replaced_is_gone_with_it(store: Store, reader: Reader) -> None:
    store_append(store, flashblock(1, 0, text="mine"))
    run(store, lambda s: s.set_state(payload_id(1), PayloadState.SEALED, None, 1.0))
    replace(store, 1, 0, replicas([flashblock(1, 0)]))
    record = reader.payload(payload_id(1))
    assert record is not None
    assert record.state is PayloadState.BUILDING


def test_the_prefix_tells_bodies_their_order_and_their_encodings_apart() -> None:
    one, two = flashblock(1, 0), flashblock(1, 1)

    def chain(*bodies: bytes) -> bytes:
        prefix = b""
        for body in bodies:
            prefix = extend_prefix(prefix, body, one.encoding)
        return prefix

    assert len({chain(one.body), chain(two.body), chain(one.body, two.body), chain(two.body, one.body)}) == 4
    assert chain(one.body + two.body) != chain(one.body, two.body)
    assert extend_prefix(b"", one.body, Encoding.TEXT) != extend_prefix(b"", one.body, Encoding.BROTLI)


def test_sqlite_errors_of_damaged_rows_are_not_hidden(store: Store) -> None:
    store_append(store, flashblock(1, 0))
    store.connection.execute("UPDATE entries SET checksum = 1")
    with pytest.raises(LogError, match="does not have its checksum"):
        replace(store, 1, 0)
    with pytest.raises(sqlite3.OperationalError):
        store.connection.execute("SELECT nonsense")


def test_what_gives_way_gets_new_positions_and_keeps_its_life(store: Store, reader: Reader) -> None:
    for payload, index in [(1, 0), (1, 1), (1, 2), (2, 0)]:
        store_append(store, flashblock(payload, index))
    run(store, lambda s: s.set_state(payload_id(1), PayloadState.SEALED, "0x1", 5.0))
    before = reader.payload(payload_id(1))
    for from_index, positions in [(1, [1, 4, 5, 6]), (0, [4, 7, 8, 9])]:
        change = run(store, lambda s, index=from_index: replica_jobs.requeue(s, payload_id(1), index))  # type: ignore[misc]
        assert isinstance(change, BranchChange)
        assert len(change.received.appended) == 3 - from_index
        assert [record.position for record in reader.records(0, MAX, MAX, MAX)] == positions
        assert reader.payload(payload_id(1)) == before
        assert reader.evidence() == []
        report = verify(store.path)
        assert report.ok, report.problems
    assert keys(reader) == [(payload_id(2), 0), *((payload_id(1), index) for index in range(3))]
    assert reader.given_through() == 9


def test_what_is_late_ends_its_payload_but_what_is_held_is_not(store: Store, reader: Reader) -> None:
    sent = replicas([flashblock(1, index) for index in range(3)])
    assert verdicts(take(store, sent[:1])) == [Verdict.NEW]
    received = run(store, lambda s: replica_jobs.append_from(s, "b", sent, None, {1, 2, 3}))
    assert isinstance(received, Received)
    assert received.receipts == (
        Receipt(Verdict.HELD, 1),
        Receipt(Verdict.CLOSED, is_sibling=True),
        Receipt(Verdict.CLOSED),
    )
    assert reader.closed_at(payload_id(1)) == 1
    assert {(item.index, item.builder) for item in reader.evidence()} == {(1, "a@b")}
    assert reader.cursor_of("b") is None


def test_a_committed_branch_lifts_a_tombstone_that_is_not_before_it(store: Store, reader: Reader) -> None:
    close(store, 1, 1)
    replace(store, 1, 2)
    assert reader.closed_at(payload_id(1)) == 1
    replace(store, 1, 1)
    assert reader.closed_at(payload_id(1)) is None


def test_a_log_that_was_set_back_is_another_one_without_a_vote(store: Store, reader: Reader) -> None:
    before = reader.log_id()
    run(store, lambda s: replica_jobs.set_recovering(s, recovering=False))
    assert not reader.recovering()
    assert run(store, replica_jobs.renew) == reader.log_id() != before
    assert reader.recovering()


def test_the_last_position_given_is_known_when_nothing_is_there_any_more(store: Store, reader: Reader) -> None:
    assert reader.given_through() == 0
    store_append(store, flashblock(1, 0))
    replace(store, 1, 0)
    assert (reader.head(), reader.given_through()) == (0, 1)
