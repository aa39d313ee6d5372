"""What one host knows of its log, what the votes decide, and what follows for the log. Pure.

Every input ends with `_settle`: the votes are judged, the commit point moves, and what is needed of the log is said.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Record
from appliance.replication.commands import (
    Close,
    CommitThrough,
    Read,
    Replace,
    Requeue,
    Send,
    SetRecovered,
    ShowThrough,
)
from appliance.replication.links import Links
from appliance.replication.membership import Membership, Restored
from appliance.replication.order import CommitOrder, Waiting
from appliance.replication.places import Place
from appliance.replication.recovery import Recovery
from appliance.replication.source_link import BATCH_BYTES, BATCH_ENTRIES
from appliance.replication.votes import Dead, Ended, Lost, Outcome, Votes, Won

MAX_OPEN: Final = 100_000
"""Entries beyond the commit point that are counted, five hours at 5/s. What comes after waits in the log, and its votes
are asked for again when there is room."""

LOOKED_AT: Final = 512
"""Entries at the end of the log among which something that is new here and older finds its place."""

MAX_MOVED: Final = 256
"""Entries that give way to others at a time. With more the stream of this host waits: they would be written anew for
each flashblock while a voter that could decide on them is away."""


class Ledger(Links):
    """The log's side of the core. Time is monotonic seconds; ``wall_offset`` is wall clock minus that."""

    def __init__(self, settings: Membership, restored: Restored, now: float, wall_offset: float) -> None:
        super().__init__({**restored.known_logs, settings.host_id: settings.log_id})
        self._settings = settings
        self._wall_offset = wall_offset
        self._votes_here = not settings.follow_only
        recovering = restored.recovering and self._votes_here
        own = settings.host_id if self._votes_here and not recovering else None
        self._votes = Votes(own, settings.voters, settings.quorum, counts=self._votes_here)
        self._order = CommitOrder(max(restored.committed, restored.pruned), settings.publish_after_s)
        self._recovery = Recovery(settings.voters - {settings.host_id}, settings.quorum, recovering=recovering)
        self._appended = restored.appended
        self._pruned = restored.pruned
        self._newest: Waiting | None = None
        self._replaced: OrderedDict[PayloadId, None] = OrderedDict()
        self._giving_way: dict[PayloadId, int] = {}  # to what is older; and where the log ended when that was seen
        self._blocked_since: float | None = None
        self._changing: set[PayloadId] = set()
        self._doubtful: set[PayloadId] = set()
        """Payloads that are being changed by votes of which some were lost since."""
        self._epoch = 0
        self._overflowed = False
        self._is_setting_recovered = False
        for payload_id, at in restored.ends:
            self._votes.ended(payload_id, at)
        if restored.pruned > restored.committed:
            self._do(CommitThrough(restored.pruned, ()))
        self._settle(now)

    def __repr__(self) -> str:
        return f"<Core of {self._settings.host_id}: {self._order}>"

    @property
    def open(self) -> int:
        """Entries that are on disk here and not committed."""
        return len(self._order)

    @property
    def oldest_open_since(self) -> float | None:
        """When the first of them came, None when there is none."""
        oldest = self._order.oldest
        return oldest.since if oldest else None

    @property
    def missing(self) -> tuple[str, ...]:
        """Without a vote: the voters whose logs are not here yet."""
        return self._recovery.missing if self.recovering else ()

    @property
    def seen(self) -> int:
        """How far this host's log was fed."""
        return self._order.seen

    @property
    def committed(self) -> int:
        """Everything up to here is committed."""
        return self._order.committed

    @property
    def recovering(self) -> bool:
        """Whether this host's log has no vote yet."""
        return self._recovery.recovering

    def set_clock(self, wall_offset: float) -> None:
        """The wall clock may have been set: what comes from now on has its time by the new one."""
        self._wall_offset = wall_offset

    # --- this host's log ---

    def feed(self, records: Sequence[Record], through: int, now: float) -> None:
        """What this host's log has after `seen`, in its order, whoever brought it: all of it up to ``through``."""
        for record in records:
            if len(self._order) >= MAX_OPEN:
                self._overflowed = True
                break
            self._appended = max(self._appended, record.position)
            place = Place(record.payload_id, record.index, record.prefix)
            born = max(min(now, record.received_at - self._wall_offset), self._order.born_before(place))
            waiting = Waiting(record.position, place, now, born)
            is_new = self._order.held(waiting)
            self._votes.held(place)
            self._give_way_to(waiting, is_new=is_new)
        else:
            self._order.seen = max(self._order.seen, through)
        self._settle(now)

    def _give_way_to(self, older: Waiting, *, is_new: bool) -> None:
        """What is younger stands behind it where it was counted first; so here, too, while nobody has seen it."""
        payload_id = older.place.payload_id
        if is_new:
            by_s = 0.0 if payload_id in self._replaced else self._settings.late_after_s
            younger = self._order.younger(older, by_s, LOOKED_AT)
        elif payload_id in self._giving_way:  # it was moved itself, and something younger came before it was
            by_s = self._settings.late_after_s / 2
            younger = self._order.younger(older, by_s, LOOKED_AT, after=self._giving_way[payload_id])
        else:
            return
        moving = {waiting.place.payload_id for waiting in younger} - self._changing
        if self._requeue(younger):
            self._giving_way.update(dict.fromkeys(moving, self._order.seen))

    def pruned(self, position: int) -> None:
        """Retention removed everything up to a position. What was undecided there is nobody's to wait for any more."""
        if position <= self._pruned:
            return
        self._pruned = position
        gone = self._order.pruned(position)
        for payload_id in gone:
            self._votes.removed(payload_id, 0)
        for source in self._sources.values():
            if source.core is not None:
                source.core.forget_all(gone)

    # --- answers of the log ---

    def removed(self, command: Replace, now: float) -> None:
        """The answer to `Replace`. What took the branch's place comes again, on links that begin again."""
        self._epoch += 1
        self._changed(command.payload_id)
        positions = self._remove(command.payload_id, command.from_index)
        self._votes.reopened(command.payload_id, command.from_index)
        self._recovery.look_again()
        if positions:
            # The branch that won stands where the other one did: subscribers of all hosts see one order.
            key = command.payload_id, command.from_index
            self._order.wait_for(key, min(positions), now + self._settings.move_after_s)
            self._replaced[command.payload_id] = None
            while len(self._replaced) > MAX_MOVED:
                self._replaced.popitem(last=False)
        self._notice("replaced", payload_id=command.payload_id, index=command.from_index, entries=len(positions))
        self._begin_again(command.payload_id, command.from_index)
        self._settle(now)

    def closed(self, command: Close, now: float) -> None:
        """The answer to `Close`."""
        self._epoch += 1
        decided = command.payload_id not in self._doubtful
        self._changed(command.payload_id)
        positions = self._remove(command.payload_id, command.at)
        self._votes.ended(command.payload_id, command.at)
        if decided:
            self._votes.dead_word(command.payload_id, command.at)
            self._tell_closed(command.payload_id, command.at)
        self._notice("closed", payload_id=command.payload_id, index=command.at, entries=len(positions))
        self._settle(now)

    def _remove(self, payload_id: PayloadId, from_index: int) -> list[int]:
        self._votes.removed(payload_id, from_index)
        for source in self._sources.values():
            if source.core is not None:
                source.core.forget(payload_id, from_index)
        return self._order.removed(payload_id, from_index)

    def requeued(self, command: Requeue, now: float) -> None:
        """The answer to `Requeue`, after the entries were fed where they are now."""
        self._epoch += 1
        self._changed(command.payload_id)
        self._notice("moved", payload_id=command.payload_id, index=command.from_index)
        self._settle(now)

    def change_failed(self, command: Replace | Close | Requeue | SetRecovered, now: float) -> None:
        """The disk refused a change: it is asked for again."""
        if isinstance(command, SetRecovered):
            self._is_setting_recovered = False
        else:
            self._changed(command.payload_id)
            if isinstance(command, Replace) and self._is_orphan(command):
                self._change(command)
        self._settle(now)

    def _is_orphan(self, command: Replace) -> bool:
        """What a learner drops because a log was lost is asked for by no votes."""
        return not self._votes_here and self._order.is_undecided((command.payload_id, command.from_index))

    def recovered(self, _: SetRecovered, now: float) -> None:
        """The answer to `SetRecovered`: from now on this host votes."""
        self._recovery.recovering = self._votes.yields = False
        self._votes.may_vote(self._settings.host_id)
        self._notice("recovered")
        self._end_all("this host has its vote")
        self._settle(now)

    def _forget(self, host: str) -> None:
        """A voter's log was lost. What follows from its votes and is under way goes on; it is told to nobody."""
        self._votes.forget(host)
        self._doubtful |= self._changing

    def _changed(self, payload_id: PayloadId) -> None:
        self._changing.discard(payload_id)
        self._giving_way.pop(payload_id, None)
        self._doubtful.discard(payload_id)
        self._order.frozen.discard(payload_id)
        self._votes.touch(payload_id)

    # --- what follows ---

    def _settle(self, now: float) -> None:
        won = [place for outcome in self._votes.judge() for place in self._came_out(outcome)]
        if won:
            for link, source in self._sources.items():
                for message in source.core.committed(won) if source.core else ():
                    self._do(Send(link, message))
        self._advance(now)
        self._make_way(now)
        self._recover()
        if self._overflowed and len(self._order) < MAX_OPEN // 2:
            self._overflowed = False
            self._end_all("there is room for votes again")
        self._pump()

    def _came_out(self, outcome: Outcome) -> Iterable[Place]:
        match outcome:
            case Won(key):
                return (self._order.decide(key),)
            case Lost(payload_id, index):
                self._change(Replace(payload_id, index))
            case Dead(payload_id, index):
                self._change(Close(payload_id, index))
            case Ended(payload_id, index):
                self._tell_closed(payload_id, index)
        return ()

    def _change(self, command: Replace | Close | Requeue) -> None:
        """One change of a payload at a time; after it, the payload is judged again."""
        if command.payload_id not in self._changing:
            self._changing.add(command.payload_id)
            self._order.frozen.add(command.payload_id)
            self._do(command)

    def _advance(self, now: float) -> None:
        waited = []
        for waiting in self._order.advance():
            waited.append(now - waiting.since)
            self._votes.committed(waiting.place.key)
            if self._newest is None or waiting.born >= self._newest.born:
                self._newest = waiting
        if waited or self._order.pass_holes():
            self._do(CommitThrough(self._order.committed, tuple(waited)))
        shown = self._order.show_overdue(now)
        if shown is not None:
            self._do(ShowThrough(shown))

    def _make_way(self, now: float) -> None:
        blocking = self._order.blocked()
        if blocking is None:
            self._blocked_since = None
            return
        self._blocked_since = now if self._blocked_since is None else self._blocked_since
        is_overdue = now - self._blocked_since > self._settings.move_after_s
        if is_overdue or self._votes.is_contested(blocking.place.key):
            self._requeue(self._order.blocking(MAX_MOVED + 1))

    def _requeue(self, entries: Sequence[Waiting]) -> bool:
        """Move entries to the end of the log, in their order: whole payloads from an index on. Not too many of them."""
        if len(entries) > MAX_MOVED:
            return False
        first: dict[PayloadId, int] = {}
        for waiting in entries:
            first.setdefault(waiting.place.payload_id, waiting.place.index)
        for payload_id, index in first.items():
            self._change(Requeue(payload_id, index))
        return True

    def _recover(self) -> None:
        if not self.recovering or self._is_setting_recovered:
            return
        for following in self._followings.values():
            if following.core is not None:
                self._recovery.reached(following.peer, following.core.undoubted())
        if self._recovery.is_done:
            self._is_setting_recovered = True
            self._do(SetRecovered())

    def _pump(self) -> None:
        for link, source in self._sources.items():
            core = source.core
            if core is not None and not core.is_reading and core.has_room and core.sent < self._order.seen:
                core.is_reading, core.reading_epoch = True, self._epoch
                self._do(Read(link, core.sent, self._order.seen, BATCH_ENTRIES, BATCH_BYTES))
