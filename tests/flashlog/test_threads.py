import threading

import trio
import trio.testing

from appliance.flashlog.threads import OwnThreads, run_inline


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
            nursery.start_soon(trio.to_thread.run_sync, release.wait, 30)
        with trio.fail_after(20):
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
