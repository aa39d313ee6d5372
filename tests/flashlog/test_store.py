import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError, PrunedError
from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.domain.payloads import PayloadState
from appliance.flashlog import store as store_module
from appliance.flashlog.connection import PAGE_BYTES
from appliance.flashlog.reader import Reader
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from appliance.flashlog.rows import Arrival
from appliance.flashlog.spans import PrunedMark
from appliance.flashlog.store import Appended, Removed, Store, Work
from tests.flashlog.support import flashblock, payload_id, real_flashblocks, store_append

EVERYTHING = 2**62


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


def fill(store: Store, *payloads: int, flashblocks: int = 3) -> None:
    for payload in payloads:
        for index in range(flashblocks):
            store_append(store, flashblock(payload, index), now=float(payload))


def remove(store: Store, cut: int) -> Removed:
    (removed,) = store.apply([lambda s: s.remove_through(cut)])
    assert isinstance(removed, Removed)
    return removed


def set_state(store: Store, payload: int, state: PayloadState, now: float, block_hash: str | None = None) -> None:
    (outcome,) = store.apply([lambda s: s.set_state(payload_id(payload), state, block_hash, now)])
    if isinstance(outcome, LogError):
        raise outcome


def test_the_bytes_that_come_out_are_those_that_went_in(store: Store, reader: Reader) -> None:
    originals = real_flashblocks()
    for position, original in enumerate(originals, start=1):
        entry = store_append(store, original).entry
        assert (entry.position, entry.index, entry.block_number) == (position, position - 1, 35535698)
    found = reader.read(0, EVERYTHING, 100, EVERYTHING)
    assert [entry.body for entry in found] == [original.body for original in originals]


@pytest.mark.parametrize("body", [b"", b"\x00\xff\xfe", "é\u2028💥".encode()])
@pytest.mark.parametrize("encoding", Encoding)
def test_any_bytes_are_kept(store: Store, reader: Reader, body: bytes, encoding: Encoding) -> None:
    store_append(store, replace(flashblock(1, 0), body=body, encoding=encoding))
    (found,) = reader.read(0, EVERYTHING, 1, EVERYTHING)
    assert (found.body, found.encoding) == (body, encoding)


def test_the_same_flashblock_again_is_the_same_entry(store: Store, reader: Reader) -> None:
    first = store_append(store, flashblock(1, 0), builder="a")
    again = store_append(store, flashblock(1, 0), builder="b")
    assert first.new
    assert again == Appended(first.record, new=False)
    assert reader.totals().entries == 1
    assert reader.evidence() == []


@pytest.mark.parametrize("other", [flashblock(1, 0, text="other"), flashblock(1, 0, encoding=Encoding.BROTLI)])
def test_a_second_body_is_refused_and_kept_as_evidence(store: Store, reader: Reader, other: Flashblock) -> None:
    original = flashblock(1, 0)
    store_append(store, original, builder="a")
    with pytest.raises(
        EquivocationError, match=r"flashblock 0 of payload 0x0+1 from b: another body is held at position 1"
    ):
        store_append(store, other, builder="b", now=7.5)
    (evidence,) = reader.evidence()
    assert (evidence.payload_id, evidence.index, evidence.builder) == (payload_id(1), 0, "b")
    assert (evidence.body, evidence.encoding, evidence.received_at) == (other.body, other.encoding, 7.5)
    assert [entry.body for entry in reader.read(0, EVERYTHING, 9, EVERYTHING)] == [original.body]


def refuse(store: Store, payload: int, text: str, size: int = 0) -> None:
    with pytest.raises(EquivocationError):
        store_append(store, flashblock(payload, 0, text=text, size=size))


def test_a_flood_of_second_bodies_leaves_a_few_pieces_of_evidence(store: Store, reader: Reader) -> None:
    fill(store, 1)
    for number in range(10):
        refuse(store, 1, f"other {number}")
        refuse(store, 1, f"other {number}")
    kept = [evidence.body for evidence in reader.evidence()]
    assert kept == [flashblock(1, 0, text=f"other {number}").body for number in range(4)]


