import gc
import threading
import weakref

import pytest
import trio
import trio.testing

from appliance.flashlog.threads import OwnThread, OwnThreads, run_inline


async def test_inline_is_a_checkpoint_and_the_call() -> None:
    with trio.testing.assert_checkpoints():
        assert await run_inline(threading.get_ident) == threading.get_ident()


async def test_own_threads_are_bounded_and_not_shared_with_the_rest_of_the_process() -> None:
    run_sync = OwnThreads(1)
    running = 0
    most = 0
    release = threading.Event()

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1

    shared = trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as nursery:
        for _ in range(int(shared.total_tokens)):
            nursery.start_soon(trio.to_thread.run_sync, release.wait, 120)
        with trio.fail_after(60):
            async with trio.open_nursery() as inner:
                for _ in range(10):
                    inner.start_soon(run_sync, work)
        release.set()
    assert most == 1


async def test_a_call_that_has_begun_is_waited_for_when_cancelled() -> None:
    begun, release = threading.Event(), threading.Event()
    done: list[bool] = []

    def work() -> None:
        begun.set()
        release.wait(30)
        done.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(OwnThreads(1), work)
        await trio.to_thread.run_sync(begun.wait, 30)
        nursery.cancel_scope.cancel()
        release.set()
    assert done == [True]


async def test_one_thread_makes_all_calls_one_after_another_in_their_order() -> None:
    order: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        order.append(number)
        return number * 2

    with OwnThread("test") as run_sync:
        assert [await run_sync(work, number) for number in range(3)] == [0, 2, 4]
        begun, release = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            release.wait(30)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_sync, hold)
            await trio.to_thread.run_sync(begun.wait, 30)
            for number in range(3, 8):
                nursery.start_soon(run_sync, work, number)
                await trio.testing.wait_all_tasks_blocked()
            assert order == [0, 1, 2]
            release.set()
    assert order == list(range(8))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_what_a_call_raises_is_raised_where_it_was_made_and_the_thread_goes_on() -> None:
    with OwnThread("test") as run_sync:
        for error in (ValueError("x"), SystemExit(3)):
            with pytest.raises(type(error)) as found:
                await run_sync(_raise, error)
            assert found.value is error
        assert await run_sync(len, "ab") == 2


def _raise(error: BaseException) -> None:
    raise error


async def test_a_call_in_the_one_thread_is_waited_for_when_cancelled() -> None:
    begun, release = threading.Event(), threading.Event()
    done: list[bool] = []

    def work() -> None:
        begun.set()
        release.wait(30)
        done.append(True)

    with OwnThread("test") as run_sync:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_sync, work)
            await trio.to_thread.run_sync(begun.wait, 30)
            nursery.cancel_scope.cancel()
            release.set()
        assert done == [True]
        with trio.CancelScope() as scope:
            scope.cancel()
            await run_sync(work)
        assert scope.cancelled_caught
        assert done == [True]


async def test_the_thread_begins_with_the_first_call_and_ends_with_the_block() -> None:
    def alive() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "mine"]

    with OwnThread("mine") as run_sync:
        assert alive() == []
        await run_sync(len, "")
        (thread,) = alive()
    await trio.to_thread.run_sync(thread.join, 30)
    assert alive() == []


async def test_nothing_of_a_call_outlives_it() -> None:
    class Result:
        pass

    with OwnThread("test") as run_sync:
        result = weakref.ref(await run_sync(Result))
        await run_sync(len, "")
        gc.collect()
        assert result() is None
