"""The one writer: jobs wait in a queue, and everything that waits goes into the next transaction.

    submit -> queue -> take all that wait -> one transaction in the writer's thread -> outcomes -> waiters

While a transaction runs (0.2 ms, or what the disk needs) further jobs gather: group commit without a timer.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import trio

from appliance.domain.errors import LogError
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.store import Store
from appliance.flashlog.threads import RunSync
from appliance.telemetry.logging import get_logger

T = TypeVar("T")

log = get_logger("flashlog")

MAX_WAITING = 1024
MAX_WAITING_BYTES = 64 * 2**20
"""Bounds of the queue. When it is full a job is refused with LogError: the disk does not keep up."""

MAX_BATCH = 256
MAX_BATCH_BYTES = 8 * 2**20
"""Bounds of one transaction, so that the first job in it does not wait for a whole queue."""


class _Ticket(Generic[T]):
    """One job and the place where its outcome appears."""

    def __init__(self, work: Callable[[Store], T], size: int) -> None:
        self.work = work
        self.size = size
        self.settled = trio.Event()
        self.outcome: T | LogError = LogError("the flashblock log is closed")

    def settle(self, outcome: T | LogError) -> None:
        self.outcome = outcome
        self.settled.set()


class Writer:
    """Runs jobs on the store, in the order of their submission."""

    def __init__(
        self,
        store: Store,
        run_sync: RunSync,
        metrics: FlashlogMetrics,
        on_done: Callable[[Sequence[object]], None],
    ) -> None:
        """``on_done`` gets the outcomes of each transaction on the loop, before any waiter wakes."""
        self._store = store
        self._run_sync = run_sync
        self._metrics = metrics
        self._on_done = on_done
        self._queue: deque[_Ticket[object]] = deque()
        self._in_flight: list[_Ticket[object]] = []
        self._waiting_bytes = 0
        self._wake = trio.Event()
        self._closing = False
        self.failures = 0
        self.last_error: str | None = None

    def __repr__(self) -> str:
        return f"<Writer {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """Jobs that are not on disk yet."""
        return len(self._queue) + len(self._in_flight)

    async def submit(self, work: Callable[[Store], T], size: int = 0) -> T:
        """Run ``work`` in the next transaction and return its result once that is on disk.

        Raises the LogError that ``work`` raised, or LogError when the transaction failed, the queue is full
        or the log is closed. When the waiting is cancelled the job may still happen; nothing else suffers.
        """
        ticket = _Ticket(work, size)
        self._enqueue(cast("_Ticket[object]", ticket))
        await ticket.settled.wait()
        if isinstance(ticket.outcome, LogError):
            raise ticket.outcome
        return ticket.outcome

    def post(self, work: Callable[[Store], object]) -> None:
        """Run ``work`` in the next transaction; nobody waits for it. Dropped where `submit` would refuse."""
        with contextlib.suppress(LogError):
            self._enqueue(_Ticket(work, 0))

    def _enqueue(self, ticket: _Ticket[object]) -> None:
        if self._closing:
            raise LogError("the flashblock log is closed")
        if len(self._queue) >= MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            raise LogError(f"the disk does not keep up: {len(self._queue)} writes are waiting")
        self._queue.append(ticket)
        self._waiting_bytes += ticket.size
        self._wake.set()

    def close(self) -> None:
        """Refuse new jobs; `run` returns when those that wait are done."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Write until closed. Shielded: it ends by `close`, not by cancellation, or by a bug that propagates."""
        try:
            with trio.CancelScope(shield=True):
                while await self._wait_for_work():
                    await self._write(self._take())
                    await self._checkpoint_when_idle()
        finally:
            self._closing = True
            self._refuse([*self._in_flight, *self._queue], "the flashblock log is closed")

    async def _wait_for_work(self) -> bool:
        while not self._queue and not self._closing:
            self._wake = trio.Event()
            await self._wake.wait()
        return bool(self._queue)

    def _take(self) -> list[_Ticket[object]]:
        taken: list[_Ticket[object]] = []
        size = 0
        while self._queue and len(taken) < MAX_BATCH and size <= MAX_BATCH_BYTES:
            ticket = self._queue.popleft()
            size += ticket.size
            taken.append(ticket)
        self._waiting_bytes -= size
        return taken

    async def _write(self, batch: list[_Ticket[object]]) -> None:
        self._in_flight = batch
        self._metrics.batch_size.observe(len(batch))
        try:
            outcomes = await self._run_sync(self._store.apply, [ticket.work for ticket in batch])
        except LogError as error:
            self._note_failure("write failed", error)
            self._refuse(batch, str(error))
        else:
            self._on_done(outcomes)
            for ticket, outcome in zip(batch, outcomes, strict=True):
                ticket.settle(outcome)
        self._in_flight = []

    def _refuse(self, tickets: list[_Ticket[object]], why: str) -> None:
        for ticket in tickets:
            ticket.settle(LogError(why))  # one each: a raised exception belongs to one task

    async def _checkpoint_when_idle(self) -> None:
        """A checkpoint takes 5 to 20 ms: not while someone waits, and not within a commit."""
        if self._queue or not self._store.checkpoint_is_due:
            return
        started = trio.current_time()
        try:
            await self._run_sync(self._store.checkpoint)
        except LogError as error:
            self._note_failure("checkpoint failed", error)
        self._metrics.checkpoint_seconds.observe(trio.current_time() - started)

    def _note_failure(self, event: str, error: LogError) -> None:
        self._metrics.failed.inc()
        self.failures += 1
        self.last_error = str(error)
        log.error(event, error=self.last_error)
