"""A long loop and the rest of the process."""

import pytest
import trio

from appliance.fanout.pacing import HURRIED_SLICE_S, MAX_PASSES, PASS_EVERY_S, SLICE_S, Pace


class Clock:
    """Time that moves when told to, and by a little with each look at it."""

    def __init__(self, look_s: float = 0.0) -> None:
        self.now = 0.0
        self.look_s = look_s

    def __call__(self) -> float:
        self.now += self.look_s
        return self.now


def test_a_slice_ends_with_its_time() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert [pace.spent] == [False]
    clock.now = SLICE_S
    assert [pace.spent] == [True]


async def test_giving_way_begins_a_new_slice() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now = 5.0
    await pace.give_way()
    assert pace.until == 5.0 + SLICE_S


async def test_giving_way_to_nobody_takes_two_passes() -> None:
    clock = Clock(look_s=0.000_01)
    await Pace(clock).give_way()
    looks = clock.now / clock.look_s
    assert round(looks) == 8  # at the start three times, twice for each of two passes, at the end


async def test_giving_way_lasts_as_long_as_others_work() -> None:
    clock = Clock(look_s=0.000_01)
    pace = Pace(clock)
    await pace.give_way()  # what an idle pass takes
    done: list[int] = []

    async def work(steps: int) -> None:
        for step in range(steps):
            clock.now += SLICE_S / 10
            done.append(step)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, 4)
        await pace.give_way()
        assert done == [0, 1, 2, 3]


async def test_giving_way_ends_when_others_never_do() -> None:
    clock = Clock(look_s=0.000_01)
    pace = Pace(clock)
    await pace.give_way()
    passes: list[int] = []

    async def busy(work_s: float) -> None:
        for _ in range(10 * MAX_PASSES):
            clock.now += work_s
            passes.append(1)
            await trio.lowlevel.checkpoint()

    for work_s, most in [(SLICE_S / 20, MAX_PASSES), (SLICE_S / 2, 2), (2 * SLICE_S, 1)]:
        async with trio.open_nursery() as nursery:
            passes.clear()
            nursery.start_soon(busy, work_s)
            await pace.give_way()
            assert 1 <= len(passes) <= most + 1  # one more, or not, as trio shuffles
            nursery.cancel_scope.cancel()


async def passes(pace: Pace) -> int:
    """How many passes of the loop giving way takes."""
    seen = 0

    async def count() -> None:
        nonlocal seen
        while True:
            await trio.lowlevel.checkpoint()
            seen += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = seen
        await pace.give_way()
        after = seen
        nursery.cancel_scope.cancel()
    return after - before


async def test_where_nobody_waits_the_next_slice_begins_at_once() -> None:
    clock = Clock()
    pace = Pace(clock, is_still=lambda: True)
    assert await passes(pace) > 0  # the first time others may have waited for long
    clock.now = SLICE_S
    assert await passes(pace) == 0
    assert pace.until == 2 * SLICE_S


async def test_somebody_who_waits_gets_its_pass() -> None:
    clock, waiting = Clock(), False
    pace = Pace(clock, is_still=lambda: not waiting)
    await pace.give_way()
    assert await passes(pace) == 0
    waiting = True
    assert await passes(pace) > 0


async def test_timers_wait_for_four_slices_at_most() -> None:
    clock = Clock()
    pace = Pace(clock, is_still=lambda: True)
    await pace.give_way()
    slices = []
    for number in range(1, 13):
        clock.now = number * SLICE_S
        slices.append(await passes(pace) > 0)
    assert slices == [False, False, False, True] * 3
    assert PASS_EVERY_S == 4 * SLICE_S


async def test_while_others_have_work_to_the_end_each_slice_ends_with_a_pass() -> None:
    clock = Clock(look_s=0.000_01)
    pace = Pace(clock, is_still=lambda: True)
    await pace.give_way()
    assert await passes(pace) == 0
    steps: list[int] = []

    async def work() -> None:
        while True:
            clock.now += SLICE_S / 2
            steps.append(1)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.lowlevel.checkpoint()
        clock.now += PASS_EVERY_S  # so that the next one is a pass, whoever waits
        taken = []
        for _ in range(5):
            before = len(steps)
            await pace.give_way()
            taken.append(len(steps) > before)
        nursery.cancel_scope.cancel()
    assert all(taken)


async def test_while_somebody_is_in_a_hurry_slices_are_shorter() -> None:
    clock = Clock()
    answers = {"hurried": False, "still": False}
    pace = Pace(clock, is_still=lambda: answers["still"], hurried=lambda: answers["hurried"])
    lengths = []
    for hurried, still in ((False, False), (True, False), (True, True), (False, True)):
        answers.update(hurried=hurried, still=still)
        await pace.give_way()
        lengths.append(pace.until - clock.now)
    clock.now, answers["hurried"] = 5.0, True
    pace.renew()
    lengths.append(pace.until - clock.now)
    expected = [SLICE_S, HURRIED_SLICE_S, HURRIED_SLICE_S, SLICE_S, HURRIED_SLICE_S]
    assert lengths == pytest.approx(expected)
    assert HURRIED_SLICE_S < SLICE_S / 2
