"""Sockets that tell when something comes, by callbacks: one task and one epoll for any number of them.

trio's `wait_readable` costs 12 us and a system call each time, since it asks the kernel anew for every wait and
switches tasks. Here the kernel is asked once in a socket's life (edge-triggered), so that a request which
needs nothing but its bytes and the node's answer is two plain calls. Who is called has a millisecond's share at most:
between batches all other tasks get their turn, and sockets are called in the order in which they had something.
"""

import select
from collections.abc import Callable
from typing import Final

import trio

from appliance.telemetry.logging import get_logger

log = get_logger("net")

# Of 20 to 30 us each.
_BATCH: Final = 32
GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""Of what epoll says of a socket: the other end stopped sending, or the connection broke."""

OnEvent = Callable[[bool], None]
"""Told that bytes may have come, or the end; true when the other end stopped sending or the connection broke."""


class Readiness:
    """`watch` sockets; `run` calls back. A socket is told of once for all that came until then: read until it is empty.

    What was read in part, or came while nobody wanted it, is not told of again: its reader has to look. ``events`` are
    epoll's; at most ``batch`` sockets are told of before other tasks get their turn.
    """

    def __init__(self, events: int = select.EPOLLIN | select.EPOLLRDHUP, batch: int = _BATCH) -> None:
        self._events = events | select.EPOLLET
        self._batch = batch
        self._epoll = select.epoll()
        self._callbacks: dict[int, OnEvent] = {}

    def watch(self, fd: int, callback: OnEvent) -> None:
        """Call ``callback`` when there is something to read, until `forget`. At once for what is there already."""
        if not self._epoll.closed:
            self._callbacks[fd] = callback
            self._epoll.register(fd, self._events)

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before ``fd`` is closed. Unknown ones are fine, also after the end of `run`."""
        if self._callbacks.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Until cancelled."""
        with self._epoll:
            fd = self._epoll.fileno()
            while True:
                await trio.lowlevel.wait_readable(fd)
                self._call()

    def _call(self) -> None:
        callbacks = self._callbacks
        for fd, flags in self._epoll.poll(0, self._batch):
            callback = callbacks.get(fd)  # None when one that was called before it closed it
            if callback is None:
                continue
            try:
                callback(flags & GONE != 0)
            except Exception:  # the boundary between connections: one that fails here must not stop the others
                log.exception("callback of a connection failed")
