"""Where the log's SQLite calls run: threads of its own, so that nobody else's work can keep it waiting."""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

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


async def run_inline(sync_fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Run ``sync_fn`` on the loop: for tests with a virtual clock."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)
