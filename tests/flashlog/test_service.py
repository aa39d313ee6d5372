"""The log as its neighbours use it, on a real file."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from appliance.domain.errors import EquivocationError, LogError, OutOfOrderError, PrunedError
from appliance.domain.payloads import PayloadState
from appliance.domain.positions import AfterBlock, CurrentPayload, Located
from appliance.flashlog import FlashLog, FlashlogMetrics, RetentionLimits, TailLimits, open_flashlog, run_inline
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.retention import ENTRY_OVERHEAD_BYTES
from tests.flashlog.support import flashblock, payload_id, real_flashblocks

MAX = 2**40


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[FlashLog]:
    """A log with the default threads."""
    async with open_flashlog(folder) as log:
        yield log


async def fill(log: FlashLog, *payloads: int, flashblocks: int = 3) -> None:
    for payload in payloads:
        for index in range(flashblocks):
            await log.append(flashblock(payload, index), "a")


async def test_a_real_block_comes_out_as_it_went_in_also_after_a_restart(tmp_path: Path) -> None:
    originals = real_flashblocks()
    async with opened(tmp_path) as log:
        entries = [await log.append(original, "builder-1") for original in originals]
        assert [entry.position for entry in entries] == [1, 2, 3, 4, 5]
        assert log.head == log.appended == 5
        assert log.recent(0, 10) == entries
    async with opened(tmp_path) as log:
        located = await log.locate(AfterBlock(35535698, 1))
        assert located == Located(2)
        found = await log.read(located.position, limit=10, max_bytes=MAX)
        assert [entry.body for entry in found] == [original.body for original in originals[2:]]
        assert log.recent(2, 10) == found


async def test_an_entry_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.append(flashblock(1, 0), "a")
        with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as other:
            assert other.execute("SELECT count(*) FROM entries").fetchone() == (1,)


async def test_appends_at_the_same_time_share_transactions_and_keep_their_order(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with open_flashlog(tmp_path, metrics=FlashlogMetrics.create(registry)) as log:

        async def feed(payload: int) -> None:
            for index in range(10):
                entry = await log.append(flashblock(payload, index), "a")
                assert log.head >= entry.position

        async with trio.open_nursery() as nursery:
            for payload in range(20):
                nursery.start_soon(feed, payload)
        assert log.head == 200
        found = await log.read(0, limit=1000, max_bytes=MAX)
        assert log.recent(0, 1000) == found
        for payload in range(20):
            assert [e.index for e in found if e.payload_id == payload_id(payload)] == list(range(10))
    transactions = registry.get_sample_value("flashlog_batch_size_count")
    assert transactions is not None
    assert transactions < 150
    assert registry.get_sample_value("flashlog_appended_entries_total") == 200
    assert registry.get_sample_value("flashlog_head_position") == 200
    assert registry.get_sample_value("flashlog_append_seconds_count") == 200
    assert registry.get_sample_value("flashlog_file_bytes") == (tmp_path / DATABASE_NAME).stat().st_size


async def test_refusals_are_raised_counted_and_change_nothing(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with open_flashlog(tmp_path, metrics=FlashlogMetrics.create(registry)) as log:
        entry = await log.append(flashblock(1, 0), "a")
        assert await log.append(flashblock(1, 0), "a") == entry
        with pytest.raises(EquivocationError):
            await log.append(flashblock(1, 0, text="other"), "b")
        with pytest.raises(OutOfOrderError):
            await log.append(flashblock(1, 2), "a")
        assert log.head == 1
        (evidence,) = await log.evidence()
        assert (evidence.builder, evidence.index) == ("b", 0)
        statistics = log.statistics()
    assert (statistics["equivocations"], statistics["out_of_order"]) == (1, 1)
    assert registry.get_sample_value("flashlog_equivocations_total") == 1
    assert registry.get_sample_value("flashlog_out_of_order_total") == 1


async def test_the_state_of_a_payload(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path, clock=lambda: 77.0) as log:
        await fill(log, 1)
        await log.set_state(payload_id(1), PayloadState.SEALED, "0xabc")
        await log.set_state(payload_id(1), PayloadState.LANDED)
        record = await log.payload(payload_id(1))
        assert record is not None
        assert (record.state, record.block_hash, record.ended_at) == (PayloadState.LANDED, "0xabc", 77.0)
        with pytest.raises(LogError, match="is not in the log"):
            await log.set_state(payload_id(2), PayloadState.SEALED)
        assert await log.payload(payload_id(2)) is None


async def test_a_reader_follows_the_log_without_missing_an_entry(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path, tail_limits=TailLimits(max_entries=5)) as log:
        last = 300
        followed: list[list[int]] = [[], [], []]

        async def follow(seen: list[int], lag: int) -> None:
            position = 0
            while position < last:
                await log.wait_past(position)
                for _ in range(lag):
                    await trio.lowlevel.checkpoint()
                entries = log.recent(position, 7)
                if entries is None:
                    entries = await log.read(position, limit=7, max_bytes=MAX)
                seen.extend(entry.position for entry in entries)
                position = seen[-1]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number, seen in enumerate(followed):
                    nursery.start_soon(follow, seen, number * 20)
                await fill(log, *range(100))
    assert followed == [list(range(1, last + 1))] * 3


async def test_a_cancelled_append_is_there_or_not_and_the_next_one_works(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for payload in range(100):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(log.append, flashblock(payload, 0), "a")
                    for _ in range(payload % 5):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            entry = await log.append(flashblock(payload, 0), "a")
            assert entry.position == payload + 1
            assert (await log.append(flashblock(payload, 0), "a")) == entry
        assert log.head == 100
        assert await log.evidence() == []


async def test_a_cancelled_append_wakes_those_who_wait_for_its_entry(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.wait_past, 0)
                await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(log.append, flashblock(1, 0), "a")
                        await trio.testing.wait_all_tasks_blocked()  # the job is with the writer
                        scope.cancel()
        assert log.head == 1


async def test_leaving_the_block_writes_what_waits(tmp_path: Path) -> None:
    positions: list[int] = []
    begun: list[int] = []

    async def append(log: FlashLog, payload: int) -> None:
        begun.append(payload)
        positions.append((await log.append(flashblock(payload, 0), "a")).position)

    async with trio.open_nursery() as nursery, opened(tmp_path) as log:
        for payload in range(10):
            nursery.start_soon(append, log, payload)
        while len(begun) < 10:
            await trio.lowlevel.checkpoint()
    assert sorted(positions) == list(range(1, 11))
    async with opened(tmp_path) as log:
        assert log.head == 10


async def test_a_cancelled_block_closes_the_files_and_leaves_a_good_log(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with opened(tmp_path) as log:
            await fill(log, 1)
            scope.cancel()
            await trio.sleep_forever()
    assert not (tmp_path / f"{DATABASE_NAME}-wal").exists()
    async with opened(tmp_path) as log:
        assert log.head == 3


async def test_after_closing_everything_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await fill(log, 1)
    for call in (
        lambda: log.append(flashblock(2, 0), "a"),
        lambda: log.set_state(payload_id(1), PayloadState.SEALED),
        lambda: log.read(0, limit=1, max_bytes=1),
        lambda: log.locate(CurrentPayload()),
        lambda: log.wait_past(3),
    ):
        with pytest.raises(LogError, match="the flashblock log is closed"):
            await call()


async def test_two_appliances_on_one_folder_get_one_clear_line(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(
            LogError,
            match=rf"^the flashblock log in {tmp_path} is in use by another process \({os.getpid()}\)$",
        ):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path):
        pass


async def test_a_log_that_cannot_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"garbage!" * 1000)
    for _ in range(2):
        with pytest.raises(LogError, match="it is not a SQLite database"):
            async with opened(tmp_path):
                pass
    (tmp_path / DATABASE_NAME).unlink()
    async with opened(tmp_path) as log:
        assert log.head == 0


async def test_the_folder_is_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "a" / "b") as log:
        assert repr(log) == f"<FlashLog {tmp_path}/a/b/flashlog.db: head 0>"


async def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match=r"^cannot create .*/file/a: Not a directory$"):
        async with opened(tmp_path / "file" / "a"):
            pass


async def test_after_a_restart_memory_holds_the_newest_entries(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await fill(log, 1, 2, 3)
    async with open_flashlog(tmp_path, tail_limits=TailLimits(max_entries=4)) as log:
        assert log.recent(4, 10) is None
        assert [entry.position for entry in log.recent(5, 10) or []] == [6, 7, 8, 9]
        assert log.recent(9, 10) == []


async def test_entries_that_are_not_committed_are_invisible_until_they_are(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path, commit_on_append=False) as log:
        await fill(log, 1, 2)
        assert (log.appended, log.head) == (6, 0)
        assert log.recent(0, 10) == []
        assert await log.read(0, limit=10, max_bytes=MAX) == []
        assert await log.locate(CurrentPayload()) == Located(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait_past, 3)
            await trio.testing.wait_all_tasks_blocked()
            log.commit_through(4)
        assert log.head == 4
        assert [entry.position for entry in log.recent(2, 10) or []] == [3, 4]
        assert [e.position for e in await log.read(2, limit=10, max_bytes=MAX)] == [3, 4]
        assert await log.locate(CurrentPayload()) == Located(3)
        log.commit_through(100)
        assert log.head == 6


async def test_retention_runs_in_the_background(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    now = 1000.0
    limits = RetentionLimits(max_age_s=3600, max_bytes=None)
    async with open_flashlog(
        tmp_path, retention=limits, retention_interval_s=30, run_sync=run_inline, clock=lambda: now
    ) as log:
        await fill(log, 1, 2)
        now += 3000
        await fill(log, 3, 4)
        now += 1000
        assert (await log.locate(AfterBlock(1001, 0))).position == 1
        await trio.sleep(31)
        with pytest.raises(PrunedError) as caught:
            await log.locate(AfterBlock(1001, 0))
        assert caught.value.oldest == (1003, 0)
        statistics = log.statistics()
    size = len(flashblock(1, 0).body) + ENTRY_OVERHEAD_BYTES
    assert statistics["removed_since_start"] == {"payloads": 2, "entries": 6, "bytes": 6 * size}
    assert (statistics["payloads"], statistics["entries"], statistics["bytes"]) == (2, 6, 6 * size)


async def test_a_position_that_retention_overtakes_is_an_error_not_a_gap(tmp_path: Path) -> None:
    limits = RetentionLimits(max_age_s=None, max_bytes=1)
    async with open_flashlog(tmp_path, retention=limits, tail_limits=TailLimits(max_entries=1)) as log:
        await fill(log, 1, 2, 3)
        removed = await log.apply_retention()
        assert (removed.payloads, removed.entries) == (2, 6)
        assert log.recent(3, 10) is None
        with pytest.raises(PrunedError, match="position 3 is not in the log any more"):
            await log.read(3, limit=10, max_bytes=MAX)
        assert [entry.position for entry in await log.read(6, limit=10, max_bytes=MAX)] == [7, 8, 9]


async def test_statistics_are_plain_data(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await fill(log, 1, 2)
        statistics = log.statistics()
    assert {
        name: statistics[name] for name in ("head", "appended_position", "payloads", "entries", "waiting_writes")
    } == {"head": 6, "appended_position": 6, "payloads": 2, "entries": 6, "waiting_writes": 0}
    assert (statistics["failed_writes"], statistics["last_error"]) == (0, None)
    assert statistics["tail"] == {
        "entries": 6,
        "bytes": sum(len(flashblock(p, i).body) for p in (1, 2) for i in range(3)),
        "after": 0,
    }
    async with opened(tmp_path) as log:
        again = log.statistics()
        assert (again["payloads"], again["entries"], again["bytes"]) == (2, 6, statistics["bytes"])
        assert again["appended_since_start"] == 0


@pytest.mark.parametrize("number", [2**63, 2**80, -1])
async def test_a_number_that_does_not_fit_is_refused_and_breaks_nothing(tmp_path: Path, number: int) -> None:
    async with opened(tmp_path) as log:
        with pytest.raises(OutOfOrderError):
            await log.append(flashblock(1, 0, block=number), "a")
        with pytest.raises(OutOfOrderError):
            await log.append(flashblock(1, number), "a")
        await fill(log, 1)
        assert log.head == 3
