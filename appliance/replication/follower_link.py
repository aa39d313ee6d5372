"""The side of a link that follows a peer's log. Pure.

The cursor goes to disk with the commit point. It is before every entry of the peer that is not settled here, be it
held, refused or ended here: after a restart those come again, with what the peer knows by then. So votes are never
stored.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.domain.errors import DecodeError, RemoteError
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Replica, Verdict
from appliance.replication.commands import Link, Store
from appliance.replication.places import Key, Place
from appliance.replication.source_link import WINDOW_BYTES, WINDOW_ENTRIES
from appliance.wire.replication import Ack

MAX_WAITING_ENTRIES: Final = 2 * WINDOW_ENTRIES
MAX_WAITING_BYTES: Final = 2 * WINDOW_BYTES
"""What waits for the disk, of a source that keeps its window and one message beyond it; from another one no more is
taken."""

MAX_REFUSED: Final = 1024
"""Payloads of which a branch was refused on a link; of one that is forgotten a gap is seen where there is none, and the
peer's log is followed from its start again."""

SAVE_CURSOR_S: Final = 0.05
"""A stream's cursors and commit point go to disk with its entries. What has moved since is saved when so long nothing
came: a transaction of its own is an fsync, which would be in the way of the commit that is going on."""


LOOK_AGAIN: Final = 4000
"""Entries of which it is remembered that they were open, before it is asked of all of them whether they still are: one
that stays open for days would keep all those behind it in memory."""


class Gap(RemoteError):
    """An entry came whose predecessor is not here: this peer's log has to be followed from its start again."""


class BodyMissing(RemoteError):
    """An entry came without its body, and is not here any more: it lost its place. On another link it comes whole."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One entry of a batch that is stored: what this log made of it."""

    place: Place
    verdict: Verdict
    position: int | None
    is_sibling: bool
    committed: bool


