"""When a loop over many subscribers lets the rest of the process run."""

from collections.abc import Callable
from time import perf_counter

import trio

Clock = Callable[[], float]

SLICE_S = 0.000_5
HURRIED_SLICE_S = 0.000_15
MAX_PASSES = 8
# Timers are not seen by asking: they wait no longer than this.
PASS_EVERY_S = 0.002


def never() -> bool:
    """Nobody waits, nobody is in a hurry."""
    return False


class Pace:
    """Work for a slice, then give way.

    An engine request takes four or five passes of the event loop (read, send on, read the answer, reply).
    With a slice of broadcast in each of them it would wait for five slices. So giving way lasts until the
    other tasks have nothing more to do, at most `MAX_PASSES` passes or as long as a slice: then the request
    waits for about one slice, and those who always have something to do get half of the time. Nobody says
    whether others had something to do, but the clock does: a pass without work is about as short as the
    shortest one seen (6 us on a fast machine). Two such in a row are needed, because trio shuffles: what
    runs behind us in one pass lengthens only the next.

    Where ``is_still`` says that nobody waits for the loop, there is nobody to give way to: then the next slice begins
    at once, for `PASS_EVERY_S` at most. It cannot see who stands behind us in the same pass. After two idle passes
    that is nobody; but while others had work to the end, they mostly have more: then the answer counts for nothing.

    While somebody is ``hurried``, slices are shorter: a request to the engine waits for one of them in each pass.
    """

    __slots__ = ("_hurried", "_is_still", "_pass_due", "_shortest_pass_s", "clock", "until")

    def __init__(
        self,
        clock: Clock = perf_counter,
        is_still: Callable[[], bool] = never,
        hurried: Callable[[], bool] = never,
    ) -> None:
        self.clock = clock
        self.until = clock() + SLICE_S
        self._is_still = is_still
        self._hurried = hurried
        self._pass_due = 0.0  # at first others may have waited since before our time
        self._shortest_pass_s = SLICE_S

    @property
    def spent(self) -> bool:
        """The slice is over."""
        return self.clock() >= self.until

    def renew(self) -> None:
        """Begin a slice, if the last one is over: nobody has worked since."""
        now = self.clock()
        if now >= self.until:
            self.until = self._end_of_slice(now)

    async def give_way(self) -> None:
        """Let others run, if there are any; then the next slice begins. Not always a checkpoint."""
        now = self.clock()
        if now < self._pass_due and self._is_still():
            self.until = self._end_of_slice(now)
            return
        is_idle = await self._pass()
        now = self.clock()
        self.until = self._end_of_slice(now)
        self._pass_due = now + PASS_EVERY_S if is_idle else now

    def _end_of_slice(self, begin: float) -> float:
        return begin + (HURRIED_SLICE_S if self._hurried() else SLICE_S)

    async def _pass(self) -> bool:
        """Whether the others had nothing more to do at the end."""
        idle, enough = 0, self.clock() + SLICE_S
        for _ in range(MAX_PASSES):
            begun = self.clock()
            await trio.lowlevel.checkpoint()
            lasted = self.clock() - begun
            self._shortest_pass_s = min(self._shortest_pass_s, lasted)
            idle = idle + 1 if lasted <= 2 * self._shortest_pass_s else 0
            if idle == 2 or begun + lasted >= enough:
                break
        return idle == 2
