"""Copies give way to requests that are open, and not for ever."""

import trio

from appliance.engine.right_of_way import MAX_WAIT_S, RightOfWay


async def test_where_nothing_is_open_it_costs_no_turn_of_the_loop() -> None:
    way = RightOfWay()
    way.enter()
    way.leave()
    with trio.CancelScope() as scope:
        scope.cancel()
        await way.give()
    assert not scope.cancelled_caught


async def test_who_gives_way_goes_on_when_the_last_request_has_its_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    way = RightOfWay(max_wait_s=60.0)
    passed: list[float] = []

    async def copy() -> None:
        await way.give()
        passed.append(trio.current_time())

    way.enter()
    way.enter()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(copy)
        await trio.sleep(1)
        way.leave()
        await trio.sleep(1)
        assert passed == []
        way.leave()
    assert passed == [began + 2] * 3


async def test_a_request_that_stays_open_holds_nobody_up_for_long(autojump_clock: trio.testing.MockClock) -> None:
    way = RightOfWay()
    way.enter()
    began = trio.current_time()
    await way.give()
    assert trio.current_time() == began + MAX_WAIT_S
    way.leave()
    await way.give()
    assert trio.current_time() == began + MAX_WAIT_S


async def test_the_one_that_answers_runs_on_before_those_who_gave_way() -> None:
    way = RightOfWay(max_wait_s=60.0)
    order: list[str] = []

    async def copy() -> None:
        await way.give()
        order.append("copy")

    way.enter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy)
        await trio.testing.wait_all_tasks_blocked()
        way.leave()
        order.append("answer")  # nothing was awaited between
    assert order == ["answer", "copy"]
