"""The side of a link that sends its log to one follower. Pure.

It sends in the order of its log from the follower's cursor, which is before everything that is undecided there. Sent
and not acknowledged is at most a window; then it waits, and the follower's disk sets the pace.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadId
from appliance.replication.places import Key, Place
from appliance.wire.replication import MAX_ITEMS, Ack, Committed, Entries, WireEntry, WirePlace

WINDOW_ENTRIES: Final = 2048
WINDOW_BYTES: Final = 8 * 2**20
BATCH_ENTRIES: Final = 96
BATCH_BYTES: Final = 512 * 2**10
"""One message: it holds the other side's loop for a millisecond to decode it, and for another when it is stored."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What an acknowledgement says of entries that were sent: held, refused for another branch, or for an end."""

    held: tuple[Place, ...]
    refused: tuple[Place, ...]
    ended: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class _Sent:
    position: int
    place: Place
    size: int


class SourceLink:
    """One follower of this host's log, once it is welcome. ``votes``: what it has on its disk counts.

    It is sent what comes after ``start``; ``begun_at`` is where this log was when the link began.
    """

    def __init__(self, peer: str, log_id: str, start: int, now: float, *, begun_at: int, votes: bool) -> None:
        self.peer = peer
        self.log_id = log_id
        self.votes = votes
        self.begun_at = begun_at
        self.sent = self.acked = start
        self.heard_at = now
        self.held = self.refused = 0
        self.is_reading = False
        self.reading_epoch = 0
        self._in_flight: deque[_Sent] = deque()
        self._in_flight_bytes = 0
        self._untold: dict[Key, bytes] = {}

    def __repr__(self) -> str:
        return f"<SourceLink to {self.peer}: sent {self.sent}, acknowledged {self.acked}>"

    @property
    def has_room(self) -> bool:
        """Whether more may be sent now."""
        return len(self._in_flight) < WINDOW_ENTRIES and self._in_flight_bytes < WINDOW_BYTES

    @property
    def in_flight(self) -> int:
        """Entries that were sent and are not acknowledged."""
        return len(self._in_flight)

    def send(self, entries: Sequence[WireEntry], now: float) -> Entries:
        """The message for the entries that follow what was sent; at least one."""
        if not self._in_flight:
            self.heard_at = now  # from here on an answer is due
        for entry in entries:
            place = Place(entry.payload_id, entry.index, entry.prefix)
            size = len(entry.body or b"")
            self._in_flight.append(_Sent(entry.position, place, size))
            self._in_flight_bytes += size
            if not entry.committed:
                self._untold[place.key] = place.prefix
        self.sent = entries[-1].position
        return Entries(list(entries))

    def committed(self, places: Iterable[Place]) -> list[Committed]:
        """What to tell the follower when this host knows more entries to be committed."""
        told = [
            WirePlace(place.payload_id, place.index, place.prefix)
            for place in places
            if self._untold.pop(place.key, None) == place.prefix
        ]
        return [Committed(told[first : first + MAX_ITEMS]) for first in range(0, len(told), MAX_ITEMS)]

    def forget(self, payload_id: PayloadId, from_index: int) -> None:
        """These are not in this host's log any more: there is nothing to tell of them."""
        for key in [key for key in self._untold if key[0] == payload_id and key[1] >= from_index]:
            del self._untold[key]

    def forget_all(self, payloads: Collection[PayloadId]) -> None:
        """The same, of all that there was of these."""
        for key in [key for key in self._untold if key[0] in payloads]:
            del self._untold[key]

    def ack(self, ack: Ack, now: float) -> Acknowledged:
        """What the follower made of what was sent. DecodeError for an acknowledgement of what was not sent."""
        if ack.through > self.sent:
            raise DecodeError(f"through: {ack.through}, but only {self.sent} was sent")
        self.heard_at = now
        self.acked = max(self.acked, ack.through)
        refused, ended = set(ack.refused), set(ack.ended)
        found: tuple[list[Place], list[Place], list[Place]] = ([], [], [])
        while self._in_flight and self._in_flight[0].position <= ack.through:
            sent = self._in_flight.popleft()
            self._in_flight_bytes -= sent.size
            kind = 1 if sent.position in refused else 2 if sent.position in ended else 0
            found[kind].append(sent.place)
        self.held += len(found[0])
        self.refused += len(found[1]) + len(found[2])
        return Acknowledged(*map(tuple, found))
