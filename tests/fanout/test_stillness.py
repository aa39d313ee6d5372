"""Whether anybody waits for the event loop."""

import socket

import pytest
import trio
from trio._core import _run as trio_run

from appliance.fanout.stillness import Stillness


async def still(is_still: Stillness) -> bool:
    """What it says in a pass in which nothing else happens."""
    await trio.testing.wait_all_tasks_blocked()
    return is_still()


async def test_the_trio_that_is_installed_can_be_asked() -> None:
    assert Stillness().is_known


async def test_alone_it_is_still() -> None:
    assert await still(Stillness())


async def test_a_task_that_can_run_is_somebody() -> None:
    is_still = Stillness()
    assert await still(is_still)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        assert not is_still()
    assert await still(is_still)


async def test_a_task_whose_bytes_have_come_is_somebody() -> None:
    is_still = Stillness()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, ours)
            assert await still(is_still)
            theirs.send(b"x")
            assert not is_still()
        assert await still(is_still)


async def test_a_thread_that_is_done_is_somebody() -> None:
    is_still, token = Stillness(), trio.lowlevel.current_trio_token()
    await trio.testing.wait_all_tasks_blocked()
    token.run_sync_soon(lambda: None)
    assert not is_still()


def test_outside_of_a_loop_nothing_is_known() -> None:
    is_still = Stillness()
    assert not is_still.is_known
    assert not is_still()


async def test_with_another_trio_it_is_never_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trio_run, "GLOBAL_RUN_CONTEXT")
    is_still = Stillness()
    monkeypatch.undo()
    assert not is_still.is_known
    assert not await still(is_still)
