"""Noticing that clients go away while their handlers run: one task and one epoll for all connections."""

import select
from collections.abc import Callable
from typing import Final

from appliance.net.readiness import Readiness

# Events taken in one go: 1,000 callbacks take well under a millisecond.
_BATCH: Final = 1000


class Hangups:
    """Calls back once when the other end of a socket stops sending or the connection breaks.

    The kernel tells it by itself (`EPOLLRDHUP`, edge-triggered), so a watched connection costs one system call in its
    life, and no reading ahead. A client that only shuts down its sending side counts as gone, as it does
    for Go's HTTP server.
    """

    def __init__(self) -> None:
        self._readiness = Readiness(select.EPOLLRDHUP, _BATCH)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the peer of ``fd`` hangs up, until `forget`."""
        self._readiness.watch(fd, lambda _gone: callback())

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before ``fd`` is closed. Unknown ones are fine, also after the end of `run`."""
        self._readiness.forget(fd)

    async def run(self) -> None:
        """Until cancelled."""
        await self._readiness.run()
