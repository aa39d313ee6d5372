"""How far the log reaches, and the wake-up of those who wait for more."""

import trio

from appliance.domain.errors import LogError


class CommitPoint:
    """Two positions: ``appended`` is on this host's disk, ``committed`` may be shown to readers.

    They are equal while nothing else has a say. Replication moves the second one by acknowledgements.
    Both only grow, and ``committed`` never passes ``appended``.
    """

    def __init__(self, appended: int, committed: int | None = None) -> None:
        self.committed = appended if committed is None else committed
        self.appended = max(appended, self.committed)
        self.closed = False
        self._moved = trio.Event()
        self._grown = trio.Event()

    def __repr__(self) -> str:
        return f"<CommitPoint appended {self.appended}, committed {self.committed}>"

    def append_through(self, position: int) -> None:
        """Note that everything up to ``position`` is on disk."""
        if position > self.appended:
            self.appended = position
            grown, self._grown = self._grown, trio.Event()
            grown.set()

    def commit_through(self, position: int) -> None:
        """Show everything up to ``position``, as far as it is on disk, and wake who waits for it."""
        reached = min(position, self.appended)
        if reached > self.committed:
            self.committed = reached
            self._wake()

    def close(self) -> None:
        """Wake all waiters for good; they raise LogError."""
        self.closed = True
        self._wake()
        self._grown.set()

    async def wait_past(self, position: int) -> None:
        """Return when ``committed`` > ``position``; LogError when the log is closed before.

        No wake-up is lost: the position is looked at again after every wake-up, and between the look and
        the wait nothing else can run.
        """
        await trio.lowlevel.checkpoint()
        while self.committed <= position:
            if self.closed:
                raise LogError("the flashblock log is closed")
            await self._moved.wait()

    async def wait_appended_past(self, position: int) -> None:
        """The same for ``appended``."""
        await trio.lowlevel.checkpoint()
        while self.appended <= position:
            if self.closed:
                raise LogError("the flashblock log is closed")
            await self._grown.wait()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
