import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from appliance.domain.errors import LogError
from appliance.flashlog import writer as writer_module
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.store import Store, Work
from appliance.flashlog.threads import run_inline
from appliance.flashlog.writer import Writer

T = TypeVar("T")


class StubStore(Store):
    """Runs jobs without a disk; the test says when a transaction may end and whether it fails."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.checkpoints = 0
        self.checkpoint_failure: LogError | None = None
        self.due = False

    def apply(self, jobs: Sequence[Work]) -> list[object]:
        self.batches.append(len(jobs))
        if self.failure is not None:
            raise self.failure
        return [self._attempt(job) for job in jobs]

    @property
    def checkpoint_is_due(self) -> bool:
        return self.due

    def checkpoint(self) -> None:
        self.checkpoints += 1
        self.due = False
        if self.checkpoint_failure is not None:
            raise self.checkpoint_failure


class Gate:
    """A `run_sync` that waits for the test before each call."""

    def __init__(self) -> None:
        self.open = trio.Event()

    async def __call__(self, sync_fn: Callable[..., T], *args: object) -> T:
        await self.open.wait()
        return sync_fn(*args)


class Bench:
    """A writer with its store and what it reported."""

    def __init__(self, run_sync: object = run_inline) -> None:
        self.gate = run_sync if isinstance(run_sync, Gate) else Gate()
        self.store = StubStore()
        self.done: list[object] = []
        self.registry = CollectorRegistry()
        metrics = FlashlogMetrics.create(self.registry)
        self.writer = Writer(self.store, run_sync, metrics, self.done.extend)  # type: ignore[arg-type]

    @asynccontextmanager
    async def nursery(self) -> AsyncIterator[trio.Nursery]:
        """A nursery that closes the writer at its end, also when the test fails: the writer is shielded."""
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                self.gate.open.set()
                self.writer.close()

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


def answer(value: int) -> Callable[[Store], int]:
    return lambda _store: value


def refuse(_store: Store) -> None:
    raise LogError("refused")


async def test_a_job_returns_its_result_and_the_report_comes_first() -> None:
    bench = Bench()
    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)
        assert await bench.writer.submit(answer(42)) == 42
        assert bench.done == [42]


async def test_everything_that_waits_goes_into_one_transaction() -> None:
    bench = Bench(Gate())
    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)
        nursery.start_soon(bench.writer.submit, answer(0))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 10):
            nursery.start_soon(bench.writer.submit, answer(number))
        await trio.testing.wait_all_tasks_blocked()
        assert (bench.store.batches, bench.writer.waiting) == ([], 10)
        assert repr(bench.writer) == "<Writer 10 waiting>"
        bench.gate.open.set()
        await trio.testing.wait_all_tasks_blocked()
    assert bench.store.batches == [1, 9]
    assert sorted(value for value in bench.done if isinstance(value, int)) == list(range(10))


async def test_jobs_happen_in_the_order_of_their_submission() -> None:
    bench = Bench(Gate())
    async with bench.nursery() as nursery:
        for number in range(20):
            nursery.start_soon(bench.writer.submit, answer(number))
            await trio.testing.wait_all_tasks_blocked()
        bench.gate.open.set()
        nursery.start_soon(bench.writer.run)
        await trio.testing.wait_all_tasks_blocked()
    assert bench.done == list(range(20))


async def test_a_refused_job_does_not_disturb_its_neighbours() -> None:
    bench = Bench()
    results: list[object] = []

    async def submit(job: Callable[[Store], object]) -> None:
        try:
            results.append(await bench.writer.submit(job))
        except LogError as error:
            results.append(str(error))

    async with bench.nursery() as nursery:
        async with trio.open_nursery() as inner:
            for job in (answer(1), refuse, answer(2)):
                inner.start_soon(submit, job)
            nursery.start_soon(bench.writer.run)
        assert sorted(results, key=str) == [1, 2, "refused"]


async def test_a_failed_transaction_is_told_to_each_of_its_jobs_and_the_next_is_tried() -> None:
    bench = Bench()
    raised: list[LogError] = []

    async def submit() -> None:
        with pytest.raises(LogError, match="disk full") as caught:
            await bench.writer.submit(answer(1))
        raised.append(caught.value)

    async with bench.nursery() as outer:
        bench.store.failure = LogError("disk full")
        async with trio.open_nursery() as inner:
            for _ in range(3):
                inner.start_soon(submit)
            await trio.testing.wait_all_tasks_blocked()
            outer.start_soon(bench.writer.run)
        assert len({id(error) for error in raised}) == 3
        assert (bench.writer.failures, bench.writer.last_error) == (1, "disk full")
        assert bench.metric("flashlog_failed_writes_total") == 1
        bench.store.failure = None
        assert await bench.writer.submit(answer(2)) == 2
    assert bench.done == [2]


async def test_a_bug_ends_the_writer_and_nobody_waits_for_ever() -> None:
    bench = Bench()
    told: list[str] = []

    async def submit() -> None:
        try:
            await bench.writer.submit(answer(1))
        except LogError as error:
            told.append(str(error))

    async def run() -> None:
        with pytest.raises(KeyError, match="bug"):
            await bench.writer.run()

    bench.store.failure = KeyError("bug")
    async with bench.nursery() as nursery:
        nursery.start_soon(submit)
        nursery.start_soon(submit)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(run)
    with pytest.raises(LogError, match="the flashblock log is closed"):
        await bench.writer.submit(answer(2))
    assert told == ["the flashblock log is closed"] * 2


async def test_a_full_queue_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING", 2)
    bench = Bench()
    async with bench.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(bench.writer.submit, answer(1))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LogError, match="the disk does not keep up: 2 writes are waiting"):
            await bench.writer.submit(answer(3))
        nursery.start_soon(bench.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await bench.writer.submit(answer(4)) == 4


async def test_the_queue_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_BYTES", 100)
    bench = Bench()
    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.submit, answer(1), 101)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LogError, match="the disk does not keep up"):
            await bench.writer.submit(answer(2), 1)
        nursery.start_soon(bench.writer.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await bench.writer.submit(answer(3), 1) == 3


async def test_a_transaction_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_BATCH", 3)
    monkeypatch.setattr(writer_module, "MAX_BATCH_BYTES", 100)
    bench = Bench()
    async with bench.nursery() as nursery:
        for size in (1, 1, 1, 1, 100, 1, 1):
            nursery.start_soon(bench.writer.submit, answer(size), size)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bench.writer.run)
        await trio.testing.wait_all_tasks_blocked()
    assert bench.store.batches == [3, 2, 2]


async def test_closing_writes_what_waits_and_takes_no_more() -> None:
    bench = Bench()
    async with bench.nursery() as nursery:
        for number in range(5):
            nursery.start_soon(bench.writer.submit, answer(number))
        await trio.testing.wait_all_tasks_blocked()
        bench.writer.close()
        with pytest.raises(LogError, match="the flashblock log is closed"):
            await bench.writer.submit(answer(9))
        nursery.start_soon(bench.writer.run)
    assert len(bench.done) == 5


async def test_a_cancelled_scope_around_it_does_not_stop_the_writer_before_its_work_is_done() -> None:
    bench = Bench()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await bench.writer.run()

    async with bench.nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(bench.writer.submit, answer(1))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        assert await bench.writer.submit(answer(2)) == 2
    assert bench.done == [1, 2]


async def test_a_waiter_that_is_cancelled_disturbs_nobody() -> None:
    bench = Bench(Gate())
    results: list[int] = []

    async def submit(value: int) -> None:
        results.append(await bench.writer.submit(answer(value)))

    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)
        impatient = trio.CancelScope()

        async def give_up() -> None:
            with impatient:
                await submit(1)

        nursery.start_soon(submit, 0)  # in flight
        nursery.start_soon(give_up)  # waits
        nursery.start_soon(submit, 2)
        await trio.testing.wait_all_tasks_blocked()
        impatient.cancel()
        await trio.testing.wait_all_tasks_blocked()
        bench.gate.open.set()
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(results) == [0, 2]
    assert len(bench.done) == 3


async def test_a_checkpoint_waits_until_nobody_waits() -> None:
    bench = Bench(Gate())
    bench.store.due = True
    checkpoints_at: list[int] = []

    async def submit(value: int) -> None:
        await bench.writer.submit(answer(value))
        checkpoints_at.append(bench.store.checkpoints)

    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)
        nursery.start_soon(submit, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(submit, 2)
        await trio.testing.wait_all_tasks_blocked()
        bench.gate.open.set()
        await trio.testing.wait_all_tasks_blocked()
    assert bench.store.batches == [1, 1]
    assert bench.store.checkpoints == 1
    assert checkpoints_at[0] == 0


async def test_a_failed_checkpoint_is_counted_and_nobody_is_told() -> None:
    bench = Bench()
    bench.store.due = True
    bench.store.checkpoint_failure = LogError("no room")
    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)
        assert await bench.writer.submit(answer(1)) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert (bench.writer.failures, bench.writer.last_error) == (1, "no room")
        assert await bench.writer.submit(answer(2)) == 2


async def test_the_loop_goes_on_while_the_disk_is_slow() -> None:
    bench = Bench(trio.to_thread.run_sync)
    may_end = threading.Event()
    async with bench.nursery() as nursery:
        nursery.start_soon(bench.writer.run)

        def slow(_store: Store) -> int:
            may_end.wait(30)
            return 1

        async with trio.open_nursery() as inner:
            inner.start_soon(bench.writer.submit, slow)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert bench.done == []
            may_end.set()
        assert bench.done == [1]
