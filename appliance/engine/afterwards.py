"""op-node first: what need not be done before it has its answer is done behind it.

That is builders' copies, the log line, metrics and the record of a choice: each takes a tenth of a millisecond of the
loop, just when the execution client's answer comes. They are done in their order, in a turn of the loop of their own:

    no request is open       in the next turn
    the last one is answered in the turn after
    one stays open           2 ms after the first thing began to wait: an order to build must not wait for a slow
                             execution client
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

MAX_WAIT_S: Final = 0.002
"""Longer than a quick answer takes, and nothing beside the time of a block."""

MAX_WAITING: Final = 1024
"""Things that wait; when there are more, the oldest is done at once: nothing is lost."""


class Afterwards:
    """Things to do soon. `run` must be running, and does what is left when it is cancelled."""

    def __init__(self, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._open = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._patience = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._waiting)

    def request_came(self) -> None:
        """Somebody waits for an answer."""
        self._open += 1

    def request_answered(self) -> None:
        """It is there; what its task does without waiting, such as sending it, comes before what waits here."""
        self._open -= 1
        if self._waiting and not self._open:
            self._idle.unpark()

    def put(self, do: Callable[[], None]) -> None:
        """Do it soon, behind what waits."""
        self._waiting.append(do)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()()
        if not self._open:
            self._idle.unpark()
        elif self._patience.deadline == math.inf:
            # The task is not woken for this: a turn of the loop more would be in the answer's way.
            self._patience.deadline = trio.current_time() + self._max_wait_s

    def do_all(self) -> None:
        """Now: for who wants to see what came of it."""
        while self._waiting:
            self._waiting.popleft()()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                with trio.CancelScope() as self._patience:
                    await self._wait()
                self.do_all()
        finally:
            self.do_all()

    async def _wait(self) -> None:
        if self._waiting and not self._open:
            await trio.lowlevel.checkpoint()  # put before this ran
        else:
            if self._waiting:
                self._patience.deadline = trio.current_time() + self._max_wait_s
            await self._idle.park()
