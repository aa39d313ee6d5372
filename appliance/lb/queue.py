"""Which waiting request is next: fast-track, high, low, with prio-load-balancer's rules. Pure.

    waiting                            next
    ---------------------------------  ------------------------------------------------------------
    fast-track and high                N fast-track, then one high, and so on; drain-first: fast-track
    fast-track or high alone           that one
    low                                when neither of the others waits
    low, for longer than `ageing_s`    one low for every `AGED_SHARE` of the others (off by default)

First come, first served within a priority, except that requests which come back from a node that failed
go first: they have waited already. Those may not go to every node, so that they wait apart, by what they avoid.
Every operation takes the same time however many wait.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

Avoid = frozenset[str]
"""Names of nodes that a request should not go to."""

ANYWHERE: Final[Avoid] = frozenset()

AGED_SHARE: Final = 10
"""While others wait, at most every tenth place goes to a low request that has aged: a flood of them ages too."""


_SLACK: Final = 64


class Priority(IntEnum):
    """The three queues, in the order of their rank."""

    FAST_TRACK = 0
    HIGH = 1
    LOW = 2


# Looking a member up in its class takes a tenth of a microsecond, some times for each request.
FAST_TRACK: Final = Priority.FAST_TRACK
HIGH: Final = Priority.HIGH
LOW: Final = Priority.LOW

_FAST_FIRST: Final = (FAST_TRACK, HIGH, LOW)
_HIGH_FIRST: Final = (HIGH, FAST_TRACK, LOW)
_LOW_FIRST: Final = (LOW, FAST_TRACK, HIGH)
_ONLY_FAST: Final = (FAST_TRACK,)
_NOBODY: Final = (0, 0, 0)

Refuses = Callable[[Priority, Avoid], bool]
"""Whether there is no place now for a request of this priority that came back and avoids these nodes."""


@dataclass(frozen=True, slots=True)
class QueueRules:
    """``limits`` are the greatest numbers of waiting requests by priority, 0 for none; ``ageing_s`` 0 is off."""

    fast_track_per_high: int = 2
    drain_first: bool = False
    limits: tuple[int, int, int] = (0, 0, 0)
    ageing_s: float = 0.0


class _Fifo(Generic[T]):
    """First in, first out, with removal from anywhere; an item is put in once in its life.

    The order is in a deque and what is there in a dict: a third less time than an `OrderedDict`, and it stays in
    the cache longer. What was removed from the middle stays in the deque until it comes to the front, or until there
    is more of that than of the rest.
    """

    __slots__ = ("_order", "since")

    def __init__(self) -> None:
        self.since: dict[T, float] = {}
        self._order: deque[T] = deque()

    def put(self, item: T, now: float) -> None:
        """To the end."""
        self.since[item] = now
        self._order.append(item)

    def take(self) -> T:
        """The first; only while `since` is not empty."""
        since, order = self.since, self._order
        while True:
            item = order.popleft()
            if since.pop(item, None) is not None:
                return item

    def remove(self, item: T) -> bool:
        """From wherever it is; False when it is not there."""
        if self.since.pop(item, None) is None:
            return False
        if len(self._order) > 2 * len(self.since) + _SLACK:
            self._order = deque(self.since)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self.since.clear()
        self._order.clear()

    def oldest(self) -> float | None:
        """Since when the first is there; None when nothing is."""
        since, order = self.since, self._order
        while order:
            found = since.get(order[0])
            if found is not None:
                return found
            order.popleft()
        return None


class PriorityQueue(Generic[T]):
    """Items are told apart by identity or hash; each is pushed once, and comes back any number of times."""

    def __init__(self, rules: QueueRules) -> None:
        self._rules = rules
        self._fifos: tuple[_Fifo[T], ...] = (_Fifo(), _Fifo(), _Fifo())
        self._fresh = tuple(fifo.since for fifo in self._fifos)  # what waits, to look at
        # Empty but for moments in which a node fails; a key goes with its last request.
        self._returned: tuple[dict[Avoid, OrderedDict[T, float]], ...] = ({}, {}, {})
        self._any_returned = 0
        self._waiting = 0  # all of them: most often nobody waits, and that is what each request asks
        self._fast_run = 0
        self._since_aged = AGED_SHARE

    def __len__(self) -> int:
        return self._waiting

    def __repr__(self) -> str:
        fast, high, low = self.sizes()
        return f"<PriorityQueue {fast} fast-track, {high} high, {low} low>"

    def sizes(self) -> tuple[int, int, int]:
        """How many wait: fast-track, high, low."""
        if not self._waiting:
            return _NOBODY
        fast, high, low = self._fresh
        if not self._any_returned:
            return len(fast), len(high), len(low)
        more = [sum(map(len, fifos.values())) for fifos in self._returned]
        return len(fast) + more[0], len(high) + more[1], len(low) + more[2]

    def push(self, item: T, priority: Priority, now: float) -> bool:
        """To the end of its queue; False when that is full."""
        limit = self._rules.limits[priority]
        if limit and len(self._fresh[priority]) >= limit:
            return False
        self._fifos[priority].put(item, now)
        self._waiting += 1
        return True

    def push_back(self, item: T, priority: Priority, avoid: Avoid, now: float) -> None:
        """A request whose node failed, in front of its queue. No limit: it had its place before."""
        self._returned[priority].setdefault(avoid, OrderedDict())[item] = now
        self._any_returned += 1
        self._waiting += 1

    def pop(self, now: float, refuses: Refuses | None = None, *, only_fast_track: bool = False) -> T | None:
        """The next one, or None. Of those that came back, one that ``refuses`` has no place for stays."""
        if only_fast_track:
            return self._take(_ONLY_FAST, refuses)
        order = self._order(now)
        item = self._take(order, refuses)
        if item is not None and self._rules.ageing_s:
            self._since_aged = 0 if order is _LOW_FIRST else min(self._since_aged + 1, AGED_SHARE)
        return item

    def note_passed(self, priority: Priority) -> None:
        """A request of ``priority`` needed no wait: it counts for the turns as if it had been pushed and popped."""
        if priority is not FAST_TRACK:
            self._fast_run = 0
        else:
            self._count_fast_turn()

    def cancel(self, item: T, priority: Priority) -> bool:
        """Forget an item; False when it was not there any more."""
        if self._fifos[priority].remove(item):
            self._waiting -= 1
            return True
        for avoid, fifo in self._returned[priority].items():
            if fifo.pop(item, None) is not None:
                self._forget_returned(priority, avoid)
                return True
        return False

    def drain(self) -> list[T]:
        """Everything, in no order that means something; the queue is empty afterwards."""
        items = [item for fifo in self._fresh for item in fifo]
        items += [item for fifos in self._returned for fifo in fifos.values() for item in fifo]
        for fifo in self._fifos:
            fifo.clear()
        for fifos in self._returned:
            fifos.clear()
        self._any_returned = self._waiting = 0
        return items

    def any_fresh(self) -> bool:
        """Whether anything waits that has not come back from a node."""
        return self._waiting > self._any_returned

    def any_fresh_fast_track(self) -> bool:
        """The same of fast-track alone."""
        return bool(self._fresh[0])

    def pop_older(self, than: float) -> T | None:
        """The first in rank that has waited since ``than`` or longer; no turn is counted."""
        for fifo in self._fifos:
            since = fifo.oldest()
            if since is not None and since <= than:
                self._waiting -= 1
                return fifo.take()
        return None

    def oldest_of_all(self) -> float | None:
        """Since when the one waits that has waited longest, of those that have not come back."""
        found = (fifo.oldest() for fifo in self._fifos)
        return min((since for since in found if since is not None), default=None)

    def oldest(self, priority: Priority) -> float | None:
        """Since when the first of ``priority`` waits that has not come back from a node."""
        return self._fifos[priority].oldest()

    def _order(self, now: float) -> tuple[Priority, ...]:
        if self._rules.ageing_s and self._low_has_aged(now):
            return _LOW_FIRST
        if not self._fresh[0] and not self._returned[0]:
            self._fast_run = 0
            return _HIGH_FIRST
        if self._rules.drain_first or self._count_fast_turn():
            return _FAST_FIRST
        return _HIGH_FIRST

    def _count_fast_turn(self) -> bool:
        """Whether this turn is fast-track's; after N of its turns one is not, used by a high request or not."""
        if self._fast_run < self._rules.fast_track_per_high:
            self._fast_run += 1
            return True
        self._fast_run = 0
        return False

    def _low_has_aged(self, now: float) -> bool:
        since = self.oldest(LOW)
        return since is not None and self._since_aged >= AGED_SHARE and now - since >= self._rules.ageing_s

    def _take(self, order: tuple[Priority, ...], refuses: Refuses | None) -> T | None:
        for priority in order:
            if self._any_returned and (item := self._take_returned(priority, refuses)) is not None:
                return item
            if self._fresh[priority]:
                self._waiting -= 1
                return self._fifos[priority].take()
        return None

    def _take_returned(self, priority: Priority, refuses: Refuses | None) -> T | None:
        oldest: Avoid | None = None
        since = 0.0
        for avoid, fifo in self._returned[priority].items():  # a few: combinations of nodes that just failed
            first = next(iter(fifo.values()))
            if (oldest is None or first < since) and (refuses is None or not refuses(priority, avoid)):
                oldest, since = avoid, first
        if oldest is None:
            return None
        item, _ = self._returned[priority][oldest].popitem(last=False)
        self._forget_returned(priority, oldest)
        return item

    def _forget_returned(self, priority: Priority, avoid: Avoid) -> None:
        self._any_returned -= 1
        self._waiting -= 1
        if not self._returned[priority][avoid]:
            del self._returned[priority][avoid]
