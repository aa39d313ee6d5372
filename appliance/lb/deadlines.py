"""Deadlines that all lie equally far ahead: one timer for any number of them. Pure.

A trio deadline for each request costs a tenth of the time of relaying it. With one constant timeout they pass in
the order in which they were set, so that a first look at the oldest is enough, and a timer that sleeps for the
whole timeout while none is set cannot miss one.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Things that must be over ``timeout_s`` after they began. Bounded by its user: one entry a request."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._began: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._began)

    def start(self, thing: T, now: float) -> None:
        """Its time begins; ``now`` never goes back from call to call."""
        self._began[thing] = now

    def stop(self, thing: T) -> None:
        """It is over; what is unknown is fine."""
        self._began.pop(thing, None)

    def take_due(self, now: float) -> list[T]:
        """Those whose time is up, the oldest first; they are forgotten."""
        due: list[T] = []
        while self._began:
            thing, began = next(iter(self._began.items()))
            if began + self.timeout_s > now:
                break
            del self._began[thing]
            due.append(thing)
        return due

    def next_look(self, now: float) -> float:
        """When to call `take_due` again."""
        oldest = next(iter(self._began.values()), now)
        return oldest + self.timeout_s
