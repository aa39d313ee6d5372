"""What is done after the answer: all of it, in order, soon, also at the end."""

from collections.abc import Callable
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine import afterwards
from appliance.engine.afterwards import MAX_WAIT_S, Afterwards


class Notes(list[int]):
    """What was done."""

    def note(self, number: int) -> Callable[[], None]:
        return partial(self.append, number)


async def test_it_waits_until_the_last_request_has_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    made, later = Notes(), Afterwards(max_wait_s=60.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        later.request_came()
        later.request_came()
        later.put(made.note(1))
        await trio.sleep(1)
        later.put(made.note(2))
        later.request_answered()
        await trio.sleep(1)
        assert (made, len(later)) == ([], 2)
        later.request_answered()
        assert made == []  # who answers goes on first
        await trio.testing.wait_all_tasks_blocked()
        assert (made, len(later)) == ([1, 2], 0)
        nursery.cancel_scope.cancel()


async def test_a_request_that_stays_open_holds_nothing_up_for_long(autojump_clock: trio.testing.MockClock) -> None:
    done: list[float] = []
    later = Afterwards()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        later.request_came()
        for _ in range(3):
            await trio.sleep(1)
            began = trio.current_time()
            later.put(lambda: done.append(trio.current_time()))
            await trio.sleep(MAX_WAIT_S / 2)
            later.put(lambda: done.append(trio.current_time()))  # moves nothing
            await trio.sleep(1)
            assert done == [began + MAX_WAIT_S] * 2
            done.clear()
        nursery.cancel_scope.cancel()


async def test_where_nothing_is_open_it_is_done_in_the_next_turn() -> None:
    made, later = Notes(), Afterwards(max_wait_s=60.0)
    later.put(made.note(1))  # before it runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        await trio.testing.wait_all_tasks_blocked()
        assert made == [1]
        later.put(made.note(2))
        assert made == [1]
        await trio.testing.wait_all_tasks_blocked()
        assert made == [1, 2]
        nursery.cancel_scope.cancel()


async def test_what_was_put_before_it_ran_waits_no_longer_than_other_things(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made, later = Notes(), Afterwards()
    later.request_came()
    later.put(made.note(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        await trio.sleep(MAX_WAIT_S * 1.5)
        assert made == [1]
        nursery.cancel_scope.cancel()


async def test_what_is_put_while_things_are_done_is_done_too() -> None:
    made, later = Notes(), Afterwards()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        later.put(lambda: later.put(made.note(1)))
        await trio.testing.wait_all_tasks_blocked()
        assert made == [1]
        nursery.cancel_scope.cancel()


async def test_who_looks_sees_everything() -> None:
    made, later = Notes(), Afterwards()
    later.put(made.note(1))
    later.do_all()
    later.do_all()
    assert made == [1]


async def test_nothing_is_lost_when_it_ends() -> None:
    made, later = Notes(), Afterwards(max_wait_s=60.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        later.request_came()
        later.put(made.note(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert made == [1]


@given(count=st.integers(0, 40), bound=st.integers(1, 10))
def test_too_many_are_done_at_once_and_none_out_of_order(count: int, bound: int) -> None:
    made, later = Notes(), Afterwards()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(afterwards, "MAX_WAITING", bound)
        for number in range(count):
            later.put(made.note(number))
        assert len(later) == min(count, bound)
        assert made == list(range(count - len(later)))
        later.do_all()
    assert made == list(range(count))
