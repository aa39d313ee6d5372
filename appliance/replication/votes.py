"""Which flashblocks can be, and are, committed: the votes of the hosts, counted. Pure; the proofs are in DESIGN.md.

A host's *vote* at a place (payload id, index) is what its disk has there: a body on a branch, or the *end* of the
payload (a tombstone). It votes once: its log holds one body at a place and refuses others, and a tombstone refuses all.

    at the first undecided index of a payload      this log has there      outcome
    a branch has a quorum of votes, or the word    the same                Won: committed; look at the next index
    of a voter who saw that                        another one, or an end  Lost: make room, and fetch that branch
    no branch can have a quorum any more           a body                  Dead: end the payload here
                                                   nothing                 Ended: nobody needs to hear of it again

Two quorums share a host, and that host has one vote there: so of two bodies at a place one at most is ever committed. A
host changes a vote only when another branch is committed, or nothing can be; whoever made that so voted first.

Votes are looked at from the first undecided index on, never further. A host whose branch parted from the committed
one earlier will get that one and vote again: what it has at later indices is no vote there (``fixed`` is False).
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from appliance.domain.payloads import PayloadId
from appliance.replication.places import Key, Place

MAX_ENDS: Final = 4096
"""Ends that are remembered of each host, as many as a log keeps tombstones; the oldest are forgotten. One that is
forgotten is heard again when the other side refuses the payload's flashblocks on the next link."""

MAX_SAID: Final = 1024
"""Words that are kept of one payload's flashblocks that are not here, and ends of one payload by one host: more than a
payload has indices. The rest is heard again, with the flashblocks or on the next link."""


@dataclass(frozen=True, slots=True)
class Won:
    """This log's flashblock at the place is committed."""

    key: Key


@dataclass(frozen=True, slots=True)
class Lost:
    """Another branch is committed from ``index`` on."""

    payload_id: PayloadId
    index: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Nothing can be committed at ``index`` and after it, and this log holds something there."""

    payload_id: PayloadId
    index: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing can be committed at ``index`` and after it; this log has its tombstone there."""

    payload_id: PayloadId
    index: int


Outcome = Won | Lost | Dead | Ended


@dataclass(frozen=True, slots=True)
class _Vote:
    prefix: bytes
    fixed: bool


@dataclass(slots=True)
class _Race:
    """One payload of which something is undecided. ``undecided`` is the first index of which that is so."""

    undecided: int
    own: dict[int, bytes] = field(default_factory=dict)  # from the commit point on, so also some that are decided
    votes: dict[int, dict[str, _Vote]] = field(default_factory=dict)
    words: dict[int, bytes] = field(default_factory=dict)


