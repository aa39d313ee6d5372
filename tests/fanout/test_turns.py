"""One at a time, those at the head first, and everybody gets on."""

import pytest
import trio

from appliance.fanout.pacing import SLICE_S
from appliance.fanout.turns import URGENT_IN_A_ROW, Turns


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_only_one_has_a_turn_however_many_there_are() -> None:
    turns, at_work, most = Turns(), 0, 0

    async def work() -> None:
        nonlocal at_work, most
        async with turns.take():
            at_work += 1
            most = max(most, at_work)
            await trio.lowlevel.checkpoint()
            at_work -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(work)
    assert most == 1


async def test_a_broadcast_comes_first_and_the_others_get_every_fourth_turn() -> None:
    clock, order = Clock(), list[str]()
    turns = Turns(clock)

    async def work(name: str, times: int) -> None:
        for _ in range(times):
            async with turns.take_urgent() if name == "broadcast" else turns.take():
                order.append(name)
                clock.now += SLICE_S

    async with trio.open_nursery() as nursery, turns.take():
        for name in ("broadcast", "broadcast", "other", "other"):  # so that somebody of each always waits
            nursery.start_soon(work, name, 20)
        await trio.testing.wait_all_tasks_blocked()
    early = order[:20]
    assert early == (["broadcast"] * URGENT_IN_A_ROW + ["other"]) * 5
    assert len(order) == 80


async def test_who_is_cancelled_while_it_waits_takes_no_turn_with_it() -> None:
    turns = Turns()

    async def wait() -> None:
        async with turns.take():
            raise AssertionError("cancelled before its turn")

    async with trio.open_nursery() as nursery, turns.take():
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(30):
        async with turns.take():
            pass


async def test_a_turn_that_ends_early_hands_the_rest_of_its_slice_on() -> None:
    clock = Clock()
    turns = Turns(clock)
    async with turns.take():
        until = turns.pace.until
        clock.now += SLICE_S / 2
    async with turns.take():
        assert turns.pace.until == until
        clock.now += SLICE_S
    async with turns.take():
        assert turns.pace.until == clock.now + SLICE_S


async def test_who_has_the_turn_sees_whether_somebody_else_wants_it() -> None:
    turns, seen = Turns(), list[bool]()

    async def come() -> None:
        async with turns.take():
            pass

    async with trio.open_nursery() as nursery, turns.take_urgent():
        seen.append(turns.wanted)
        nursery.start_soon(come)
        await trio.testing.wait_all_tasks_blocked()
        seen.append(turns.wanted)
    assert [*seen, turns.wanted] == [False, True, False]


async def test_a_turn_that_fails_is_handed_on() -> None:
    turns = Turns()
    with pytest.raises(RuntimeError):
        async with turns.take():
            raise RuntimeError("broken")
    with trio.fail_after(30):
        async with turns.take():
            pass


async def test_a_turn_says_when_its_slice_is_over() -> None:
    clock = Clock()
    turns = Turns(clock)
    async with turns.take() as is_over:
        assert [is_over()] == [False]
        clock.now += SLICE_S
        assert [is_over()] == [True]