class FollowerLink:
    """This host's following of one peer, once it was welcomed. ``votes``: what the peer has on its disk counts."""

    def __init__(
        self, peer: str, cursor: Cursor, is_open: Callable[[Key], bool], *, votes: bool, keeps_cursor: bool
    ) -> None:
        """``keeps_cursor`` is off for a voter without its vote: who knew another log of it is to go on saying so."""
        self.peer = peer
        self.keeps_cursor = keeps_cursor
        self.log_id = cursor.log_id
        self.votes = votes
        self.received = 0  # on this link, which may begin before the cursor
        self.position = self.saved = cursor.position
        self.issued = self.done = 0
        self._waiting_entries = self._waiting_bytes = 0
        self._is_open = is_open
        self._unsettled: deque[tuple[int, Key]] = deque()
        self._in_doubt: deque[tuple[int, Key]] = deque()
        self._look_again = LOOK_AGAIN
        self._refused: OrderedDict[PayloadId, None] = OrderedDict()
        self.source_appended = 0

    def __repr__(self) -> str:
        return f"<FollowerLink of {self.peer} at {self.position}>"

    @property
    def is_storing(self) -> bool:
        """Whether entries are on their way to the disk; what came after them has to wait."""
        return self.done < self.issued

    @property
    def behind(self) -> int:
        """Positions of the source's log that are not on this host's disk, as far as is known."""
        return max(0, self.source_appended - self.position)

    def pruned(self, through: int) -> int:
        """How many positions of the source's log are gone that were never seen here. DecodeError beyond its end."""
        if through > self.source_appended:
            raise DecodeError(f"through: {through} is pruned, of a log that ends at {self.source_appended}")
        missed = max(0, through - max(self.received, self.position))
        self.passed(through)
        return missed

    def passed(self, through: int) -> None:
        """Nothing more comes up to there; asked when nothing is on its way to the disk."""
        self.received = max(self.received, through)
        self.position = max(self.position, through)

    def store(self, link: Link, entries: tuple[Replica, ...], late: frozenset[int], committed: frozenset[int]) -> Store:
        """The command that puts the next entries into this host's log. DecodeError where too many wait for that."""
        self._note_waiting(entries, 1)
        if self._waiting_entries > MAX_WAITING_ENTRIES or self._waiting_bytes > MAX_WAITING_BYTES:
            raise DecodeError(f"more came than the window holds: {self._waiting_entries} entries wait for the disk")
        self.issued += 1
        self.received = entries[-1].position
        self.source_appended = max(self.source_appended, self.received)
        self.saved = self.cursor().position
        cursor = Cursor(self.log_id, self.saved) if self.keeps_cursor else None
        return Store(link, self.peer, entries, cursor, late, committed)

    def stored(self, store: Store, receipts: Sequence[Receipt]) -> tuple[Ack, list[Heard]]:
        """After this host's fsync: what to answer, and what the entries are to the votes. `Gap`, `BodyMissing`."""
        self.done += 1
        self._note_waiting(store.entries, -1)
        heard = [
            Heard(
                Place(entry.payload_id, entry.index, entry.prefix),
                receipt.verdict,
                receipt.position,
                receipt.is_sibling,
                entry.position in store.committed,
            )
            for entry, receipt in zip(store.entries, receipts, strict=True)
        ]
        refused, ended = [], []
        for entry, each in zip(store.entries, heard, strict=True):
            self._check_gap(each)
            self._unsettled.append((entry.position, each.place.key))
            if each.verdict in (Verdict.REFUSED, Verdict.OUT_OF_ORDER):
                refused.append(entry.position)
                self._remember_refused(each.place.payload_id)
            elif self._is_end(each):
                ended.append(entry.position)
        self._in_doubt.extend(
            (entry.position, each.place.key)
            for entry, each in zip(store.entries, heard, strict=True)
            if each.verdict not in (Verdict.NEW, Verdict.HELD)
        )
        self.position = max(self.position, store.entries[-1].position)
        return Ack(store.entries[-1].position, refused, ended), heard

    @staticmethod
    def _is_end(heard: Heard) -> bool:
        """Whether this log takes nothing at exactly this place of this branch.

        A tombstone before it says less: that one goes when the branch is committed there.
        """
        if heard.verdict is Verdict.PASSED:
            return not heard.committed
        return heard.verdict is Verdict.CLOSED and heard.is_sibling

    def _note_waiting(self, entries: tuple[Replica, ...], sign: int) -> None:
        self._waiting_entries += sign * len(entries)
        self._waiting_bytes += sign * sum(len(entry.body or b"") for entry in entries)

    def _check_gap(self, heard: Heard) -> None:
        place = heard.place
        if heard.verdict is Verdict.NEED_BODY:
            raise BodyMissing(f"flashblock {place.index} of payload {place.payload_id} came without its body")
        if heard.verdict is Verdict.OUT_OF_ORDER and place.payload_id not in self._refused:
            raise Gap(f"flashblock {place.index} of payload {place.payload_id} came without its predecessor")

    def _remember_refused(self, payload_id: PayloadId) -> None:
        self._refused[payload_id] = None
        self._refused.move_to_end(payload_id)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def cursor(self) -> Cursor:
        """How far the source's log is settled here; as durable as the commit point that is written with it."""
        self._forget_settled()
        return Cursor(self.log_id, self._before_open(self._unsettled))

    def unsaved(self) -> Cursor | None:
        """The cursor, where it is to be kept and is beyond what was given to the disk; that is noted."""
        if not self.keeps_cursor or self.is_storing or self.cursor().position <= self.saved:
            return None
        self.saved = self.cursor().position
        return self.cursor()

    def undoubted(self) -> int:
        """How far this host holds the source's log, or knows better."""
        return self._before_open(self._in_doubt)

    def _before_open(self, waiting: deque[tuple[int, Key]]) -> int:
        while waiting and not self._is_open(waiting[0][1]):
            waiting.popleft()
        return waiting[0][0] - 1 if waiting else self.position

    def _forget_settled(self) -> None:
        if len(self._unsettled) + len(self._in_doubt) < self._look_again:
            return
        self._unsettled = deque(each for each in self._unsettled if self._is_open(each[1]))
        self._in_doubt = deque(each for each in self._in_doubt if self._is_open(each[1]))
        self._look_again = LOOK_AGAIN + 2 * (len(self._unsettled) + len(self._in_doubt))

    def has_unsettled(self, payload_id: PayloadId, from_index: int) -> bool:
        """Whether something of a payload came, from an index on, that is not settled here."""
        return any(key[0] == payload_id and key[1] >= from_index for _, key in self._unsettled)
