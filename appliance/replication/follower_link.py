"""The side of a link that follows a peer's log. Pure: messages and receipts in, messages and places out.

    welcomed -> received: a batch for this host's log -> stored: the acknowledgement, and what it says about votes

The cursor that goes to disk with a batch covers the batches before it, whose receipts are known: it never passes an
entry that was refused while its place is open here. If that branch wins, it has to come again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.domain.errors import RemoteError
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Verdict
from appliance.replication.source_link import Identity, Refused
from appliance.replication.votes import Key, Place
from appliance.wire.replication import VERSION, Ack, Committed, Entries, Hello, Pruned, Welcome, WireEntry, proves

_REFUSING = (Verdict.REFUSED, Verdict.CLOSED)


class Gap(RemoteError):
    """An entry came whose predecessor is not here: this peer's log has to be followed from its start again."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into the log in one transaction, with the cursor that goes with it."""

    entries: tuple[WireEntry, ...]
    cursor: Cursor
    committed: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What a batch came to: ``votes`` are the source's, ``decided`` those of them that it calls committed."""

    ack: Ack
    votes: tuple[Place, ...]
    decided: tuple[Place, ...]
    new: int
    refused: int


class FollowerLink:
    """This host's following of one peer. ``is_open`` says whether this log has an uncommitted entry at a place."""

    def __init__(
        self, own: Identity, peer: str, nonce: bytes, cursor: Cursor | None, is_open: Callable[[Key], bool]
    ) -> None:
        self._own = own
        self._peer = peer
        self._nonce = nonce
        self._start = cursor
        self._is_open = is_open
        self._log_id = ""
        self.position = 0
        self.votes = False
        self.source_appended = 0
        self._undecided: deque[tuple[int, Place]] = deque()
        self._refused: dict[int, Key] = {}

    def __repr__(self) -> str:
        return f"<FollowerLink of {self._peer} at {self.position}>"

    def hello(self, *, recovering: bool) -> Hello:
        """The first message."""
        cursor = self._start or Cursor("", 0)
        own = self._own
        return Hello(
            VERSION,
            own.host_id,
            own.log_id,
            self._nonce,
            own.follow_only,
            recovering,
            cursor.log_id,
            cursor.position,
        )

    def welcomed(self, welcome: Welcome) -> None:
        """Check who answered. Raises `Refused` where it is another host, or does not know the secret."""
        if welcome.version != VERSION:
            raise Refused(f"replication version {welcome.version}, this host speaks {VERSION}")
        if welcome.host_id != self._peer:
            raise Refused(f"host_id {welcome.host_id} answered, expected {self._peer}")
        if not proves(welcome, self._own.secret, self._nonce, follower=self._own.host_id):
            raise Refused("it does not know the secret")
        self._log_id = welcome.log_id
        self.votes = self._peer in self._own.voters and not welcome.follow_only and not welcome.recovering
        self.source_appended = welcome.appended
        if self._start is not None and self._start.log_id == welcome.log_id:
            self.position = self._start.position

    def pruned(self, message: Pruned) -> int:
        """How many positions of the source's log are gone that were never seen here."""
        missed = max(0, message.through - self.position)
        self.position = max(self.position, message.through)
        return missed

    def received(self, message: Entries) -> Batch:
        """The next entries. They may begin before `position`: what is not committed comes again."""
        return Batch(tuple(message.entries), self._cursor(), message.committed)

    def stored(self, batch: Batch, receipts: Sequence[Receipt]) -> Stored:
        """After this host's fsync. Raises `Gap`."""
        self._check_gap(batch, receipts)
        places = [Place(entry.payload_id, entry.index, entry.prefix) for entry in batch.entries]
        verdicts = [receipt.verdict for receipt in receipts]
        refused = {
            entry.position: place.key
            for entry, place, verdict in zip(batch.entries, places, verdicts, strict=True)
            if verdict in _REFUSING
        }
        self._refused |= refused
        last = batch.entries[-1].position
        self._undecided.extend(zip((entry.position for entry in batch.entries), places, strict=True))
        self.position = max(self.position, last)
        return Stored(
            Ack(last, list(refused)),
            tuple(places) if self.votes else (),
            self._decided_through(batch.committed),
            verdicts.count(Verdict.NEW),
            len(refused),
        )

    def _check_gap(self, batch: Batch, receipts: Sequence[Receipt]) -> None:
        for entry, receipt in zip(batch.entries, receipts, strict=True):
            if receipt.verdict in (Verdict.OUT_OF_ORDER, Verdict.NEED_BODY):
                raise Gap(f"flashblock {entry.index} of payload {entry.payload_id} came without its predecessor")

    def committed(self, message: Committed) -> tuple[Place, ...]:
        """What the source calls committed now, of what it has sent."""
        return self._decided_through(message.through)

    def cursor(self) -> Cursor | None:
        """How far the source's log has been dealt with, for a write of its own; None before the welcome."""
        return self._cursor() if self._log_id else None

    def rewound(self, payload_id: PayloadId, from_index: int) -> Cursor | None:
        """The cursor from which a refused branch comes again; None where this source's was not refused."""
        positions = [
            position for position, key in self._refused.items() if key[0] == payload_id and key[1] >= from_index
        ]
        return Cursor(self._log_id, min(positions) - 1) if positions else None

    def _cursor(self) -> Cursor:
        self._refused = {position: key for position, key in self._refused.items() if self._is_open(key)}
        held_back = min(self._refused, default=self.position + 1) - 1
        return Cursor(self._log_id, min(self.position, held_back))

    def _decided_through(self, position: int) -> tuple[Place, ...]:
        decided = []
        while self._undecided and self._undecided[0][0] <= position:
            decided.append(self._undecided.popleft()[1])
        # What is not open here needs no word any more, so that this holds no more than the votes do.
        while self._undecided and not self._is_open(self._undecided[0][1].key):
            self._undecided.popleft()
        return tuple(decided) if self._peer in self._own.voters else ()
