"""Entries for those who catch up: from the log's memory, else from disk with few reads for many readers."""

from collections import OrderedDict, deque
from collections.abc import Sequence

import trio

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Entry
from appliance.fanout.framesets import FrameCache, FrameSet
from appliance.fanout.ports import LogView

CHUNK_ENTRIES = 32
CHUNK_BYTES = 256 * 1024
CACHED_CHUNKS = 32
CACHED_BYTES = 8 * 2**20  # the newest chunk stays, whatever its size: one entry may be larger
CONCURRENT_READS = 2  # the writer's thread and disk come first


class Backlog:
    """What comes after a position, as shared frame sets.

    When thousands come back after an outage they ask for the same few places: they queue for one of two
    reads at a time, and most then find that somebody before them has read what they need.
    """

    def __init__(self, log: LogView, cache: FrameCache) -> None:
        self._log = log
        self._cache = cache
        self._chunks: OrderedDict[int, Sequence[Entry]] = OrderedDict()  # the least recently used one goes
        self._bytes = 0
        # Of thousands who come back most have had the same entry last: what follows it is put together once.
        self._last: tuple[Sequence[Entry], list[FrameSet]] = ((), [])
        self._reads = trio.Semaphore(CONCURRENT_READS)

    async def after(self, position: int) -> deque[FrameSet]:
        """Some entries after a position that has any, at least one. Raises PrunedError or LogError."""
        found = self.in_memory(position)
        if found is None:
            async with self._reads:
                found = deque(self._cache.get_all(await self._read(position)))
        if not found:
            raise LogError(f"the log has nothing after position {position}, before its head {self._log.head}")
        return found

    def in_memory(self, position: int) -> deque[FrameSet] | None:
        """Some entries after a position, where that takes no wait; None where it does."""
        entries = self._log.recent(position, CHUNK_ENTRIES)
        if entries is None:
            entries = self._recall(position)
        if entries is None:
            return None
        if entries != self._last[0]:
            self._last = entries, self._cache.get_all(entries)
        return deque(self._last[1])

    async def _read(self, position: int) -> Sequence[Entry]:
        found = self._recall(position)
        if found is None:
            found = await self._log.read(position, limit=CHUNK_ENTRIES, max_bytes=CHUNK_BYTES)
            self._keep(position, found)
        return found

    def _recall(self, position: int) -> Sequence[Entry] | None:
        found = self._chunks.get(position)
        if found is not None:
            self._chunks.move_to_end(position)
        return found

    def _keep(self, position: int, chunk: Sequence[Entry]) -> None:
        self._bytes += _size(chunk) - _size(self._chunks.pop(position, ()))  # two may have read it side by side
        self._chunks[position] = chunk
        while len(self._chunks) > 1 and (len(self._chunks) > CACHED_CHUNKS or self._bytes > CACHED_BYTES):
            self._bytes -= _size(self._chunks.popitem(last=False)[1])


def _size(chunk: Sequence[Entry]) -> int:
    return sum(len(entry.body) for entry in chunk)
