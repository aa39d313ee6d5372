"""What need not be done before op-node has its answer: the log line, metrics and the record of a decision.

They take a tenth of the time of a getPayload. They are done in their order, in the next turns of the loop: when no
request is open, or after 2 ms.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from appliance.engine.events import Observation
from appliance.engine.right_of_way import RightOfWay

MAX_WAITING: Final = 1024
"""Observations that wait; when there are more, the oldest are made at once: nothing is lost."""


class Afterwards:
    """Observations that wait for their turn. `run` must be running, and makes what is left when it is cancelled."""

    def __init__(self, observe: Callable[[Observation], None], way: RightOfWay) -> None:
        self._observe = observe
        self._way = way
        self._waiting: deque[Observation] = deque()
        self._idle = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, observation: Observation) -> None:
        """Make it soon."""
        self._waiting.append(observation)
        if len(self._waiting) > MAX_WAITING:
            self._observe(self._waiting.popleft())
        self._idle.unpark()

    def make_all(self) -> None:
        """Now: for who wants to see what was observed."""
        while self._waiting:
            self._observe(self._waiting.popleft())

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                if not self._waiting:
                    await self._idle.park()
                await self._way.give()
                self.make_all()
        finally:
            self.make_all()