class Votes:
    """``quorum`` of ``voters`` decide; ``own`` is None where this host has no vote (a learner, or recovering).

    Kept are payloads with something beyond the commit point; what is said of others is ignored. With ``counts`` off
    only a voter's word commits: a learner may not have heard that a voter lost its log, and with it the votes.
    """

    def __init__(self, own: str | None, voters: frozenset[str], quorum: int, *, counts: bool = True) -> None:
        self.own = own
        self.yields = False
        """Without a vote because its log was lost, this host does not let what it has alone stand against a voter."""
        self._counts_votes = counts
        self._voters = voters
        self._quorum = quorum
        self._races: dict[PayloadId, _Race] = {}
        self._touched: dict[PayloadId, None] = {}  # in order, so that the same inputs give the same outputs
        self._ends: dict[str, OrderedDict[PayloadId, dict[int, bytes]]] = {}  # instead of which entry of this log
        self._own_ends: OrderedDict[PayloadId, int] = OrderedDict()
        self._dead: OrderedDict[PayloadId, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Votes of {self.own or 'a learner'}: {len(self._races)} payloads open>"

    # --- this host's log ---

    def held(self, place: Place) -> None:
        """An entry is on this host's disk, and not committed as far as it knows."""
        race = self._races.setdefault(place.payload_id, _Race(place.index))
        race.undecided = min(race.undecided, place.index)
        race.own[place.index] = place.prefix
        self._touch(place.payload_id)

    def committed(self, key: Key) -> None:
        """The commit point has passed an entry: it is not voted on any more."""
        payload_id, index = key
        race = self._races[payload_id]
        for known in (race.own, race.votes, race.words):
            known.pop(index, None)
        if race.undecided <= index:  # it was decided before it was moved, and counted again where it is now
            race.undecided = index + 1
            self._touch(payload_id)
        is_in_doubt = payload_id in self._own_ends and not self._is_dead_word(payload_id, race.undecided)
        if not race.own and not is_in_doubt:
            del self._races[payload_id]

    def removed(self, payload_id: PayloadId, from_index: int) -> None:
        """This log's entries from there on are gone (their branch lost, or the payload ended)."""
        race = self._races.get(payload_id)
        if race is None:
            return
        # What others voted on branches that are no longer compared with ours comes again, on new links.
        for known in (race.own, race.votes, race.words):
            for index in [index for index in known if index >= from_index]:
                del known[index]
        for ends in self._ends.values():
            for index in [index for index in ends.get(payload_id, ()) if index >= from_index]:
                del ends[payload_id][index]
        if race.own:
            self._touch(payload_id)
        else:
            del self._races[payload_id]

    def ended(self, payload_id: PayloadId, at: int) -> bool:
        """This log has a tombstone; whether that is news."""
        known = self._own_ends.get(payload_id)
        _note_end(self._own_ends, payload_id, at)
        self._touch(payload_id)
        return known is None or at < known

    def reopened(self, payload_id: PayloadId, from_index: int) -> None:
        """A tombstone there or behind it is gone, because a flashblock there is committed."""
        for ends in (self._own_ends, self._dead):
            if ends.get(payload_id, -1) >= from_index:
                del ends[payload_id]

    def refused(self, payload_id: PayloadId) -> None:
        """A flashblock came that this log's tombstone refused: whether that was right is to be decided."""
        at = self._own_ends.get(payload_id)
        if at is not None and not self._is_dead_word(payload_id, at):
            self._races.setdefault(payload_id, _Race(at))
            self._touch(payload_id)

    def touch(self, payload_id: PayloadId) -> None:
        """Judge a payload again."""
        self._touch(payload_id)

    def own_ends(self) -> list[tuple[PayloadId, int, bool]]:
        """This log's tombstones, and of each whether it is known that nothing can be committed there."""
        return [(payload_id, at, self._is_dead_word(payload_id, at)) for payload_id, at in self._own_ends.items()]

    def may_vote(self, own: str) -> None:
        """What this log holds counts from now on."""
        self.own = own
        self._touched.update(dict.fromkeys(self._races))

    # --- other hosts ---

    def voted(self, host: str, place: Place, *, fixed: bool) -> None:
        """A voter has this on its disk. ``fixed``: all before it is as in this host's log."""
        race = self._races.get(place.payload_id)
        if race is None or host not in self._voters or place.index < race.undecided:
            return
        race.votes.setdefault(place.index, {})[host] = _Vote(place.prefix, fixed)
        self._touch(place.payload_id)

    def word(self, place: Place) -> None:
        """A voter knows that this is committed."""
        race = self._races.get(place.payload_id)
        if race is None or place.index < race.undecided:
            return
        if place.index in race.own or len(race.words) < MAX_SAID:
            race.words[place.index] = place.prefix
            self._touch(place.payload_id)

    def ended_at(self, host: str, place: Place) -> None:
        """A voter has all before an entry of this log as it is here, and a tombstone instead of it."""
        if host in self._voters:
            ends = self._ends.setdefault(host, OrderedDict())
            known = ends.pop(place.payload_id, {})
            ends[place.payload_id] = {**known, place.index: place.prefix} if len(known) < MAX_SAID else known
            _bound(ends)
            self._touch(place.payload_id)

    def dead_word(self, payload_id: PayloadId, at: int) -> None:
        """A voter knows that nothing can be committed from there on."""
        _note_end(self._dead, payload_id, at)
        self._touch(payload_id)

    def forget(self, host: str) -> None:
        """A host has another log now: what it voted before is worth nothing, nor what was concluded from that."""
        self._ends.pop(host, None)
        self._dead.clear()
        for race in self._races.values():
            for votes in race.votes.values():
                votes.pop(host, None)

    # --- what follows ---

    def is_open(self, key: Key) -> bool:
        """Whether what is at the place is not settled here: an entry beyond the commit point, or an end in doubt."""
        race = self._races.get(key[0])
        return race is not None and (key[1] in race.own or key[1] >= race.undecided)

    def is_contested(self, key: Key) -> bool:
        """Whether a voter has something else at the place than this log."""
        race = self._races.get(key[0])
        if race is None:
            return False
        others = race.votes.get(key[1], {}).values()
        own = race.own.get(key[1])
        return any(vote.prefix != own for vote in others) or any(
            self._has_ended(host, key[0], key[1], own) for host in self._ends
        )

    def judge(self) -> list[Outcome]:
        """What the votes say now, of the payloads of which something was heard. Lost and Dead come once each time."""
        touched, self._touched = self._touched, {}
        outcomes: list[Outcome] = []
        for payload_id in touched:
            race = self._races.get(payload_id)
            if race is not None:
                outcomes.extend(self._judge(payload_id, race))
        return outcomes

    def _judge(self, payload_id: PayloadId, race: _Race) -> Iterator[Outcome]:
        while True:
            index = race.undecided
            winner, own = self._winner(race, index), race.own.get(index)
            if winner is None or winner != own:
                break
            race.undecided += 1
            yield Won((payload_id, index))
        has_ended = self._own_ends.get(payload_id, index + 1) <= index
        if winner is not None:
            if own is not None or has_ended:
                yield Lost(payload_id, index)
        elif self.yields and (parted := self._first_alone(race)) is not None:
            yield Lost(payload_id, parted)
        elif self._is_dead(payload_id, race, index):
            yield from self._died(payload_id, race, index, has_ended=has_ended)

    def _first_alone(self, race: _Race) -> int | None:
        """Where this log parts from a voter's; what is before it is decided when this log has its vote."""
        open_ones = sorted(index for index in race.own if index >= race.undecided)
        return next((index for index in open_ones if self._is_alone(race, index)), None)

    def _is_alone(self, race: _Race, index: int) -> bool:
        """Whether another voter has another branch there, and none has this log's."""
        votes = race.votes.get(index, {}).values()
        return any(vote.fixed for vote in votes) and all(vote.prefix != race.own[index] for vote in votes)

    def _died(self, payload_id: PayloadId, race: _Race, index: int, *, has_ended: bool) -> Iterator[Outcome]:
        if index in race.own:
            yield Dead(payload_id, index)
        elif has_ended:
            _note_end(self._dead, payload_id, index)
            if not race.own:
                del self._races[payload_id]
            yield Ended(payload_id, index)

    def _winner(self, race: _Race, index: int) -> bytes | None:
        if index in race.words:
            return race.words[index]
        counts = self._counts(race, index) if self._counts_votes else {}
        return next((prefix for prefix, count in counts.items() if count >= self._quorum), None)

    def _counts(self, race: _Race, index: int) -> Counter[bytes]:
        counts = Counter(vote.prefix for vote in race.votes.get(index, {}).values())
        if self.own is not None and index in race.own:
            counts[race.own[index]] += 1
        return counts

    def _is_dead(self, payload_id: PayloadId, race: _Race, index: int) -> bool:
        """Whether no branch can have a quorum there, whatever those vote who have not."""
        if self._is_dead_word(payload_id, index):
            return True
        open_votes = sum(not self._is_fixed(host, payload_id, race, index) for host in self._voters)
        best = max(self._counts(race, index).values(), default=0)
        return best + open_votes < self._quorum

    def _is_fixed(self, host: str, payload_id: PayloadId, race: _Race, index: int) -> bool:
        # An end before this index lost, and so did one on another branch: the host will go on from what is committed.
        if host == self.own:
            return index in race.own or self._own_ends.get(payload_id) == index
        if self._has_ended(host, payload_id, index, race.own.get(index)):
            return True
        vote = race.votes.get(index, {}).get(host)
        return vote is not None and vote.fixed

    def _has_ended(self, host: str, payload_id: PayloadId, index: int, own: bytes | None) -> bool:
        ends = self._ends.get(host)
        return ends is not None and own is not None and ends.get(payload_id, {}).get(index) == own

    def _is_dead_word(self, payload_id: PayloadId, index: int) -> bool:
        return self._dead.get(payload_id, index + 1) <= index

    def _touch(self, payload_id: PayloadId) -> None:
        self._touched[payload_id] = None


def _note_end(ends: OrderedDict[PayloadId, int], payload_id: PayloadId, at: int) -> None:
    ends[payload_id] = min(at, ends.pop(payload_id, at))
    _bound(ends)


def _bound(ends: OrderedDict[PayloadId, Any]) -> None:
    while len(ends) > MAX_ENDS:
        ends.popitem(last=False)
