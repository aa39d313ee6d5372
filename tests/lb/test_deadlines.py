from hypothesis import given
from hypothesis import strategies as st

from appliance.lb.deadlines import Deadlines


def test_what_is_over_in_time_is_never_due() -> None:
    deadlines: Deadlines[str] = Deadlines(3.0)
    deadlines.start("a", 0.0)
    deadlines.start("b", 1.0)
    deadlines.stop("a")
    deadlines.stop("unknown")
    assert deadlines.take_due(3.5) == []
    assert deadlines.take_due(4.0) == ["b"]
    assert len(deadlines) == 0


def test_the_next_look_is_when_the_oldest_is_due_or_a_whole_timeout_ahead() -> None:
    deadlines: Deadlines[str] = Deadlines(3.0)
    assert deadlines.next_look(10.0) == 13.0
    deadlines.start("a", 11.0)
    deadlines.start("b", 12.0)
    assert deadlines.next_look(12.0) == 14.0


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=50))
def test_a_timer_that_looks_when_told_is_never_late(steps: list[tuple[float, bool]]) -> None:
    deadlines: Deadlines[int] = Deadlines(3.0)
    now, look = 0.0, deadlines.next_look(0.0)
    running: dict[int, float] = {}
    for number, (passed, ends) in enumerate(steps):
        while look <= now + passed:
            for thing in deadlines.take_due(look):
                assert running.pop(thing) + 3.0 == look
            look = deadlines.next_look(look)
        now += passed
        assert all(began + 3.0 > now for began in running.values())
        if ends and running:
            thing = next(iter(running))
            deadlines.stop(thing)
            del running[thing]
        else:
            deadlines.start(number, now)
            running[number] = now
