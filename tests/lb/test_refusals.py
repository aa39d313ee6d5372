"""Refused requests in the log: the first at once, then numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from appliance.lb.refusals import INTERVAL_S, Refusals


def test_the_first_is_told_at_once_and_those_after_it_by_number() -> None:
    refusals = Refusals()
    assert [refusals.note("queue full", now) for now in (0.0, 1.0, 2.0)] == [1, 0, 0]
    assert refusals.take_due(INTERVAL_S - 0.1) == []
    assert refusals.take_due(INTERVAL_S) == [("queue full", 2)]
    assert refusals.take_due(3 * INTERVAL_S) == []
    assert refusals.note("queue full", 3 * INTERVAL_S) == 1


def test_each_reason_has_its_own_interval() -> None:
    refusals = Refusals()
    assert (refusals.note("queue full", 0.0), refusals.note("node timeout", 1.0)) == (1, 1)
    refusals.note("queue full", 2.0)
    refusals.note("node timeout", 2.0)
    assert refusals.take_due(INTERVAL_S) == [("queue full", 1)]
    assert refusals.take_all(INTERVAL_S) == [("node timeout", 1)]
    assert refusals.take_all(INTERVAL_S) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 20), st.booleans())))
def test_every_one_is_told_once_and_no_reason_more_than_once_an_interval(
    events: list[tuple[str, float, bool]],
) -> None:
    refusals, now, lines = Refusals(), 0.0, list[tuple[str, float, int]]()
    for reason, passed, looks in events:
        now += passed
        if looks:
            lines += [(each, now, count) for each, count in refusals.take_due(now)]
        elif count := refusals.note(reason, now):
            lines.append((reason, now, count))
    for reason in "ab":
        times = [at for each, at, _ in lines if each == reason]
        assert all(later - earlier >= INTERVAL_S for earlier, later in pairwise(times))
    told = sum(count for _, _, count in lines + [(each, now, count) for each, count in refusals.take_all(now)])
    assert told == sum(not looks for _, _, looks in events)
