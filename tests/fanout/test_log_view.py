"""What fan-out relies on in a log: one suite for the fake of these tests and for the real flashblock log."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.domain.errors import PrunedError
from appliance.domain.flashblocks import Encoding, Entry, Flashblock
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Located, Resume
from appliance.fanout.ports import LogView
from appliance.flashlog.service import open_flashlog
from tests.fanout.fakes import MemoryLog, payload_id
from tests.fanout.serving import serving

Append = Callable[[int, int], Awaitable[Entry]]
Opened = tuple[LogView, Append]


@asynccontextmanager
async def fake(folder: Path) -> AsyncIterator[Opened]:
    log = MemoryLog()

    async def append(block: int, index: int) -> Entry:
        return log.append(block, index)

    yield log, append


@asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Opened]:
    async with open_flashlog(folder) as log:

        async def append(block: int, index: int) -> Entry:
            body = f'{{"n":{block},"index":{index}}}'.encode()
            made = Flashblock(payload_id(block), index, block, None, None, body, Encoding.TEXT)
            return await log.append(made, "builder")

        view: LogView = log
        yield view, append


Opener = Callable[[Path], AbstractAsyncContextManager[Opened]]
logs = pytest.mark.parametrize("opener", [fake, real])


@asynccontextmanager
async def filled(opener: Opener, folder: Path) -> AsyncIterator[Opened]:
    """A log with blocks 7 (three flashblocks) and 8 (two)."""
    async with opener(folder) as (log, append):
        for key in [(7, 0), (7, 1), (7, 2), (8, 0), (8, 1)]:
            await append(*key)
        yield log, append


def keys(entries: Sequence[Entry] | None) -> list[tuple[int, int]]:
    assert entries is not None
    return [entry.key for entry in entries]


@logs
async def test_the_head_is_the_last_entry(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as (log, append):
        assert log.head == 0
        entry = await append(7, 0)
        assert log.head == entry.position


@logs
async def test_waiting_ends_with_the_next_entry(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, append), trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await log.wait_past(log.head - 1)
        nursery.start_soon(append, 8, 2)
        with trio.fail_after(60):
            await log.wait_past(log.head)


@logs
async def test_memory_and_disk_give_the_same(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, _):
        for after in range(log.head):
            read = await log.read(after, limit=2, max_bytes=1_000_000)
            assert log.recent(after, 2) == read
            assert len(read) == min(2, log.head - after)
        assert log.recent(log.head, 10) == []


@logs
async def test_a_read_gives_one_entry_at_least(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, _):
        assert keys(await log.read(0, limit=10, max_bytes=1))[:1] == [(7, 0)]


@logs
@pytest.mark.parametrize(
    ("resume", "rest"),
    [
        (AfterBlock(7, 0), [(7, 1), (7, 2), (8, 0), (8, 1)]),
        (AfterBlock(7, -1), [(7, 0), (7, 1), (7, 2), (8, 0), (8, 1)]),
        (AfterBlock(7, 9), [(8, 0), (8, 1)]),
        (AfterBlock(8, 1), []),
        (AfterPayload(payload_id(7), 1), [(7, 2), (8, 0), (8, 1)]),
        (AfterPayload(payload_id(8), -1), [(8, 0), (8, 1)]),
        (CurrentPayload(), [(8, 0), (8, 1)]),
    ],
)
async def test_a_place_and_what_comes_after_it(
    opener: Opener, tmp_path: Path, resume: Resume, rest: list[tuple[int, int]]
) -> None:
    async with filled(opener, tmp_path) as (log, _):
        located = await log.locate(resume)
        assert located.skip_through is None
        assert keys(log.recent(located.position, 10)) == rest


@logs
async def test_a_place_that_this_host_has_not_reached(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, _):
        assert await log.locate(AfterBlock(8, 4)) == Located(log.head, (8, 4))


@logs
async def test_a_payload_that_was_never_here_is_not_guessed_at(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, _):
        with pytest.raises(PrunedError):
            await log.locate(AfterPayload(payload_id(99), 0))


@logs
async def test_an_empty_log_has_a_start(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as (log, _):
        assert await log.locate(CurrentPayload()) == Located(0)


@logs
async def test_subscribers_are_served_from_it(opener: Opener, tmp_path: Path) -> None:
    async with filled(opener, tmp_path) as (log, append), serving(log) as server:
        client = await server.client()
        await client.request("/ws?block_number=7&flashblock_index=1")
        assert len(await client.frames(3)) == 3
        added = await append(8, 2)
        assert (await client.frames(4))[-1].payload == added.body


async def test_after_a_restart_subscribers_go_on_where_they_were(tmp_path: Path) -> None:
    async with filled(real, tmp_path) as (log, _), serving(log) as server:
        client = await server.client()
        await client.request("/ws?block_number=7")
        assert len(await client.frames(5)) == 5
    async with real(tmp_path) as (log, append), serving(log) as server:
        client = await server.client()
        await client.request("/ws?block_number=7&flashblock_index=2")
        await append(8, 2)
        frames = await client.frames(3)
        assert [frame.payload for frame in frames] == [
            entry.body for entry in await log.read(3, limit=9, max_bytes=10**6)
        ]
