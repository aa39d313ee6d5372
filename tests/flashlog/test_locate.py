"""Every test runs on a log in a list and on a log in SQLite: the rule is one, the index is not."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import PrunedError
from appliance.domain.flashblocks import Entry
from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Located, Resume
from appliance.flashlog.connection import connect_reader
from appliance.flashlog.locate import LogIndex, locate
from appliance.flashlog.reader import Reader, SqlIndex
from appliance.flashlog.rows import Arrival
from appliance.flashlog.store import Removed, Store
from tests.flashlog.list_index import ListIndex
from tests.flashlog.support import flashblock, payload_id, store_append

Place = tuple[int, int, int]  # payload, index, block number


class ListLog:
    """The fake."""

    def __init__(self, places: list[Place], pruned_through: int = 0, head: int | None = None) -> None:
        entries = [
            Entry(position, payload_id(payload), index, block, b"", flashblock(payload, index).encoding)
            for position, (payload, index, block) in enumerate(places, start=1)
        ]
        self._index: LogIndex = ListIndex(entries, len(places) if head is None else head, pruned_through)

    def locate(self, resume: Resume) -> Located:
        return locate(self._index, resume)

    def close(self) -> None:
        pass


class SqliteLog:
    """The real one."""

    def __init__(self, places: list[Place], pruned_through: int = 0, head: int | None = None) -> None:
        self._folder = TemporaryDirectory()
        path = Path(self._folder.name) / "flashlog.db"
        self._store = Store(path)
        for payload, index, block in places:
            store_append(self._store, flashblock(payload, index, block=block))
        if pruned_through:
            (removed,) = self._store.apply([lambda store: store.remove_through(pruned_through)])
            assert isinstance(removed, Removed)
            assert removed.entries == pruned_through
        self._reader = Reader(path)
        self._head = len(places) if head is None else head

    def locate(self, resume: Resume) -> Located:
        return self._reader.locate(resume, self._head)

    def close(self) -> None:
        self._reader.close()
        self._store.close()
        self._folder.cleanup()


KINDS = (ListLog, SqliteLog)
Log = ListLog | SqliteLog
MakeLog = Callable[..., Log]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[MakeLog]:
    made: list[Log] = []

    def make_log(*args: object, **kwargs: object) -> Log:
        log: Log = request.param(*args, **kwargs)
        made.append(log)
        return log

    yield make_log
    for log in made:
        log.close()


def block(number: int, flashblocks: int, payload: int | None = None) -> list[Place]:
    """One payload of a block, whole."""
    return [(number if payload is None else payload, index, number) for index in range(flashblocks)]


# positions          1  2  3  4        5  6  7        8  9
THREE_BLOCKS = [*block(10, 4), *block(11, 3), *block(12, 2)]


@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        (AfterBlock(10, 1), Located(2)),
        (AfterBlock(11, 2), Located(7)),
        (AfterBlock(12, 1), Located(9)),  # the head
        (AfterBlock(11), Located(4)),  # index -1: the start of the block
        (AfterBlock(10), Located(0)),  # the start of the oldest block
        (AfterBlock(10, 4), Located(4)),  # an index that this host never had: the next block
        (AfterPayload(payload_id(11), 0), Located(5)),
        (AfterPayload(payload_id(11)), Located(4)),
        (AfterPayload(payload_id(10), 9), Located(4)),  # more than was held of a payload that is over
        (CurrentPayload(), Located(7)),
    ],
)
def test_a_place_in_the_log(make: MakeLog, resume: Resume, expected: Located) -> None:
    assert make(THREE_BLOCKS).locate(resume) == expected


@pytest.mark.parametrize(
    ("resume", "skip_through"),
    [
        (AfterBlock(12, 2), (12, 2)),
        (AfterBlock(13, 0), (13, 0)),
        (AfterBlock(10**30, 10**30), (10**30, 10**30)),
        (AfterPayload(payload_id(12), 5), (12, 5)),
    ],
)
def test_a_host_that_lags_starts_at_its_head_and_skips_what_the_subscriber_knows(
    make: MakeLog, resume: Resume, skip_through: tuple[int, int]
) -> None:
    assert make(THREE_BLOCKS).locate(resume) == Located(9, skip_through)


@pytest.mark.parametrize("resume", [AfterBlock(9, 7), AfterBlock(9), AfterBlock(0, 0), AfterBlock(10, -2)])
def test_a_place_before_the_log_is_refused(make: MakeLog, resume: AfterBlock) -> None:
    with pytest.raises(PrunedError, match=r"is before this log's first entry; the oldest held") as caught:
        make(THREE_BLOCKS).locate(resume)
    assert caught.value.oldest == (10, 0)
    assert "index -" not in str(caught.value)


def test_a_whole_block_is_named_without_an_index(make: MakeLog) -> None:
    with pytest.raises(PrunedError) as caught:
        make(THREE_BLOCKS).locate(AfterBlock(9))
    assert str(caught.value) == "block 9 is before this log's first entry; the oldest held is block 10 index 0"


@pytest.mark.parametrize("name", [payload_id(99), "not a payload", "\udcff", ""])
def test_a_payload_that_is_not_held_is_refused(make: MakeLog, name: str) -> None:
    with pytest.raises(PrunedError, match="is not in the log") as caught:
        make(THREE_BLOCKS).locate(AfterPayload(PayloadId(name), 0))
    assert caught.value.oldest == (10, 0)


def test_an_empty_log_waits_for_what_comes(make: MakeLog) -> None:
    empty = make([])
    assert empty.locate(CurrentPayload()) == Located(0)
    assert empty.locate(AfterBlock(10, 3)) == Located(0, skip_through=(10, 3))
    with pytest.raises(PrunedError, match="nothing is held") as caught:
        empty.locate(AfterPayload(payload_id(10), 3))
    assert caught.value.oldest is None


def test_a_place_near_the_head_is_found_without_a_walk_through_all_payloads(tmp_path: Path) -> None:
    payloads = 3000
    store = Store(tmp_path / "flashlog.db")
    arrivals = [Arrival(flashblock(number, 0, block=number), "alpha", 0.0) for number in range(1, payloads + 1)]
    store.apply([partial(Store.append, arrival=arrival) for arrival in arrivals])
    connection, steps = connect_reader(tmp_path / "flashlog.db"), [0]

    def count() -> int:
        steps[0] += 1
        return 0

    connection.set_progress_handler(count, 10)
    try:
        for key in ((payloads, 7), (payloads + 5, 0), (payloads - 3, 9)):
            locate(SqlIndex(connection, payloads), AfterBlock(*key))
    finally:
        connection.close()
        store.close()
    assert steps[0] * 10 < payloads


# After a reorg: block 10 twice, then 11, then 10 once more.
# positions            1  2  3  4                    5  6                     7            8  9
REORGED = [*block(10, 4, payload=1), *block(10, 2, payload=2), *block(11, 1), *block(10, 2, payload=3)]


@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        (AfterBlock(10, 1), Located(2)),  # the first entry with that key: repeats instead of a gap
        (AfterBlock(10, 3), Located(4)),  # only the first payload had it: all that came after
        (AfterBlock(11, 0), Located(7)),  # what follows has smaller keys, and is for the subscriber
        (AfterBlock(10), Located(0)),
        (AfterPayload(payload_id(1), 1), Located(2)),
        (AfterPayload(payload_id(2), 0), Located(5)),
        (CurrentPayload(), Located(7)),
        (AfterPayload(payload_id(3), 7), Located(9, skip_through=(10, 7))),
    ],
)
def test_several_payloads_of_one_block_number(make: MakeLog, resume: Resume, expected: Located) -> None:
    assert make(REORGED).locate(resume) == expected


# positions 1           2           3           4
INTERLEAVED = [(1, 0, 10), (1, 1, 10), (2, 0, 10), (1, 2, 10)]


def test_the_current_payload_is_that_of_the_last_entry(make: MakeLog) -> None:
    log = make(INTERLEAVED)
    assert log.locate(CurrentPayload()) == Located(0)
    assert log.locate(AfterPayload(payload_id(1), 3)) == Located(4, skip_through=(10, 3))
    assert make(INTERLEAVED, head=3).locate(CurrentPayload()) == Located(2)


@pytest.mark.parametrize(
    "resume",
    [AfterPayload(payload_id(10), 3), AfterPayload(payload_id(10), 5), AfterBlock(11)],
)
def test_exactly_what_retention_removed_last_leaves_no_gap(make: MakeLog, resume: Resume) -> None:
    assert make(THREE_BLOCKS, pruned_through=4).locate(resume) == Located(4)


@pytest.mark.parametrize(
    "resume",
    [
        AfterBlock(10, 2),
        AfterBlock(10, 3),  # the last one: there may have been others with that key before it
        AfterBlock(10),
        AfterBlock(9, 0),
        AfterPayload(payload_id(10), 2),
        AfterPayload(payload_id(10)),
    ],
)
def test_what_retention_removed_is_refused(make: MakeLog, resume: Resume) -> None:
    with pytest.raises(PrunedError, match="the oldest held is block 11 index 0") as caught:
        make(THREE_BLOCKS, pruned_through=4).locate(resume)
    assert caught.value.oldest == (11, 0)


def test_a_block_that_no_payload_had_is_after_what_was_removed_before_it(make: MakeLog) -> None:
    assert make(REORGED, pruned_through=6).locate(AfterBlock(10, 4)) == Located(6)
    with pytest.raises(PrunedError):
        make(REORGED, pruned_through=7).locate(AfterBlock(10, 4))


def test_a_block_that_is_built_again_after_its_number_was_seen_comes_whole(make: MakeLog) -> None:
    log = make([*block(100, 3, payload=1), *block(100, 5, payload=2)])
    assert log.locate(AfterBlock(100, 2)) == Located(3)
    assert log.locate(AfterBlock(100, 4)) == Located(8)
    assert log.locate(AfterPayload(payload_id(2), 2)) == Located(6)


# positions            1  2           3             4
BACK_AND_ON = [*block(11, 2), *block(10, 1), *block(12, 1)]


def test_the_greatest_key_removed_counts_not_only_the_last_one(make: MakeLog) -> None:
    log = make(BACK_AND_ON, pruned_through=3)
    for key in ((11, 0), (11, 1), (10, 0), (10, 5)):
        with pytest.raises(PrunedError):
            log.locate(AfterBlock(*key))
    assert log.locate(AfterPayload(payload_id(10), 0)) == Located(3)
    assert log.locate(AfterBlock(11, 2)) == Located(3)


def test_entries_that_are_not_committed_do_not_exist(make: MakeLog) -> None:
    log = make(THREE_BLOCKS, head=5)
    assert log.locate(CurrentPayload()) == Located(4)
    assert log.locate(AfterBlock(11, 1)) == Located(5, skip_through=(11, 1))
    assert log.locate(AfterPayload(payload_id(11), 1)) == Located(5, skip_through=(11, 1))


def test_a_payload_that_is_held_but_not_committed_yet_is_waited_for(make: MakeLog) -> None:
    log = make(THREE_BLOCKS, head=5)
    assert log.locate(AfterPayload(payload_id(12), 0)) == Located(5, skip_through=(12, 0))
    assert log.locate(AfterPayload(payload_id(12))) == Located(5, skip_through=(12, -1))


def test_a_payload_that_is_still_on_its_way_here_is_found_by_its_block_number(make: MakeLog) -> None:
    log = make(THREE_BLOCKS)
    assert log.locate(AfterPayload(payload_id(13), 4, 13)) == Located(9, skip_through=(13, 4))
    assert log.locate(AfterPayload(payload_id(11), 0, 99)) == Located(5)  # what is here needs no number
    assert make([]).locate(AfterPayload(payload_id(13), 4, 13)) == Located(0, skip_through=(13, 4))


@pytest.mark.parametrize("number", [None, 12, 11, 9])
def test_a_payload_that_was_never_here_is_refused_where_its_block_was(make: MakeLog, number: int | None) -> None:
    with pytest.raises(PrunedError, match="is not in the log"):
        make(THREE_BLOCKS).locate(AfterPayload(payload_id(77), 0, number))


def test_a_payload_of_a_block_that_retention_may_have_removed_is_refused(make: MakeLog) -> None:
    log = make([*BACK_AND_ON[:3], (9, 0, 9)], pruned_through=3)
    with pytest.raises(PrunedError):
        log.locate(AfterPayload(payload_id(77), 0, 11))
    assert log.locate(AfterPayload(payload_id(77), 0, 12)) == Located(4, skip_through=(12, 0))


# --- the promise: retention turns an answer into PrunedError where an entry that is due may be gone ---


@st.composite
def histories(draw: st.DrawFn) -> list[Place]:
    """Contiguous payloads with any block numbers, sometimes interleaved."""
    blocks = draw(st.lists(st.integers(10, 13), min_size=1, max_size=5))
    held = [0] * len(blocks)
    places = []
    started = 1
    for _ in range(draw(st.integers(1, 14))):
        if started < len(blocks) and draw(st.booleans()):
            started += 1
        payload = draw(st.integers(max(0, started - 2), started - 1))
        places.append((payload, held[payload], blocks[payload]))
        held[payload] += 1
    return places


def clean_cuts(places: list[Place]) -> list[int]:
    """Positions that split no payload and leave the newest one."""
    cuts = []
    for position in range(1, len(places)):
        before = {payload for payload, _, _ in places[:position]}
        after = {payload for payload, _, _ in places[position:]}
        newest = [payload for payload, index, _ in places if index == 0][-1]
        if not before & after and newest in after:
            cuts.append(position)
    return cuts


resumes: st.SearchStrategy[Resume] = st.one_of(
    st.builds(AfterBlock, st.integers(9, 14), st.integers(-1, 5)),
    st.builds(AfterPayload, st.integers(0, 6).map(payload_id), st.integers(-1, 5), st.none() | st.integers(9, 14)),
    st.just(CurrentPayload()),
)


def is_true(resume: Resume, places: list[Place]) -> bool:
    """Whether a subscriber that names a payload with its block names the right one."""
    if not isinstance(resume, AfterPayload) or resume.block_number is None:
        return True
    return all(block == resume.block_number for payload, _, block in places if payload_id(payload) == resume.payload_id)


def answer(log: Log, resume: Resume) -> Located | None:
    try:
        return log.locate(resume)
    except PrunedError:
        return None


@given(data=st.data(), places=histories())
@settings(max_examples=400)
def test_retention_never_changes_an_answer_but_to_refuse_what_is_gone(data: st.DataObject, places: list[Place]) -> None:
    cuts = clean_cuts(places)
    cut = data.draw(st.sampled_from(cuts)) if cuts else 0
    resume = data.draw(resumes.filter(lambda resume: is_true(resume, places)))
    before = answer(ListLog(places), resume)
    after = answer(ListLog(places, pruned_through=cut), resume)
    is_gone = before is None or before.position < cut
    may_be_gone = isinstance(resume, AfterBlock) and any(
        (resume.block_number, resume.index) <= (block, index) for _, index, block in places[:cut]
    )
    assert after == (None if is_gone or may_be_gone else before)


@given(data=st.data(), places=histories())
@settings(max_examples=40)
def test_the_log_in_sqlite_answers_like_the_log_in_a_list(data: st.DataObject, places: list[Place]) -> None:
    cuts = [0, *clean_cuts(places)]
    cut = data.draw(st.sampled_from(cuts))
    head = data.draw(st.integers(cut, len(places)))
    real = SqliteLog(places, pruned_through=cut, head=head)
    try:
        fake = ListLog(places, pruned_through=cut, head=head)
        for resume in data.draw(st.lists(resumes, min_size=5, max_size=30)):
            assert answer(real, resume) == answer(fake, resume), resume
    finally:
        real.close()


@given(places=histories(), resume=resumes)
def test_a_subscriber_gets_every_entry_after_the_place_that_it_named(places: list[Place], resume: Resume) -> None:
    located = answer(ListLog(places), resume)
    if located is None or isinstance(resume, CurrentPayload) or located.skip_through:
        return
    due = places[located.position :]
    if isinstance(resume, AfterPayload):
        of_payload = [index for payload, index, _ in places if payload_id(payload) == resume.payload_id]
        missing = [index for index in of_payload if index > resume.index]
        assert [i for p, i, _ in due if payload_id(p) == resume.payload_id] == missing
    else:
        key = (resume.block_number, resume.index)
        seen = next((n for n, (_, i, b) in enumerate(places, start=1) if (b, i) == key), 0)
        assert all((b, i) < key for _, i, b in places[seen : located.position])


@given(places=histories(), data=st.data())
def test_whoever_comes_back_with_the_last_key_it_saw_misses_nothing(places: list[Place], data: st.DataObject) -> None:
    seen = data.draw(st.integers(1, len(places)))
    _, index, number = places[seen - 1]
    cut = data.draw(st.sampled_from([0, *clean_cuts(places)]))
    located = answer(ListLog(places, pruned_through=cut), AfterBlock(number, index))
    assert located is None or (located.position <= seen and located.skip_through is None)
