from hypothesis import given
from hypothesis import strategies as st

from appliance.replication.held import Held, HeldWatch


def test_it_is_said_once_when_it_begins_and_once_when_it_ends_with_the_longest_time() -> None:
    watch = HeldWatch(2.0)
    said = [watch.look(held_s) for held_s in (0.0, 1.0, 2.0, 2.1, 3.0, 9.5, 0.0, 0.0)]
    assert said == [None, None, None, Held.BEGINS, None, None, Held.ENDS, None]
    assert watch.longest_s == 9.5


def test_what_is_committed_in_time_is_not_worth_a_line() -> None:
    watch = HeldWatch(2.0)
    assert {watch.look(held_s) for held_s in (0.0, 0.5, 1.9, 0.1)} == {None}


def test_a_second_time_is_said_again() -> None:
    watch = HeldWatch(2.0)
    assert [watch.look(held_s) for held_s in (3.0, 0.0, 4.0, 0.0)] == [Held.BEGINS, Held.ENDS] * 2
    assert watch.longest_s == 4.0


@given(st.lists(st.floats(0, 10)))
def test_beginnings_and_ends_take_turns(held: list[float]) -> None:
    watch = HeldWatch(2.0)
    said = [each for each in map(watch.look, held) if each is not None]
    assert said == [Held.BEGINS, Held.ENDS] * (len(said) // 2) + [Held.BEGINS] * (len(said) % 2)
    assert bool(held and held[-1] > 2.0) == (len(said) % 2 == 1)
