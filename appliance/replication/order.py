"""How far this host's log is committed: in its own order, because readers read up to one position. Pure.

An entry that is decided waits for those before it. One that is undecided and contested could wait for a host that is
away, and hold the whole stream: it is moved behind what is committed (`blocked`), for nobody was shown it.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from appliance.domain.payloads import PayloadId
from appliance.replication.places import Key, Place


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry beyond the commit point. ``since``: on this disk; ``born``: at its origin, both monotonic seconds."""

    position: int
    place: Place
    since: float
    born: float


class CommitOrder:
    """``committed`` may be said to others, ``shown`` to subscribers, ``seen`` is how far the log was looked at."""

    def __init__(self, committed: int, publish_after_s: float | None) -> None:
        self.committed = self.shown = self.seen = committed
        self._publish_after_s = publish_after_s
        self._open: dict[int, Waiting] = {}  # in the order of positions
        self._unshown: deque[Waiting] = deque()  # where they may be shown uncommitted: those not looked at for that yet
        self._position_of: dict[Key, int] = {}
        self._decided: set[Key] = set()
        self._youngest = -math.inf  # of those that are open, or were since something was
        self._awaited: dict[Key, tuple[int, float]] = {}  # position that was left, until when
        self.frozen: set[PayloadId] = set()
        """Payloads whose entries are being moved or removed: the commit point does not pass them meanwhile."""

    def __repr__(self) -> str:
        return f"<CommitOrder committed {self.committed}, {len(self._open)} open>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def oldest(self) -> Waiting | None:
        """The entry that the commit point waits for."""
        return next(iter(self._open.values()), None)

    def at(self, position: int) -> Waiting | None:
        """What is at a position beyond the commit point; None where nothing is, or not any more."""
        return self._open.get(position)

    def is_committed(self, position: int, key: Key) -> bool:
        """Whether an entry of this log is committed, be it in order or ahead of it.

        ``position`` is where it stood when it was read: since then it may have given way, to behind what is committed.
        """
        return key in self._decided if key in self._position_of else position <= self.committed

    def held(self, waiting: Waiting) -> bool:
        """The log's next entry; positions only grow. False for one that is known, and has been moved there."""
        self.seen = waiting.position
        self._youngest = max(self._youngest, waiting.born) if self._open else waiting.born
        self._awaited.pop(waiting.place.key, None)
        before = self._position_of.get(waiting.place.key)
        if before is not None:
            del self._open[before]
        self._open[waiting.position] = waiting
        self._position_of[waiting.place.key] = waiting.position
        if self._publish_after_s is not None:
            self._unshown.append(waiting)
        return before is None

    def born_before(self, place: Place) -> float:
        """When its predecessor was born, where it is open. An entry is no older, or giving way could go in circles."""
        position = self._position_of.get((place.payload_id, place.index - 1))
        return -math.inf if position is None else self._open[position].born

    def is_undecided(self, key: Key) -> bool:
        """Whether an entry of this log is open, and not known to be committed."""
        return key in self._position_of and key not in self._decided

    def decide(self, key: Key) -> Place:
        """An entry is committed."""
        self._decided.add(key)
        return self._open[self._position_of[key]].place

    def removed(self, payload_id: PayloadId, from_index: int) -> list[int]:
        """The payload's entries from there on are not in the log any more; where they were."""
        gone = [key for key in self._position_of if key[0] == payload_id and key[1] >= from_index]
        positions = [self._position_of.pop(key) for key in gone]
        for position in positions:
            del self._open[position]
        self._decided.difference_update(gone)
        return positions

    def wait_for(self, key: Key, position: int, until: float) -> None:
        """Pass nothing behind a position before what takes its place has come, or it is too late."""
        self._awaited[key] = position, until

    def give_up_waiting(self, now: float) -> None:
        """For what has not come in time."""
        if self._awaited:
            self._awaited = {key: (position, until) for key, (position, until) in self._awaited.items() if until > now}

    def advance(self) -> Iterator[Waiting]:
        """Move the commit point over what is decided, and return that."""
        while (first := self.oldest) is not None and self._may_pass(first):
            self.committed = first.position
            self.shown = max(self.shown, first.position)
            del self._open[first.position], self._position_of[first.place.key]
            self._decided.discard(first.place.key)
            yield first

    def pass_holes(self) -> bool:
        """Where nothing waits, move the commit point to the end of the log; whether it moved."""
        if self._open or self.committed >= self.seen:
            return False
        self.committed = self.seen
        self.shown = max(self.shown, self.seen)
        return True

    def _may_pass(self, first: Waiting) -> bool:
        if first.place.key not in self._decided or first.place.payload_id in self.frozen:
            return False
        return all(first.position < position for position, _ in self._awaited.values())

    def show_overdue(self, now: float) -> int | None:
        """The position up to which entries have waited too long and may be shown; None for no news."""
        if self._publish_after_s is None:
            return None
        before = self.shown
        while self._unshown and self._unshown[0].since + self._publish_after_s <= now:
            position = self._unshown.popleft().position
            if position in self._open:
                self.shown = max(self.shown, position)
        return self.shown if self.shown > before else None

    def blocked(self) -> Waiting | None:
        """The first entry, where it is undecided, was not shown, and one behind it is decided already."""
        first = self.oldest
        if first is None or not self._decided or first.position <= self.shown or not self._is_undecided(first):
            return None
        return first

    def pruned(self, position: int) -> set[PayloadId]:
        """Retention has removed everything up to a position: whole payloads, of which these were open."""
        gone = [self._open[at] for at in takewhile(lambda at: at <= position, self._open)]
        for waiting in gone:
            del self._open[waiting.position], self._position_of[waiting.place.key]
        self._decided.difference_update(waiting.place.key for waiting in gone)
        self.seen = max(self.seen, position)
        return {waiting.place.payload_id for waiting in gone}

    def blocking(self, limit: int) -> list[Waiting]:
        """What is undecided and has something behind it that is decided, in log order; at most ``limit``."""
        last = max((self._position_of[key] for key in self._decided), default=0)
        before = (waiting for waiting in self._open.values() if waiting.position < last)
        return list(islice(filter(self._is_undecided, before), limit))

    def undecided(self, limit: int) -> list[Waiting]:
        """What is, in log order; at most ``limit``."""
        return list(islice(filter(self._is_undecided, self._open.values()), limit))

    def _is_undecided(self, waiting: Waiting) -> bool:
        return waiting.place.key not in self._decided

    def younger(self, than: Waiting, by_s: float, limit: int, after: int = 0) -> list[Waiting]:
        """Entries of other payloads that stand before one that is older than they are, the oldest first.

        Of the last ``limit`` of the log that come ``after``; positions say nothing of ages where something gave way.
        """
        if than.born + by_s >= self._youngest:  # as nearly always
            return []
        last = islice(reversed(self._open.values()), limit)
        found = [each for each in last if each.position > after and self._stands_before(each, than, by_s)]
        return sorted(found, key=lambda each: (each.born, each.position))

    def _stands_before(self, waiting: Waiting, older: Waiting, by_s: float) -> bool:
        is_other = waiting.place.payload_id != older.place.payload_id
        is_before = self.shown < waiting.position < older.position
        return is_other and is_before and waiting.born > older.born + by_s
