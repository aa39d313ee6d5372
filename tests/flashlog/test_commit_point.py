import pytest
import trio
import trio.testing

from appliance.domain.errors import LogError
from appliance.flashlog.commit_point import CommitPoint


def test_what_is_not_on_disk_cannot_be_committed() -> None:
    point = CommitPoint(3)
    point.commit_through(10)
    assert (point.appended, point.committed) == (3, 3)
    point.append_through(5)
    assert (point.appended, point.committed) == (5, 3)
    point.commit_through(10)
    assert (point.appended, point.committed) == (5, 5)


def test_positions_never_go_back() -> None:
    point = CommitPoint(5)
    point.append_through(3)
    point.commit_through(2)
    assert repr(point) == "<CommitPoint appended 5, committed 5>"


async def test_waiting_for_what_is_there_is_a_checkpoint_and_returns() -> None:
    with trio.testing.assert_checkpoints():
        await CommitPoint(5).wait_past(4)


async def test_all_who_wait_are_woken_by_the_position_that_they_wait_for() -> None:
    point = CommitPoint(0)
    woken: list[int] = []

    async def wait(position: int) -> None:
        await point.wait_past(position)
        woken.append(position)

    async with trio.open_nursery() as nursery:
        for position in range(5):
            nursery.start_soon(wait, position)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        point.append_through(5)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        point.commit_through(2)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1]
        point.commit_through(5)
    assert sorted(woken) == [0, 1, 2, 3, 4]


async def test_a_reader_that_is_woken_sees_every_position_however_fast_the_writer_is() -> None:
    point = CommitPoint(0)
    last = 2000

    async def write() -> None:
        for position in range(1, last + 1):
            point.append_through(position)
            point.commit_through(position)
            if position % 3 == 0:
                await trio.lowlevel.checkpoint()

    async def read(pause_every: int) -> None:
        seen = 0
        while seen < last:
            await point.wait_past(seen)
            assert point.committed > seen
            seen = point.committed
            if seen % pause_every == 0:
                await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for pause_every in range(1, 9):
                nursery.start_soon(read, pause_every)
            nursery.start_soon(write)


async def test_a_waiter_that_gives_up_takes_no_wake_up_from_others() -> None:
    point = CommitPoint(0)
    async with trio.open_nursery() as nursery:
        impatient = trio.CancelScope()

        async def give_up() -> None:
            with impatient:
                await point.wait_past(0)

        nursery.start_soon(give_up)
        nursery.start_soon(point.wait_past, 0)
        await trio.testing.wait_all_tasks_blocked()
        point.append_through(1)
        impatient.cancel()
        point.commit_through(1)
    assert impatient.cancelled_caught


async def test_closing_ends_the_waiting() -> None:
    point = CommitPoint(1)

    async def wait() -> None:
        with pytest.raises(LogError, match="the flashblock log is closed"):
            await point.wait_past(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        point.close()
    await wait()
    await point.wait_past(0)  # what is committed stays committed
