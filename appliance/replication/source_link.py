"""The side of a link that sends its log to one follower. Pure: messages and records in, messages out.

It sends in the order of its log, from the follower's cursor or from its own commit point, whichever is first: what is
not committed is sent again on every link, so the answers of the last one need not be kept. Sent and not yet
acknowledged is at most a window; then it waits, and the follower's disk sets the pace.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.domain.errors import DecodeError, RemoteError
from appliance.domain.replicas import Replica
from appliance.replication.votes import Place
from appliance.wire.replication import (
    VERSION,
    Ack,
    Committed,
    Entries,
    Hello,
    Pruned,
    Welcome,
    entry_of,
    welcome_proof,
)

WINDOW_ENTRIES: Final = 4096
WINDOW_BYTES: Final = 8 * 2**20


class Refused(RemoteError):
    """There will be no link; the text is for the other side and for the log."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a host is to its peers. ``voters`` has this host's own name where it votes."""

    host_id: str
    log_id: str
    secret: bytes
    voters: frozenset[str]
    follow_only: bool


@dataclass(frozen=True, slots=True)
class _Sent:
    position: int
    place: Place
    size: int


class SourceLink:
    """One follower of this host's log."""

    def __init__(self, own: Identity) -> None:
        self._own = own
        self.peer = ""
        self.votes = False
        self.sent = 0
        self.acked = 0
        self.refused = 0
        self._told = 0
        self._in_flight: deque[_Sent] = deque()
        self._in_flight_bytes = 0

    def __repr__(self) -> str:
        return f"<SourceLink to {self.peer or 'nobody yet'}: sent {self.sent}, acked {self.acked}>"

    def hello(
        self, hello: Hello, *, committed: int, appended: int, pruned: int, recovering: bool, known_log_id: str | None
    ) -> tuple[Welcome, Pruned | None]:
        """Accept a follower, or raise `Refused`.

        ``pruned`` is the last position that retention removed, ``known_log_id`` the log that this host knew of it.
        """
        self._check(hello)
        self.peer = hello.host_id
        self.votes = hello.host_id in self._own.voters and not hello.follow_only and not hello.recovering
        cursor = hello.cursor if hello.cursor_log_id == self._own.log_id else 0
        self.sent = self.acked = self._told = min(cursor, committed)
        passed = Pruned(pruned) if pruned > self.sent else None
        if passed:
            self.sent = self.acked = pruned
        return self._welcome(hello, appended, recovering, known_log_id), passed

    def _check(self, hello: Hello) -> None:
        if hello.version != VERSION:
            raise Refused(f"replication version {hello.version}, this host speaks {VERSION}")
        if hello.host_id == self._own.host_id:
            raise Refused(f"host_id {hello.host_id} is this host's own")
        if hello.log_id == self._own.log_id:
            raise Refused(f"log {hello.log_id} is this host's own: a copied folder?")
        if not hello.follow_only and hello.host_id not in self._own.voters:
            raise Refused(f"host_id {hello.host_id} is not among the peers here, and does not say follow_only")

    def _welcome(self, hello: Hello, appended: int, recovering: bool, known_log_id: str | None) -> Welcome:
        own = self._own
        return Welcome(
            VERSION,
            own.host_id,
            own.log_id,
            welcome_proof(own.secret, hello.nonce, follower=hello.host_id, source=own.host_id, log_id=own.log_id),
            appended,
            own.follow_only,
            recovering,
            known_log_id not in (None, hello.log_id),
        )

    @property
    def has_room(self) -> bool:
        """Whether more may be sent now: what comes after `sent`."""
        return len(self._in_flight) < WINDOW_ENTRIES and self._in_flight_bytes < WINDOW_BYTES

    @property
    def in_flight(self) -> int:
        """Entries that were sent and are not acknowledged."""
        return len(self._in_flight)

    def send(self, records: Sequence[Replica], committed: int) -> Entries:
        """The message for the records that follow `sent`; at least one."""
        for record in records:
            place = Place(record.payload_id, record.index, record.prefix)
            sent = _Sent(record.position, place, len(record.body or b""))
            self._in_flight.append(sent)
            self._in_flight_bytes += sent.size
        self.sent = records[-1].position
        self._told = max(self._told, min(committed, self.sent))
        return Entries([entry_of(record) for record in records], committed)

    def committed(self, position: int) -> Committed | None:
        """What to tell the follower when this host's commit point has moved; None for no news."""
        through = min(position, self.sent)
        if through <= self._told:
            return None
        self._told = through
        return Committed(through)

    def ack(self, ack: Ack) -> list[Place]:
        """What the follower has on its disk now. DecodeError for an acknowledgement of what was not sent."""
        if ack.through > self.sent:
            raise DecodeError(f"through: {ack.through}, but only {self.sent} was sent")
        refused = set(ack.refused)
        held = []
        while self._in_flight and self._in_flight[0].position <= ack.through:
            sent = self._in_flight.popleft()
            self._in_flight_bytes -= sent.size
            if sent.position in refused:
                self.refused += 1
            else:
                held.append(sent.place)
        self.acked = max(self.acked, ack.through)
        return held
