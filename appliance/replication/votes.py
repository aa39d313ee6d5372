"""Which entries of this host's log are committed: the votes of the hosts, counted. Pure.

A *vote* is an entry on a host's disk: its place (payload id, index) and its branch (the prefix digest, which stands
for that body and all before it). A host votes once for a place: its log holds one body there and refuses others.

    a branch at a place has       this log has there    then
    a quorum of votes, or         the same              committed, as far as all before it in this log is
    a voter's word for it         another one           Replace: it can't have a quorum, nor ever get one
    votes of all, and none has    any of them           Close: nobody can vote for it any more
    a quorum

Two quorums share a host, and that host holds one body: so of two bodies at a place one at most is ever committed. A
host changes its vote by Replace only, when the other branch is committed already; whoever made that quorum voted for
it first, so votes that are out of date can never add up to another one.

The commit point moves in the order of this log, because readers read up to it. Only what is beyond it is kept here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from appliance.domain.payloads import PayloadId

MAX_OPEN: Final = 100_000
"""Entries beyond the commit point that are counted: five hours at 5/s. What comes after waits in the log."""

Key = tuple[PayloadId, int]


@dataclass(frozen=True, slots=True)
class Place:
    """One flashblock on one branch."""

    payload_id: PayloadId
    index: int
    prefix: bytes

    @property
    def key(self) -> Key:
        """What two branches have in common."""
        return self.payload_id, self.index


@dataclass(frozen=True, slots=True)
class CommitThrough:
    """Everything up to ``position`` is committed. ``waited_s`` has one number for each entry that is newly so."""

    position: int
    waited_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ShowThrough:
    """Everything up to ``position`` may be shown though it is not committed (`on_timeout = "publish"`)."""

    position: int


@dataclass(frozen=True, slots=True)
class Replace:
    """This log's branch lost: remove it from ``from_index`` on, and fetch that of ``winner`` again."""

    payload_id: PayloadId
    from_index: int
    winner: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """No branch can be committed at ``at``: the payload ends before it."""

    payload_id: PayloadId
    at: int


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Votes for entries that were not counted yet have gone by: make the links anew, and they come again."""


Command = CommitThrough | ShowThrough | Replace | Close | AskAgain


@dataclass(frozen=True, slots=True)
class _Own:
    place: Place
    since: float


class Votes:
    """``quorum`` of the ``voters`` decide; ``own`` is None where this host has no vote (a learner, or recovering).

    ``publish_after_s`` is set where entries may be shown before they are committed. Time is monotonic seconds.
    """

    def __init__(
        self,
        own: str | None,
        voters: frozenset[str],
        quorum: int,
        *,
        committed: int,
        publish_after_s: float | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        self._own = own
        self._voters = voters
        self._quorum = quorum
        self.committed = committed
        self.shown = committed
        self.seen = committed
        self._publish_after_s = publish_after_s
        self._max_open = max_open
        self._overflowed = False
        self._open: dict[int, _Own] = {}  # by position, in its order
        self._position_of: dict[Key, int] = {}
        self._ballots: dict[Key, dict[bytes, set[str]]] = {}
        self._decided: dict[Key, bytes] = {}
        self._decided_through: dict[PayloadId, int] = {}  # on this log's own branch
        self._open_of: Counter[PayloadId] = Counter()
        self._touched: set[Key] = set()
        self._closing: dict[PayloadId, int] = {}

    def __repr__(self) -> str:
        return f"<Votes committed {self.committed}, {len(self._open)} open>"

    @property
    def open(self) -> int:
        """Entries that are on disk here and not committed."""
        return len(self._open)

    def oldest_open_since(self) -> float | None:
        """When the oldest of them came, None when there is none."""
        first = next(iter(self._open.values()), None)
        return first.since if first else None

    def is_open(self, key: Key) -> bool:
        """Whether this log has an entry there that is not committed."""
        return key in self._position_of

    def may_vote(self, own: str) -> None:
        """This host has recovered: what it holds counts from now on."""
        self._own = own
        for held in self._open.values():
            self._count(own, held.place)

    # --- what happens ---

    def held(self, position: int, place: Place, now: float) -> bool:
        """An entry is on this host's disk, in the order of its log. False where there is no room to count it yet."""
        if position <= self.seen:
            return True
        if len(self._open) >= self._max_open:
            self._overflowed = True
            return False
        self.seen = position
        self._open[position] = _Own(place, now)
        self._position_of[place.key] = position
        self._open_of[place.payload_id] += 1
        self._ballots.setdefault(place.key, {})
        self._touched.add(place.key)
        if self._own is not None:
            self._count(self._own, place)
        return True

    def voted(self, host: str, places: Iterable[Place]) -> None:
        """Another host has these on its disk. Ignored for what is not open here, and from who has no vote."""
        if host in self._voters:
            for place in places:
                self._count(host, place)

    def decided(self, places: Iterable[Place]) -> None:
        """A voter says that these are committed."""
        for place in places:
            if place.key in self._position_of:
                self._decided[place.key] = place.prefix
                self._touched.add(place.key)

    def closed(self, payload_id: PayloadId, at: int) -> None:
        """A voter says that nothing of this payload can be committed from ``at`` on."""
        self._closing[payload_id] = min(at, self._closing.get(payload_id, at))

    def removed(self, payload_id: PayloadId, from_index: int) -> None:
        """`Replace` or `Close` was carried out: this log holds nothing of the payload from there on."""
        self._closing.pop(payload_id, None)
        gone = [key for key in self._position_of if key[0] == payload_id and key[1] >= from_index]
        for key in gone:
            self._forget(self._position_of[key])
        if self._decided_through.get(payload_id, -1) >= from_index:
            self._decided_through.pop(payload_id)

    def _count(self, host: str, place: Place) -> None:
        ballot = self._ballots.get(place.key)
        if ballot is not None:
            ballot.setdefault(place.prefix, set()).add(host)
            self._touched.add(place.key)

    # --- what follows ---

    def settle(self, now: float) -> list[Command]:
        """What is to be done now. Replace and Close come again until `removed` is called."""
        commands = [*self._judge_touched(), *(Close(*closing) for closing in self._closing.items())]
        commands.extend(self._advance(now))
        if self._overflowed and len(self._open) < self._max_open // 2:
            self._overflowed = False
            commands.append(AskAgain())
        return commands

    def _judge_touched(self) -> Iterator[Command]:
        lost: dict[PayloadId, tuple[int, bytes]] = {}
        dead: dict[PayloadId, int] = {}
        for key in list(self._touched):
            self._touched.discard(key)
            winner, own = self._winner(key), self._open[self._position_of[key]].place.prefix
            payload_id, index = key
            if winner == own:
                self._decided_through[payload_id] = max(index, self._decided_through.get(payload_id, -1))
            elif winner is not None:
                lost[payload_id] = min((index, winner), lost.get(payload_id, (index, winner)))
                self._touched.add(key)
            elif self._is_dead(key):
                dead[payload_id] = min(index, dead.get(payload_id, index))
                self._touched.add(key)
        yield from (Replace(payload_id, *found) for payload_id, found in lost.items())
        yield from (Close(payload_id, at) for payload_id, at in dead.items() if payload_id not in lost)

    def _winner(self, key: Key) -> bytes | None:
        if key in self._decided:
            return self._decided[key]
        ballot = self._ballots[key]
        return next((prefix for prefix, hosts in ballot.items() if len(hosts) >= self._quorum), None)

    def _is_dead(self, key: Key) -> bool:
        ballot = self._ballots[key]
        return len(ballot) > 1 and self._voters <= set().union(*ballot.values())

    def _advance(self, now: float) -> Iterator[Command]:
        waited = []
        while self._open:
            position, own = next(iter(self._open.items()))
            if own.place.index > self._decided_through.get(own.place.payload_id, -1):
                break
            waited.append(now - own.since)
            self.committed = position
            self._forget(position)
        if waited:
            self.shown = max(self.shown, self.committed)
            yield CommitThrough(self.committed, tuple(waited))
        yield from self._show_overdue(now)

    def _show_overdue(self, now: float) -> Iterator[ShowThrough]:
        if self._publish_after_s is None:
            return
        before = self.shown
        for position, own in self._open.items():
            if own.since + self._publish_after_s > now:
                break
            self.shown = max(self.shown, position)
        if self.shown > before:
            yield ShowThrough(self.shown)

    def _forget(self, position: int) -> None:
        key = self._open.pop(position).place.key
        del self._position_of[key]
        self._ballots.pop(key, None)
        self._decided.pop(key, None)
        self._touched.discard(key)
        self._open_of[key[0]] -= 1
        if not self._open_of[key[0]]:
            del self._open_of[key[0]]
            self._decided_through.pop(key[0], None)
