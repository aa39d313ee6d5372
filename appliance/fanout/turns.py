"""Who of fan-out's tasks works now: one at a time, and between two slices everybody else in the process.

After an outage thousands come back at once: there is a handshake to answer, a backlog to send and a broadcast
under way at any moment, each in tasks of its own. Were they all let loose, each pass of the event loop would be as
long as all of them together, and a request to the engine takes several passes. So all of it is done in
*turns*: a turn ends with its slice (0.5 ms, or less: see pacing.py), then `Pace.give_way` lets the rest of the process
run until it is idle, and only then comes the next turn. A turn that ends early hands the rest of its slice on.

Who delivers a broadcast comes first, because those at the head have lost nothing and ask for nothing; but of
`URGENT_IN_A_ROW` + 1 turns one is for the others, so that they get on when one broadcast follows another.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Final

import trio

from appliance.fanout.pacing import Clock, Pace, never
from appliance.fanout.stillness import Stillness

URGENT_IN_A_ROW: Final = 3


class Turns:
    """``async with turns.take():`` or, for a broadcast, ``turns.take_urgent()``; work until ``pace.until``."""

    def __init__(self, clock: Clock = perf_counter, hurried: Callable[[], bool] = never) -> None:
        self.pace = Pace(clock, Stillness(), hurried)
        self._taken = False
        self._urgent = trio.lowlevel.ParkingLot()
        self._others = trio.lowlevel.ParkingLot()
        self._urgent_in_a_row = 0

    def take(self) -> "Turn":
        """Wait for a turn, first come, first served."""
        return Turn(self, self._others)

    def take_urgent(self) -> "Turn":
        """Wait for a turn before all others, but for every fourth."""
        return Turn(self, self._urgent)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a turn; where nobody does, whoever has it may go on after giving way."""
        return bool(self._urgent or self._others)

    async def begin(self, lot: trio.lowlevel.ParkingLot) -> None:
        """What `take` does, for `Turn`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._taken:
            # Without a slice of its own: the one that `give_way` began goes on. Some turns are over before they begin,
            # while others work, and what is to be done gathers: with new slices a delivery took 2 us more.
            await lot.park()
        else:
            self._taken = True
            self.pace.renew()

    async def end(self) -> None:
        """Give way, if the slice is over, and hand the turn on."""
        try:
            if self.pace.spent:
                await self.pace.give_way()
        finally:
            self.hand_on()

    def hand_on(self) -> None:
        """Let the next one begin. The turn stays taken when somebody waits for it: whoever is woken has it."""
        urgent_may = self._urgent_in_a_row < URGENT_IN_A_ROW or not self._others
        if self._urgent and urgent_may:
            self._urgent_in_a_row += 1
            self._urgent.unpark()
        elif self._others:
            self._urgent_in_a_row = 0
            self._others.unpark()
        else:
            self._urgent_in_a_row = 0
            self._taken = False


class Turn(AbstractAsyncContextManager[Callable[[], bool]]):
    """Gives what says whether the slice is over. There is one for each few who are served, so it is no generator."""

    __slots__ = ("_lot", "_turns")

    def __init__(self, turns: Turns, lot: trio.lowlevel.ParkingLot) -> None:
        self._turns = turns
        self._lot = lot

    async def __aenter__(self) -> Callable[[], bool]:
        await self._turns.begin(self._lot)
        return self._is_over

    def _is_over(self) -> bool:
        return self._turns.pace.spent

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._turns.end()
        else:
            self._turns.hand_on()