def test_evidence_is_bounded_by_count_and_the_oldest_goes(
    store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_REFUSED", 3)
    fill(store, *range(1, 8))
    for payload in range(1, 8):
        refuse(store, payload, "other")
    assert [evidence.payload_id for evidence in reader.evidence()] == [payload_id(n) for n in (5, 6, 7)]


def test_evidence_is_bounded_by_bytes(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_REFUSED_BYTES", 5000)
    fill(store, *range(1, 6))
    for payload in range(1, 6):
        refuse(store, payload, "other", size=2000)
    assert [evidence.payload_id for evidence in reader.evidence()] == [payload_id(n) for n in (4, 5)]


def appending(item: Flashblock) -> Work:
    return lambda store: store.append(Arrival(item, "a", 0.0))


def test_jobs_of_one_transaction_have_outcomes_of_their_own(store: Store, reader: Reader) -> None:
    items = [flashblock(1, 0), flashblock(1, 2), flashblock(1, 1), flashblock(1, 0, text="other")]
    outcomes = store.apply([appending(item) for item in items])
    assert [type(outcome) for outcome in outcomes] == [Appended, OutOfOrderError, Appended, EquivocationError]
    assert [entry.index for entry in reader.read(0, EVERYTHING, 9, EVERYTHING)] == [0, 1]
    assert len(reader.evidence()) == 1


def test_a_transaction_with_a_bug_in_it_leaves_nothing_and_the_bug_propagates(store: Store, reader: Reader) -> None:
    def broken(_: Store) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        store.apply([appending(flashblock(1, 0)), broken])
    assert reader.totals().entries == 0
    assert store_append(store, flashblock(1, 0)).entry.position == 1


def test_a_full_disk_refuses_the_whole_transaction_and_the_next_is_fine(store: Store, reader: Reader) -> None:
    fill(store, 1)
    pages = reader.space().pages
    store.connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(LogError, match=r"cannot write .*: the disk is full \(database or disk is full\)"):
        store.apply([appending(flashblock(2, 0)), appending(flashblock(2, 1, size=100_000))])
    assert reader.totals().entries == 3
    store.connection.execute("PRAGMA max_page_count = 1000000")
    assert store_append(store, flashblock(2, 0)).entry.position == 4


def test_states_and_their_times(store: Store, reader: Reader) -> None:
    store_append(store, flashblock(1, 0), builder="a", now=10.0)
    store_append(store, flashblock(1, 1), builder="a", now=11.0)
    record = reader.payload(payload_id(1))
    assert record is not None
    assert (record.state, record.builder, record.entries) == (PayloadState.BUILDING, "a", 2)
    assert (record.opened_at, record.appended_at, record.sealed_at, record.ended_at) == (10, 11, None, None)
    set_state(store, 1, PayloadState.SEALED, 12.0, "0xabc")
    set_state(store, 1, PayloadState.SEALED, 13.0)
    set_state(store, 1, PayloadState.LANDED, 14.0)
    set_state(store, 1, PayloadState.LANDED, 15.0)
    record = reader.payload(payload_id(1))
    assert record is not None
    assert (record.state, record.block_hash) == (PayloadState.LANDED, "0xabc")
    assert (record.sealed_at, record.ended_at) == (12, 14)


def test_a_state_of_an_unknown_payload_or_backwards_is_refused(store: Store) -> None:
    with pytest.raises(LogError, match="is not in the log"):
        set_state(store, 1, PayloadState.SEALED, 0.0)
    fill(store, 1)
    set_state(store, 1, PayloadState.DROPPED, 0.0)
    with pytest.raises(LogError, match="is dropped and cannot become building"):
        set_state(store, 1, PayloadState.BUILDING, 0.0)


def test_removing_payloads_moves_the_mark_and_never_uses_a_position_again(store: Store, reader: Reader) -> None:
    fill(store, 1, 2, 3)
    size = len(flashblock(1, 0).body) + ENTRY_OVERHEAD_BYTES
    assert remove(store, 6) == Removed(payloads=2, entries=6, bytes=6 * size)
    assert [entry.position for entry in reader.read(6, EVERYTHING, 9, EVERYTHING)] == [7, 8, 9]
    with pytest.raises(PrunedError, match="position 5 is not in the log any more") as caught:
        reader.read(5, EVERYTHING, 9, EVERYTHING)
    assert caught.value.oldest == (1003, 0)
    assert store_append(store, flashblock(4, 0)).entry.position == 10
    assert reader.payload(payload_id(1)) is None
    assert remove(store, 9) == Removed(payloads=1, entries=3, bytes=3 * size)


def test_the_mark_keeps_the_greatest_key_over_several_removals(store: Store) -> None:
    for payload, block, entries in ((1, 20, 3), (2, 18, 1), (3, 19, 1), (4, 19, 1)):
        for index in range(entries):
            store_append(store, flashblock(payload, index, block=block))
    remove(store, 3)
    remove(store, 4)
    with closing(Reader(store.path)) as reader:
        mark = reader.mark()
    assert mark == PrunedMark(4, payload_id(2), 18, 0, highest=(20, 2))


@pytest.mark.parametrize("cut", [0, 1, 2, 9, 10, 100])
def test_a_removal_that_would_split_a_payload_or_take_the_current_one_does_nothing(
    store: Store, reader: Reader, cut: int
) -> None:
    fill(store, 1, 2, 3)
    assert remove(store, cut) == Removed()
    assert reader.totals().entries == 9


def test_free_pages_are_given_back_to_the_disk(store: Store, reader: Reader) -> None:
    for payload in range(1, 30):
        store_append(store, flashblock(payload, 0, size=50_000))
    store.checkpoint()
    before = store.path.stat().st_size
    remove(store, 28)
    assert reader.space().free_bytes > before * 0.8
    store.apply([lambda s: s.give_back(100)])
    store.apply([lambda s: s.give_back(10_000)])
    assert reader.space().free_pages == 0
    store.checkpoint()
    assert store.path.stat().st_size < before * 0.2


def test_free_pages_are_used_again_before_the_file_grows(store: Store, reader: Reader) -> None:
    for payload in range(1, 21):
        store_append(store, flashblock(payload, 0, size=50_000))
    pages = reader.space().pages
    for payload in range(21, 100):
        remove(store, payload - 20)
        store_append(store, flashblock(payload, 0, size=50_000))
    assert reader.space().pages <= pages * 1.1


def test_a_checkpoint_is_due_after_some_megabytes(store: Store) -> None:
    due = [store.checkpoint_is_due]
    for payload in range(5):
        store_append(store, flashblock(payload, 0, size=2 * 2**20))
        due.append(store.checkpoint_is_due)
    store.checkpoint()
    due.append(store.checkpoint_is_due)
    assert due == [False, False, False, False, True, True, False]


@pytest.mark.parametrize("size", [0, 8 * 2**10, 100 * 2**10])
def test_it_is_due_before_sqlite_makes_one_within_a_commit(store: Store, size: int) -> None:
    (pages,) = store.connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    wal = store.path.with_name(f"{store.path.name}-wal")
    payload = 0
    while not store.checkpoint_is_due:
        payload += 1
        store_append(store, flashblock(payload, 0, size=size))
    assert 0.1 < wal.stat().st_size / (pages * PAGE_BYTES) < 0.9


def test_an_imported_entry_keeps_a_position_that_is_ahead(store: Store) -> None:
    outcomes = store.apply(
        [
            lambda s: s.append(Arrival(flashblock(1, 0), "a", 0.0, position=100)),
            lambda s: s.append(Arrival(flashblock(1, 1), "a", 0.0, position=100)),
            lambda s: s.append(Arrival(flashblock(1, 2), "a", 0.0, position=150)),
        ]
    )
    positions = [outcome.entry.position for outcome in outcomes if isinstance(outcome, Appended)]
    assert positions == [100, 101, 150]


def test_a_read_stops_at_its_bounds_but_gives_one_entry_at_least(store: Store, reader: Reader) -> None:
    fill(store, 1, 2)
    size = len(flashblock(1, 0).body)
    assert [e.position for e in reader.read(0, EVERYTHING, 4, EVERYTHING)] == [1, 2, 3, 4]
    assert [e.position for e in reader.read(0, EVERYTHING, 9, 2 * size)] == [1, 2]
    assert [e.position for e in reader.read(2, EVERYTHING, 9, 1)] == [3]
    assert [e.position for e in reader.read(3, 5, 9, EVERYTHING)] == [4, 5]
    assert reader.read(6, EVERYTHING, 9, EVERYTHING) == []


def test_the_newest_entries_come_in_log_order(store: Store, reader: Reader) -> None:
    assert reader.newest(3, EVERYTHING) == []
    fill(store, 1, 2)
    assert [entry.position for entry in reader.newest(4, EVERYTHING)] == [3, 4, 5, 6]
    assert [entry.position for entry in reader.newest(4, 1)] == [6]


def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    with closing(Store(path)) as first:
        fill(first, 1, 2)
        remove(first, 3)
    with closing(Store(path)) as second, closing(Reader(path)) as reader:
        assert reader.head() == 6
        assert store_append(second, flashblock(2, 3)).entry.position == 7
        assert store_append(second, flashblock(2, 0)).entry.position == 4


def test_damage_is_a_clear_line(path: Path) -> None:
    with closing(Store(path)) as store:
        for payload in range(50):
            store_append(store, flashblock(payload, 0, size=5000))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    refused = pytest.raises(LogError, match=rf"^cannot \w+ {path}: it is damaged \(")
    with refused, closing(Store(path)) as store:
        store_append(store, flashblock(99, 0))


def test_it_reads_well_in_a_log(store: Store, reader: Reader) -> None:
    assert repr(store) == f"<Store {store.path}>"
    assert repr(reader) == f"<Reader {store.path}>"


def test_the_database_itself_refuses_a_second_entry_for_a_key(store: Store) -> None:
    fill(store, 1)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.connection.execute("UPDATE entries SET idx = 0")
