"""Which of the same events are worth a line."""

from collections.abc import Hashable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from appliance.telemetry.seldom import Seldom

INTERVAL_S = 10.0


def test_it_is_said_at_the_first_time_and_then_now_and_then_with_how_often() -> None:
    seldom = Seldom(every_s=10.0)
    assert [seldom.note("a", float(now)) for now in (0, 1, 2, 9, 10, 11, 25)] == [1, 0, 0, 0, 4, 0, 2]


def test_each_key_is_said_by_itself() -> None:
    seldom = Seldom(every_s=10.0)
    assert [seldom.note(key, 0.0) for key in ("a", "b", ("a", 401), "a")] == [1, 1, 1, 0]


def test_who_has_very_many_faces_is_not_said_with_each() -> None:
    seldom = Seldom(every_s=10.0, max_keys=3)
    assert sum(seldom.note(number, 1.0) for number in range(100)) == 3
    assert seldom.note(50, 21.1) == 1, "there is room again"


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 3)), max_size=100))
def test_every_time_is_counted_once_and_lines_of_a_key_are_apart(events: list[tuple[int, float]]) -> None:
    seldom = Seldom(every_s=10.0, max_keys=6)
    now, happened, told = 0.0, dict.fromkeys(range(6), 0), dict.fromkeys(range(6), 0)
    last: dict[int, float] = {}
    for key, pause_s in events:
        now += pause_s
        happened[key] += 1
        times = seldom.note(key, now)
        if times:
            assert now - last.get(key, -10.0) >= 10.0
            last[key] = now
        told[key] += times
        assert told[key] <= happened[key]
        assert key in last, "with room for all, the first time is said"


def test_the_first_is_told_at_once_and_those_after_it_by_number() -> None:
    refusals = Seldom(INTERVAL_S)
    assert [refusals.note("queue full", now) for now in (0.0, 1.0, 2.0)] == [1, 0, 0]
    assert refusals.take_due(INTERVAL_S - 0.1) == []
    assert refusals.take_due(INTERVAL_S) == [("queue full", 2)]
    assert refusals.take_due(3 * INTERVAL_S) == []
    assert refusals.note("queue full", 3 * INTERVAL_S) == 1


def test_each_reason_has_its_own_interval() -> None:
    refusals = Seldom(INTERVAL_S)
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
    refusals, now, lines = Seldom(INTERVAL_S), 0.0, list[tuple[Hashable, float, int]]()
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
