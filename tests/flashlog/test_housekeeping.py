from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.domain.errors import LogError, PrunedError
from appliance.flashlog import FlashLog, RetentionLimits, housekeeping, open_flashlog, run_inline
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.housekeeping import Housekeeping
from appliance.flashlog.reader import Reader
from appliance.flashlog.store import Removed
from tests.flashlog.support import assert_contiguous, flashblock

MAX = 2**40


@asynccontextmanager
async def log_with(folder: Path, limits: RetentionLimits) -> AsyncIterator[FlashLog]:
    async with open_flashlog(folder, retention=limits, retention_interval_s=1e9, run_sync=run_inline) as log:
        yield log


async def fill(log: FlashLog, payloads: range, size: int = 0) -> None:
    for payload in payloads:
        for index in range(3):
            await log.append(flashblock(payload, index, size=size), "a")


async def test_many_payloads_go_in_small_steps(tmp_path: Path) -> None:
    limits = RetentionLimits(max_age_s=None, max_bytes=5000)
    async with log_with(tmp_path, limits) as log:
        await fill(log, range(3 * housekeeping.STEP_PAYLOADS))
        removed = await log.apply_retention()
        assert removed.payloads > 2 * housekeeping.STEP_PAYLOADS
        statistics = log.statistics()
        size = statistics["bytes"]
        assert isinstance(size, int)
        assert 0 < size <= 5000
        assert statistics["payloads"] == 3 * housekeeping.STEP_PAYLOADS - removed.payloads
        left = await log.read(removed.entries, limit=MAX, max_bytes=MAX)
        assert_contiguous(left)
        assert len(left) == statistics["entries"]
        assert await log.apply_retention() == Removed()


async def test_the_file_shrinks_to_what_is_kept_and_its_slack(tmp_path: Path) -> None:
    async with log_with(tmp_path, RetentionLimits(None, None)) as log:
        await fill(log, range(100), size=20_000)
    full = (tmp_path / DATABASE_NAME).stat().st_size
    async with log_with(tmp_path, RetentionLimits(None, 500_000, slack_bytes=100_000)) as log:
        await log.apply_retention()
    shrunk = (tmp_path / DATABASE_NAME).stat().st_size
    assert full > 6_000_000
    assert shrunk < 800_000


async def test_steady_state_does_not_let_the_file_grow(tmp_path: Path) -> None:
    limits = RetentionLimits(max_age_s=None, max_bytes=500_000, slack_bytes=200_000)
    sizes = []
    async with log_with(tmp_path, limits) as log:
        for start in range(0, 200, 10):
            await fill(log, range(start, start + 10), size=5000)
            await log.apply_retention()
            sizes.append(int(str(log.statistics()["file_bytes"])))
    assert max(sizes[5:]) < 1_200_000


async def test_an_interleaved_payload_waits_for_its_neighbour(tmp_path: Path) -> None:
    now = 0.0
    limits = RetentionLimits(max_age_s=10, max_bytes=None)
    async with open_flashlog(tmp_path, retention=limits, run_sync=run_inline, clock=lambda: now) as log:
        for payload, index in ((1, 0), (2, 0), (1, 1), (3, 0), (2, 1)):
            await log.append(flashblock(payload, index), "a")
        now = 100.0
        assert (await log.apply_retention()).payloads == 0
        await log.append(flashblock(4, 0), "a")
        assert (await log.apply_retention()).payloads == 3
        with pytest.raises(PrunedError):
            await log.read(4, limit=1, max_bytes=MAX)
        assert [entry.position for entry in await log.read(5, limit=9, max_bytes=MAX)] == [6]


async def test_appends_go_on_between_the_steps(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path, retention=RetentionLimits(None, 5000), retention_interval_s=1e9) as log:
        await fill(log, range(100))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.apply_retention)
            await fill(log, range(100, 150))
        with closing(Reader(tmp_path / DATABASE_NAME)) as reader:
            mark = reader.mark()
        assert mark is not None
        assert_contiguous(await log.read(mark.position, limit=MAX, max_bytes=MAX))
        assert log.head == 450


async def test_a_disk_that_fails_is_tried_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    async def fail(_self: Housekeeping) -> Removed:
        tried.append(trio.current_time())
        raise LogError("input/output error")

    monkeypatch.setattr(Housekeeping, "apply_limits", fail)
    task = Housekeeping.__new__(Housekeeping)
    start = trio.current_time()
    with trio.move_on_after(95):
        await task.run(30)
    assert [round(at - start) for at in tried] == [30, 60, 90]
