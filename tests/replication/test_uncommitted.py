"""When showing without a majority begins, and when it has ended."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.replication.uncommitted import QUIET_S, Uncommitted


def test_it_begins_once_and_ends_when_all_is_committed_and_nothing_more_comes() -> None:
    shown = Uncommitted()
    assert [shown.shown(position, 2, position / 10) for position in (2, 4, 6)] == [True, False, False]
    assert not shown.ends(5, 100.0), "one is not committed"
    assert not shown.ends(6, 0.6 + QUIET_S / 2), "more may come"
    assert shown.ends(6, 0.6 + QUIET_S)
    assert not shown.ends(6, 200.0), "it is said once"
    assert shown.count == 6


def test_the_next_time_is_counted_anew() -> None:
    shown = Uncommitted()
    shown.shown(9, 9, 0.0)
    assert shown.ends(9, 10.0)
    assert shown.shown(10, 1, 11.0)
    assert shown.count == 1


def test_a_majority_that_takes_a_little_too_long_is_one_time() -> None:
    shown, begins, ends = Uncommitted(), 0, 0
    for position in range(1, 1000):
        now = position / 5
        begins += shown.shown(position, 1, now)
        ends += shown.ends(position, now + 0.1)
    assert (begins, ends, shown.count) == (1, 0, 999)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 4)), max_size=80))
def test_beginnings_and_ends_take_turns_and_every_one_is_counted(events: list[tuple[int, bool, float]]) -> None:
    shown, said, now, position, in_all, told = Uncommitted(), list[str](), 0.0, 0, 0, 0
    for entries, is_committed, pause_s in events:
        now += pause_s
        if entries:
            position, in_all = position + entries, in_all + entries
            said += ["begins"] * shown.shown(position, entries, now)
        if shown.ends(position if is_committed else position - 1, now):
            said.append("ends")
            told += shown.count
    assert said == ["begins", "ends"] * (len(said) // 2) + ["begins"] * (len(said) % 2)
    assert told + (shown.count if shown.goes_on else 0) == in_all
