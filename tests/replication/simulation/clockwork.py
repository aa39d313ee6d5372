"""Virtual time: what happens next, and a trace of what happened."""

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

TRACE_EVENTS = 60


class InvariantError(AssertionError):
    """What must always hold did not."""


class Clockwork:
    """A heap of what is due, one source of randomness, and the last events as text."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = Random(seed)  # an int: not a string, whose hash differs from process to process
        self.trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE_EVENTS)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Do ``what`` after ``delay`` seconds; of two at the same time the first that was said."""
        self.at_time(self.now + delay, what)

    def at_time(self, time: float, what: Callable[[], None]) -> None:
        """The same at a time, to the last bit."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what))

    def run_until(self, time: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= time:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = time

    def note(self, text: str, *arguments: object) -> None:
        """Remember an event for whoever has to find out why; made into text when it is shown."""
        self.trace.append((self.now, text, arguments))

    def last_events(self) -> list[str]:
        """The trace, a line each."""
        return [f"{now:8.4f} {text % arguments if arguments else text}" for now, text, arguments in self.trace]
