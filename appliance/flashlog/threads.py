"""Where the log's SQLite calls run: threads of its own, so that nobody else's work can keep it waiting."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar, TypeVarTuple, Unpack, cast

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class RunSync(Protocol):
    """`trio.to_thread.run_sync`, or the call itself under a virtual clock (which would jump meanwhile)."""

    async def __call__(self, sync_fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T: ...


class OwnThreads:
    """A `RunSync` with its own bound, beside the 40 threads that the whole process shares by default."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, sync_fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run ``sync_fn`` in a thread and wait for it, also when cancelled: a commit is never abandoned."""
        return await trio.to_thread.run_sync(sync_fn, *args, limiter=self._limiter)


class _Call(Generic[T]):
    """One call on its way through a thread and back to the task that waits for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._task = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 it is raised in the task that waits
            self._error = error
        try:
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._task)
        except trio.RunFinishedError:
            return  # the loop crashed

    async def wait(self) -> T:
        """Until it is done, also when cancelled."""
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        if self._error is None:
            return cast("T", self._result)
        try:
            raise self._error
        finally:
            self._error = None  # else it would hold the frames that hold it


class OwnThread:
    """A `RunSync` on one thread, one call after another, from the first call until the end of the `with` block.

    A call is two trips between threads no more: `trio.to_thread` takes twice that, and it counts beside an fsync.
    """

    def __init__(self, name: str) -> None:
        # Bounded by the tasks that wait: each has one call in it.
        self._calls: queue.SimpleQueue[_Call[object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    async def __call__(self, sync_fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run ``sync_fn`` in the thread and wait for it, also when cancelled: a commit is never abandoned."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._thread.ident:
            self._thread.start()
        call = _Call(lambda: sync_fn(*args))
        self._calls.put(cast("_Call[object]", call))
        return await call.wait()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call  # what it returned is not to live until the next one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)


async def run_inline(sync_fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Run ``sync_fn`` on the loop: for tests with a virtual clock."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)
