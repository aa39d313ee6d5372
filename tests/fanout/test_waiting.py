"""Who is ahead of this host's log: when its wait ends, where it stands then, and what it costs meanwhile."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.flashblocks import Encoding, Entry
from appliance.fanout.frames import Variant
from appliance.fanout.framesets import FrameSet
from appliance.fanout.marks import Mark
from appliance.fanout.session import Session
from appliance.fanout.waiting import Waiting
from tests.fanout.fakes import FakeWire, payload_id


def session_at(mark: Mark, skip: tuple[int, int] | None) -> Session:
    return Session(FakeWire(), Variant.TEXT, mark, skip, next_ping_at=15, drop=lambda: None)


def entry(position: int, key: tuple[int, int]) -> FrameSet:
    return FrameSet(Entry(position, payload_id(key[0]), key[1], key[0], b"{}", Encoding.TEXT))


@given(st.data())
def test_each_waits_for_the_first_entry_that_is_new_to_it_and_no_longer(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=20))
    gaps = data.draw(st.lists(st.integers(1, 2), min_size=len(keys), max_size=len(keys)))
    log = [entry(sum(gaps[: number + 1]), key) for number, key in enumerate(keys)]
    waiting, there, hub, at = Waiting(), list[tuple[Session, int, tuple[int, int] | None]](), Mark(0), 0
    while at < len(log):
        for _ in range(data.draw(st.integers(0, 3))):
            mark = data.draw(st.sampled_from([hub, *(item.mark for item in log[at:])]))
            skip = data.draw(st.none() | st.tuples(st.integers(1, 3), st.integers(0, 4)))
            newcomer = session_at(mark, skip)
            waiting.add(newcomer, hub)
            there.append((newcomer, mark.position, skip))
        batch = log[at : at + data.draw(st.integers(1, 3))]
        before, hub, at = hub, batch[-1].mark, at + len(batch)
        ready = waiting.begin(batch, before)
        for session, position, skip in list(there):
            new = [item for item in batch if item.mark.position > position and (skip is None or item.entry.key > skip)]
            assert (session in ready) == (session not in waiting) == bool(new)
            if new:
                place = batch.index(new[0])
                passed = batch[place - 1].mark.position if place else before.position
                assert session.mark.position == max(position, passed)
                assert session.skip is None
                assert (session.mark is before) == (place == 0 and position <= before.position)
                there.remove((session, position, skip))
            elif data.draw(st.booleans()):
                waiting.note_mark(session)
                assert session.mark.position == max(position, hub.position)
        assert len(ready) == len(set(ready))
        assert set(waiting) == {session for session, _, _ in there}
        assert len(waiting) == len(there)


def test_thousands_who_wait_for_the_same_cost_an_entry_no_more_than_one() -> None:
    """None of them is touched, and what an entry is compared with is one place for each group."""
    mark = Mark(1, (1, 0))
    waiting = Waiting()
    many = [session_at(mark, (1, 100 + number % 3)) for number in range(3000)]
    for session in many:
        waiting.add(session, mark)
    before = mark
    for index in range(1, 50):
        item = entry(1 + index, (1, index))
        assert waiting.begin([item], before) == []
        before = item.mark
    assert all(session.mark is mark for session in many)
    assert len(waiting._groups) == 3
    assert len(waiting.begin([entry(100, (1, 101))], before)) == 1000
    assert len(waiting) == 2000


def test_each_keeps_the_place_that_it_came_to_by_itself() -> None:
    waiting = Waiting()
    unknown, known = session_at(Mark(5), None), session_at(Mark(5, (2, 3), payload_id(2)), None)
    for session in (unknown, known):
        waiting.add(session, Mark(1))
    waiting.discard(known)
    assert known.resume_from.endswith("block_number=2 flashblock_index=3")
    assert not waiting.begin([entry(4, (2, 2))], Mark(3))
    assert waiting.begin([entry(6, (2, 4))], Mark(5)) == [unknown]


def test_one_that_leaves_knows_how_far_it_has_come() -> None:
    waiting = Waiting()
    first, other = session_at(Mark(0), (1, 5)), session_at(Mark(0), (1, 5))
    for session in (first, other):
        waiting.add(session, Mark(0))
    batch: Sequence[FrameSet] = [entry(1, (1, 0)), entry(2, (1, 1))]
    assert not waiting.begin(batch, Mark(0))
    waiting.discard(first)
    waiting.discard(first)
    assert (first.mark.position, first.skip) == (2, (1, 5))
    assert list(waiting) == [other]
    waiting.discard(other)
    assert not waiting
    assert not waiting._groups
