"""Entries for those who catch up: from the log's memory, else from disk with few reads for many readers."""

from collections import OrderedDict, deque
from collections.abc import Sequence

import trio

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Entry
from appliance.fanout.frames import FrameCache, FrameSet
from appliance.fanout.ports import LogView

CHUNK_ENTRIES = 32
CHUNK_BYTES = 256 * 1024
CACHED_CHUNKS = 32  # 8 MiB at most
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
        self._reads = trio.Semaphore(CONCURRENT_READS)

    async def after(self, position: int) -> deque[FrameSet]:
        """Some entries after a position that has any, at least one. Raises PrunedError or LogError."""
        entries = self._log.recent(position, CHUNK_ENTRIES)
        if entries is None:
            entries = self._chunks.get(position)
        if entries is None:
            async with self._reads:
                entries = await self._read(position)
        if not entries:
            raise LogError(f"the log has nothing after position {position}, before its head {self._log.head}")
        return deque(self._cache.get_all(entries))

    async def _read(self, position: int) -> Sequence[Entry]:
        found = self._chunks.get(position)
        if found is None:
            found = await self._log.read(position, limit=CHUNK_ENTRIES, max_bytes=CHUNK_BYTES)
            self._chunks[position] = found
            if len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        return found
