"""What is observed after the answer: all of it, in order, also at the end."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine import afterwards
from appliance.engine.afterwards import Afterwards
from appliance.engine.events import Observation, Produced
from appliance.engine.right_of_way import RightOfWay


def seen(number: int) -> Observation:
    return Produced("l2", ok=True, reason=str(number))


async def test_it_waits_until_the_request_has_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    way, made = RightOfWay(max_wait_s=60.0), list[Observation]()
    later = Afterwards(made.append, way)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        way.enter()
        later.put(seen(1))
        later.put(seen(2))
        await trio.testing.wait_all_tasks_blocked()
        assert (made, len(later)) == ([], 2)
        way.leave()
        await trio.testing.wait_all_tasks_blocked()
        assert (made, len(later)) == ([seen(1), seen(2)], 0)
        later.put(seen(3))
        await trio.testing.wait_all_tasks_blocked()
        assert made[-1] == seen(3)
        nursery.cancel_scope.cancel()


async def test_who_looks_sees_everything() -> None:
    made: list[Observation] = []
    later = Afterwards(made.append, RightOfWay())
    later.put(seen(1))
    later.make_all()
    later.make_all()
    assert made == [seen(1)]


async def test_nothing_is_lost_when_it_ends() -> None:
    way, made = RightOfWay(max_wait_s=60.0), list[Observation]()
    later = Afterwards(made.append, way)
    way.enter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        later.put(seen(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert made == [seen(1)]


@given(count=st.integers(0, 40), bound=st.integers(1, 10))
def test_too_many_are_made_at_once_and_none_out_of_order(count: int, bound: int) -> None:
    made: list[Observation] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(afterwards, "MAX_WAITING", bound)
        later = Afterwards(made.append, RightOfWay())
        for number in range(count):
            later.put(seen(number))
        assert len(later) == min(count, bound)
        assert made == [seen(number) for number in range(count - len(later))]
        later.make_all()
    assert made == [seen(number) for number in range(count)]
