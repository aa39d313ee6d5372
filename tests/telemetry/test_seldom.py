"""Which of the same events are worth a line."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.telemetry.seldom import Seldom


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
