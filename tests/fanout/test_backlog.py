"""Entries for many who catch up, with few reads."""

import pytest
import trio

from appliance.domain.errors import LogError, PrunedError
from appliance.fanout.backlog import CACHED_BYTES, CACHED_CHUNKS, CHUNK_ENTRIES, CONCURRENT_READS, Backlog
from appliance.fanout.framesets import FrameCache
from tests.fanout.fakes import MemoryLog


def filled(entries: int, tail: int) -> MemoryLog:
    log = MemoryLog(tail=tail)
    for index in range(entries):
        log.append(1, index)
    return log


async def test_what_memory_holds_is_not_read() -> None:
    log = filled(10, tail=10)
    found = await Backlog(log, FrameCache()).after(4)
    assert [item.mark.position for item in found] == [5, 6, 7, 8, 9, 10]
    assert log.reads == 0


async def test_what_is_older_is_read_in_chunks() -> None:
    log = filled(3 * CHUNK_ENTRIES, tail=1)
    found = await Backlog(log, FrameCache()).after(0)
    assert [item.mark.position for item in found] == list(range(1, CHUNK_ENTRIES + 1))
    assert log.reads == 1


async def test_thousands_at_one_place_share_few_reads() -> None:
    log = filled(2 * CHUNK_ENTRIES, tail=1)
    backlog, found = Backlog(log, FrameCache()), list[int]()

    async def ask() -> None:
        found.append(len(await backlog.after(3)))

    async with trio.open_nursery() as nursery:
        for _ in range(2000):
            nursery.start_soon(ask)
    assert found == [CHUNK_ENTRIES] * 2000
    assert log.reads <= CONCURRENT_READS


async def test_reads_at_the_same_time_are_bounded() -> None:
    log = filled(2 * CHUNK_ENTRIES, tail=1)
    running, most = [0], [0]
    plain_read = log.read

    async def counted(after: int, *, limit: int, max_bytes: int) -> object:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await trio.testing.wait_all_tasks_blocked()
        running[0] -= 1
        return await plain_read(after, limit=limit, max_bytes=max_bytes)

    log.read = counted  # type: ignore[method-assign, assignment]  # watches the calls
    backlog = Backlog(log, FrameCache())
    async with trio.open_nursery() as nursery:
        for position in range(20):
            nursery.start_soon(backlog.after, position)
    assert most == [CONCURRENT_READS]
    assert log.reads == 20


async def test_the_chunks_that_are_kept_are_bounded() -> None:
    log = filled(CHUNK_ENTRIES + CACHED_CHUNKS + 5, tail=1)
    backlog = Backlog(log, FrameCache())
    for position in range(CACHED_CHUNKS + 1):
        await backlog.after(position)
    reads = log.reads
    await backlog.after(CACHED_CHUNKS)
    assert log.reads == reads
    await backlog.after(0)
    assert log.reads == reads + 1


async def test_the_chunk_that_was_used_last_stays() -> None:
    log = filled(CHUNK_ENTRIES + CACHED_CHUNKS + 5, tail=1)
    backlog = Backlog(log, FrameCache())
    for position in [*range(CACHED_CHUNKS), 0, CACHED_CHUNKS]:
        await backlog.after(position)
    reads = log.reads
    await backlog.after(0)
    assert log.reads == reads
    await backlog.after(1)
    assert log.reads == reads + 1


async def test_the_bytes_that_are_kept_are_bounded() -> None:
    log = MemoryLog(tail=1)
    for index in range(5):
        log.append(1, index, body=b"x" * (CACHED_BYTES // 3))
    plain_read = log.read

    async def one(after: int, *, limit: int, max_bytes: int) -> object:
        return (await plain_read(after, limit=limit, max_bytes=max_bytes))[:1]

    log.read = one  # type: ignore[method-assign, assignment]  # as the log does with large entries
    backlog = Backlog(log, FrameCache())
    for position in range(4):
        await backlog.after(position)
    reads = log.reads
    await backlog.after(1)
    assert log.reads == reads
    await backlog.after(0)
    assert log.reads == reads + 1


async def test_readers_share_their_frames() -> None:
    log = filled(3, tail=3)
    backlog = Backlog(log, FrameCache())
    assert (await backlog.after(0))[0] is (await backlog.after(0))[0]


async def test_what_retention_removed_is_an_error_and_never_a_gap() -> None:
    log = filled(10, tail=1)
    log.prune(5)
    with pytest.raises(PrunedError):
        await Backlog(log, FrameCache()).after(3)


async def test_a_log_that_gives_nothing_is_an_error_and_never_a_spin() -> None:
    log = filled(2, tail=2)
    with pytest.raises(LogError, match="nothing after position 2"):
        await Backlog(log, FrameCache()).after(2)


async def test_a_failed_read_is_not_kept() -> None:
    log = filled(4, tail=1)
    backlog = Backlog(log, FrameCache())
    log.broken = True
    with pytest.raises(LogError):
        await backlog.after(0)
    log.broken = False
    assert len(await backlog.after(0)) == 4
