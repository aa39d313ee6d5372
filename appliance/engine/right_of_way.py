"""op-node first: what goes to builders in the background gives way to a request that is being answered.

A builder's copy takes a tenth of a millisecond of the loop, n builders' n tenths, and they would be taken just when the
execution client's answer comes. But an order to build must not wait for a slow execution client: hence the bound.
"""

from typing import Final

import trio

MAX_WAIT_S: Final = 0.002
"""How long a copy gives way: longer than a quick answer takes, and nothing beside the time of a block."""


class RightOfWay:
    """Who has requests open, and who waits for that to end."""

    def __init__(self, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._open = 0
        self._waiting = trio.lowlevel.ParkingLot()

    def enter(self) -> None:
        """A request has come."""
        self._open += 1

    def leave(self) -> None:
        """It has its answer, which is written before anyone who waits here runs."""
        self._open -= 1
        if not self._open:
            self._waiting.unpark_all()

    async def give(self) -> None:
        """Return when no request is open, or has been for too long. No checkpoint where none is open."""
        if self._open:
            with trio.move_on_after(self._max_wait_s):
                await self._waiting.park()
