from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.flashblocks import Encoding, Entry
from appliance.flashlog.tail import Tail, TailLimits
from tests.flashlog.support import payload_id


def entry(position: int, size: int = 10) -> Entry:
    return Entry(position, payload_id(1), position - 1, 1001, b"x" * size, Encoding.TEXT)


def positions(entries: list[Entry] | None) -> list[int] | None:
    return None if entries is None else [found.position for found in entries]


def test_an_empty_tail_serves_the_head_only() -> None:
    tail: Tail[Entry] = Tail(5)
    assert tail.recent(5, 10, 5) == []
    assert tail.recent(7, 10, 7) == []
    assert tail.recent(4, 10, 5) is None


def test_entries_after_a_position_up_to_a_limit() -> None:
    tail = Tail(0, [entry(position) for position in range(1, 6)])
    assert positions(tail.recent(0, 2, 5)) == [1, 2]
    assert positions(tail.recent(2, 10, 5)) == [3, 4, 5]
    assert positions(tail.recent(5, 10, 5)) == []


def test_entries_that_are_not_committed_are_not_shown() -> None:
    tail = Tail(0, [entry(position) for position in range(1, 6)])
    assert positions(tail.recent(1, 10, 3)) == [2, 3]
    assert positions(tail.recent(3, 10, 3)) == []


def test_the_oldest_leave_when_there_are_too_many() -> None:
    tail: Tail[Entry] = Tail(0, limits=TailLimits(max_entries=3))
    tail.extend(entry(position) for position in range(1, 6))
    assert (len(tail), tail.floor) == (3, 2)
    assert tail.recent(1, 10, 5) is None
    assert positions(tail.recent(2, 10, 5)) == [3, 4, 5]


def test_the_oldest_leave_when_there_are_too_many_bytes() -> None:
    tail: Tail[Entry] = Tail(0, limits=TailLimits(max_bytes=25))
    tail.extend([entry(1), entry(2), entry(3)])
    assert (len(tail), tail.bytes, tail.floor) == (2, 20, 1)


def test_an_entry_that_is_bigger_than_the_bound_is_left_to_the_disk() -> None:
    tail = Tail(0, [entry(1)], TailLimits(max_bytes=25))
    tail.extend([entry(2, size=100)])
    assert (len(tail), tail.bytes, tail.floor) == (0, 0, 2)
    assert tail.recent(1, 10, 2) is None
    assert tail.recent(2, 10, 2) == []


def test_holes_between_positions_do_not_matter() -> None:
    tail = Tail(10, [entry(11), entry(20), entry(31)])
    assert positions(tail.recent(11, 10, 31)) == [20, 31]
    assert positions(tail.recent(15, 10, 31)) == [20, 31]


def test_it_reads_well_in_a_log() -> None:
    assert repr(Tail(3, [entry(4)])) == "<Tail 1 entries after 3, 10 bytes>"


@given(
    sizes=st.lists(st.integers(1, 30), max_size=30),
    limits=st.builds(TailLimits, st.integers(0, 10), st.integers(0, 100)),
    after=st.integers(0, 31),
    limit=st.integers(1, 5),
    uncommitted=st.integers(0, 5),
)
def test_the_tail_shows_what_a_list_would_or_says_that_it_cannot(
    sizes: list[int], limits: TailLimits, after: int, limit: int, uncommitted: int
) -> None:
    everything = [entry(position, size) for position, size in enumerate(sizes, start=1)]
    tail: Tail[Entry] = Tail(0, limits=limits)
    for item in everything:
        tail.extend([item])
        assert len(tail) <= limits.max_entries
        assert tail.bytes <= limits.max_bytes
    head = max(0, len(sizes) - uncommitted)
    found = tail.recent(after, limit, head)
    expected = [item for item in everything if after < item.position <= head][:limit]
    assert found == expected if after >= tail.floor else found is None
