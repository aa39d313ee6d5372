import time

import trio

from tests.support.pulse import BEAT_S, measured


async def test_time_for_which_nothing_ran_is_added_up() -> None:
    async with measured() as pulse:
        await trio.sleep(BEAT_S)
        before = pulse.stood_still_s
        for _ in range(2):
            time.sleep(0.2)  # noqa: ASYNC251 as the machine does it to us
            await trio.sleep(3 * BEAT_S)
    assert pulse.stood_still_s - before >= 2 * (0.2 - BEAT_S)


async def test_a_loop_that_runs_freely_does_not_stand_still(autojump_clock: trio.abc.Clock) -> None:
    async with measured() as pulse:
        await trio.sleep(60)
    assert pulse.stood_still_s == 0
