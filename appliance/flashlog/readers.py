"""A few read-only connections, each used by one thread at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from appliance.domain.errors import LogError
from appliance.flashlog.reader import Reader
from appliance.flashlog.threads import RunSync

T = TypeVar("T")

READERS = 4
"""Queries at the same time. More wait their turn: as many as there are subscribers catching up, at most."""


class Readers:
    """Runs queries in threads; WAL readers and the writer never wait for each other."""

    def __init__(self, path: Path, run_sync: RunSync) -> None:
        self._path = path
        self._run_sync = run_sync
        self._turn = trio.CapacityLimiter(READERS)
        self._idle: list[Reader] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Readers {self._turn.borrowed_tokens} busy, {len(self._idle)} idle>"

    async def query(self, query: Callable[[Reader], T]) -> T:
        """Run ``query`` on a reader; raises what it raises, LogError for what the disk does."""
        async with self._turn:
            if self._closed:
                raise LogError("the flashblock log is closed")
            reader = self._idle.pop() if self._idle else await self._run_sync(Reader, self._path)
            try:
                return await self._run_sync(query, reader)
            finally:
                self._return(reader)

    def _return(self, reader: Reader) -> None:
        if self._closed:
            reader.close()
        else:
            self._idle.append(reader)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
