"""Which connection the next request takes. Pure: the pool decides at once, its user does the I/O."""

from collections.abc import Callable
from typing import Generic, TypeVar

ConnectionT = TypeVar("ConnectionT")


class ConnectionPool(Generic[ConnectionT]):
    """Idle connections, the last used first, so that those that are not needed grow old and are dropped.

    Its user holds one of ``max_connections`` permits for each request, so idle and busy ones together never
    exceed that number: a new one is opened only when none is idle.
    """

    def __init__(self, *, idle_timeout_s: float) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._idle: list[tuple[ConnectionT, float]] = []

    def __len__(self) -> int:
        return len(self._idle)

    def put(self, connection: ConnectionT, now: float) -> None:
        """Its request is over and it can serve another."""
        self._idle.append((connection, now))

    def take(self, now: float, usable: Callable[[ConnectionT], bool]) -> tuple[ConnectionT | None, list[ConnectionT]]:
        """The connection to use, or None to open one; and those to close: too old, or not ``usable``."""
        discarded = self._drop_old(now)
        while self._idle:
            connection, _ = self._idle.pop()
            if usable(connection):
                return connection, discarded
            discarded.append(connection)
        return None, discarded

    def clear(self) -> list[ConnectionT]:
        """All idle ones, to close."""
        idle, self._idle = self._idle, []
        return [connection for connection, _ in idle]

    def _drop_old(self, now: float) -> list[ConnectionT]:
        """The oldest are in front: they were put back first and not taken since."""
        count = 0
        while count < len(self._idle) and now - self._idle[count][1] > self._idle_timeout_s:
            count += 1
        old = [connection for connection, _ in self._idle[:count]]
        del self._idle[:count]
        return old
