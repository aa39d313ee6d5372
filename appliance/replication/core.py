"""One host of a replicated log: what it hears, what follows for its log, its commit point and its links. Pure.

Every input is one method call; `take_commands` then has what the shell must do, in order. Before each input the shell
feeds what this host's log has got since (`feed`), so that an entry is known here before anybody's vote for it.

    links -> received --> FollowerLink -> Store -----> log -> stored -> Votes -> judge -> CommitOrder -> CommitThrough
                     `--> SourceLink <- read <- Read <- log                       `--> Replace, Close, Requeue
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Record, Verdict
from appliance.replication.commands import (
    Close,
    Command,
    CommitThrough,
    End,
    FollowState,
    Link,
    Notice,
    Read,
    Renew,
    Replace,
    Requeue,
    SaveCursor,
    Send,
    SetRecovered,
    ShowThrough,
    Store,
)
from appliance.replication.follower_link import FollowerLink, Gap, Heard
from appliance.replication.handshake import Refused, answer, greet, judge_hello, judge_welcome
from appliance.replication.membership import Membership, Restored
from appliance.replication.order import CommitOrder, Waiting
from appliance.replication.places import Place
from appliance.replication.recovery import Recovery
from appliance.replication.source_link import BATCH_BYTES, BATCH_ENTRIES, SourceLink
from appliance.replication.votes import Dead, Ended, Lost, Outcome, Votes, Won
from appliance.wire.replication import (
    Ack,
    AnyMessage,
    Closed,
    Committed,
    Entries,
    Hello,
    Pruned,
    Refusal,
    Settled,
    Welcome,
    WireEntry,
)

MAX_OPEN: Final = 100_000
"""Entries beyond the commit point that are counted, five hours at 5/s. What comes after waits in the log, and its votes
are asked for again when there is room."""

MAX_DEFERRED: Final = 4096
"""Messages of one link that wait for the disk; then the link is ended, and begins again."""

MAX_ORIGINS: Final = 16_384
"""Entries of which it is remembered who sent them, so that their bodies are not sent back. Of older ones they are."""

MAX_MOVED: Final = 256
"""Entries that give way to others at a time. With more the stream of this host waits: they would be written anew for
each flashblock while a voter that could decide on them is away."""

HANDSHAKE_S: Final = 5.0
ACK_S: Final = 30.0
"""A follower whose disk takes longer than this for a window is cut off, and begins again."""


@dataclass(slots=True)
class _Source:
    """Somebody who connected to follow this log."""

    opened_at: float
    core: SourceLink | None = None


@dataclass(slots=True)
class _Following:
    """A connection on which this host follows a peer."""

    peer: str
    nonce: bytes
    cursor: Cursor | None
    opened_at: float
    core: FollowerLink | None = None
    deferred: deque[AnyMessage] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Received:
    """A `Replica` whose time is by this host's clock."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes | None
    prefix: bytes


class Core:
    """See the module. Time is monotonic seconds; ``wall_offset`` is wall clock minus that."""

    def __init__(self, settings: Membership, restored: Restored, now: float, wall_offset: float) -> None:
        self._settings = settings
        self._wall_offset = wall_offset
        self._votes_here = not settings.follow_only
        recovering = restored.recovering and self._votes_here
        own = settings.host_id if self._votes_here and not recovering else None
        self._votes = Votes(own, settings.voters, settings.quorum, counts=self._votes_here)
        self._order = CommitOrder(restored.committed, settings.publish_after_s)
        self._recovery = Recovery(settings.voters - {settings.host_id}, settings.quorum, recovering=recovering)
        self._appended = restored.appended
        self._pruned = restored.pruned
        self._sources: dict[Link, _Source] = {}
        self._followings: dict[Link, _Following] = {}
        self._log_ids = dict(restored.known_logs)
        self._known_logs = dict(restored.known_logs)
        self._origins: OrderedDict[int, str] = OrderedDict()
        self._newest: Waiting | None = None
        self._replaced: OrderedDict[PayloadId, None] = OrderedDict()
        self._blocked_since: float | None = None
        self._changing: set[PayloadId] = set()
        self._epoch = 0
        self._overflowed = False
        self._is_setting_recovered = False
        self._commands: list[Command] = []
        self._conflicts = 0
        for payload_id, at in restored.ends:
            self._votes.ended(payload_id, at)
        self._settle(now)

    def __repr__(self) -> str:
        return f"<Core of {self._settings.host_id}: {self._order}>"

    def take_commands(self) -> list[Command]:
        """What is to be done since this was called last, in order."""
        taken, self._commands = self._commands, []
        return taken

    def serving(self, link: Link) -> SourceLink | None:
        """A follower of this log, once it is welcome."""
        source = self._sources.get(link)
        return source.core if source else None

    def following(self, link: Link) -> FollowerLink | None:
        """This host's following of a peer, once it is welcomed."""
        following = self._followings.get(link)
        return following.core if following else None

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
    def conflicts(self) -> int:
        """How often a voter said that another body than this host's is committed."""
        return self._conflicts

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

    # --- this host's log ---

    def feed(self, records: Sequence[Record], through: int, now: float) -> None:
        """What this host's log has after `seen`, in its order, whoever brought it: all of it up to ``through``."""
        for record in records:
            if len(self._order) >= MAX_OPEN:
                self._overflowed = True
                break
            self._appended = max(self._appended, record.position)
            place = Place(record.payload_id, record.index, record.prefix)
            born = min(now, record.received_at - self._wall_offset)
            waiting = Waiting(record.position, place, now, born)
            is_new = self._order.held(waiting)
            self._votes.held(place)
            if is_new:
                # What is younger stands behind it where it was counted first; so here, too, while nobody has seen it.
                by_s = 0.0 if record.payload_id in self._replaced else self._settings.late_after_s
                self._requeue(self._order.younger(waiting, by_s))
        else:
            self._order.seen = max(self._order.seen, through)
        self._settle(now)

    def pruned(self, position: int) -> None:
        """Retention removed everything up to a position."""
        self._pruned = max(self._pruned, position)

    # --- links ---

    def source_opened(self, link: Link, now: float) -> None:
        """Somebody who showed the secret connected here."""
        self._sources[link] = _Source(now)

    def follower_opened(self, link: Link, peer: str, nonce: bytes, cursor: Cursor | None, now: float) -> None:
        """This host connected to a peer; ``cursor`` is the durable one, ``nonce`` random."""
        self._followings[link] = _Following(peer, nonce, cursor, now)
        self._do(Send(link, greet(self._settings, nonce, cursor, recovering=self.recovering)))

    def ended(self, link: Link, now: float) -> None:
        """A connection is gone."""
        self._sources.pop(link, None)
        self._followings.pop(link, None)
        self._settle(now)

    def received(self, link: Link, message: AnyMessage, now: float) -> None:
        """A message came. What comes on a link that was ended is ignored."""
        try:
            if link in self._sources:
                self._source_received(link, self._sources[link], message, now)
            elif link in self._followings:
                self._follower_received(link, self._followings[link], message, now)
        except Refused as error:
            self._do(Send(link, Refusal(str(error))))
            self._end(link, str(error), failed=True)
        except DecodeError as error:
            self._end(link, str(error), failed=True)
        self._settle(now)

    def _end(self, link: Link, reason: str, *, failed: bool = False) -> None:
        self._sources.pop(link, None)
        self._followings.pop(link, None)
        self._do(End(link, reason, failed))

    def _end_all(self, reason: str) -> None:
        for link in [*self._sources, *self._followings]:
            self._end(link, reason)

    # --- the source's side ---

    def _source_received(self, link: Link, source: _Source, message: AnyMessage, now: float) -> None:
        if source.core is None and isinstance(message, Hello):
            self._greeted(link, source, message, now)
        elif source.core is not None and isinstance(message, Ack):
            self._acknowledged(source.core, message, now)
        else:
            raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")

    def _greeted(self, link: Link, source: _Source, hello: Hello, now: float) -> None:
        judge_hello(self._settings, hello)
        another_log = self._known_logs.get(hello.host_id, hello.log_id) != hello.log_id
        self._note_log(hello.host_id, hello.log_id, link)
        self._note_voters(hello)
        if hello.cursor_log_id == self._settings.log_id and hello.cursor > self._appended:
            self._notice("lost_log", host=self._settings.host_id, had=hello.cursor, has=self._appended)
            self._do(Renew())
            raise Refused("this host's log was set back; it begins anew")
        cursor = hello.cursor if hello.cursor_log_id == self._settings.log_id else 0
        votes = hello.host_id in self._settings.voters and not hello.recovering
        start = max(cursor, self._pruned)
        source.core = SourceLink(hello.host_id, hello.log_id, start, now, begun_at=self._order.seen, votes=votes)
        if votes:
            self._known_logs[hello.host_id] = hello.log_id
        welcome = answer(
            self._settings, hello, self._appended, recovering=self.recovering, another_log=another_log and not votes
        )
        self._do(Send(link, welcome))
        if self._pruned > cursor:
            self._do(Send(link, Pruned(self._pruned)))
        for payload_id, at, decided in self._votes.own_ends():
            self._do(Send(link, Closed(payload_id, at, decided)))

    def _note_log(self, host: str, log_id: str, link: Link) -> None:
        """One log a host, and one link in each direction: what came before is of an earlier life."""
        if self._log_ids.setdefault(host, log_id) != log_id:
            self._notice("lost_log", host=host, had=self._log_ids[host], has=log_id)
            self._log_ids[host] = log_id
            self._votes.forget(host)
            self._drop_orphans()
        for other in self._links_of(host, log_id, like=link):
            self._end(other, "another link took its place")

    def _drop_orphans(self) -> None:
        """Nobody follows a learner: what only a lost log had beside it is decided by nobody. The rest comes again."""
        if self._votes_here:
            return
        for waiting in self._order.undecided():
            self._change(Replace(*waiting.place.key))
        for link in list(self._followings):
            self._end(link, "what is undecided is fetched again")

    def _links_of(self, host: str, log_id: str, *, like: Link) -> list[Link]:
        is_source = like in self._sources
        links: list[tuple[Link, SourceLink | FollowerLink | None, bool]] = [
            *((link, source.core, is_source) for link, source in self._sources.items()),
            *((link, following.core, not is_source) for link, following in self._followings.items()),
        ]
        return [
            link
            for link, core, is_same_side in links
            if link != like and core is not None and core.peer == host and (is_same_side or core.log_id != log_id)
        ]

    def _note_voters(self, message: Hello | Welcome) -> None:
        if set(message.voters) != self._settings.voters or message.quorum != self._settings.quorum:
            self._notice("other_voters", host=message.host_id, voters=sorted(message.voters), quorum=message.quorum)

    def _acknowledged(self, core: SourceLink, ack: Ack, now: float) -> None:
        found = core.ack(ack, now)
        if not core.votes:
            return
        # What it holds comes in its own log, in its order: counted there, committed entries have one order everywhere.
        for place in found.ended:
            self._votes.ended_at(core.peer, place.payload_id, place.index)

    def _pump(self) -> None:
        for link, source in self._sources.items():
            core = source.core
            if core is not None and not core.is_reading and core.has_room and core.sent < self._order.seen:
                core.is_reading, core.reading_epoch = True, self._epoch
                self._do(Read(link, core.sent, self._order.seen, BATCH_ENTRIES, BATCH_BYTES))

    def read(self, command: Read, records: Sequence[Record], now: float) -> None:
        """The answer to `Read`: in the log's order, as it was at some moment since."""
        source = self._sources.get(command.link)
        if source is None or source.core is None:
            return
        core = source.core
        core.is_reading = False
        if core.reading_epoch == self._epoch:  # else what was read may be gone, or elsewhere
            self._send_records(command, core, records, now)
        self._settle(now)

    def _send_records(self, command: Read, core: SourceLink, records: Sequence[Record], now: float) -> None:
        if records:
            entries = [self._wire_entry(record, core, now) for record in records]
            self._do(Send(command.link, core.send(entries, now)))
        else:
            core.sent = command.through

    def _wire_entry(self, record: Record, core: SourceLink, now: float) -> WireEntry:
        # Before the link began it may have lost what it had.
        is_known = record.position > core.begun_at and self._origins.get(record.position) == core.peer
        return WireEntry(
            record.position,
            record.payload_id,
            record.index,
            record.block_number,
            record.encoding,
            record.builder,
            max(0.0, now + self._wall_offset - record.received_at),
            None if is_known else record.body,
            record.prefix,
            self._order.is_committed(record.position, (record.payload_id, record.index)),
        )

    # --- the follower's side ---

    def _follower_received(self, link: Link, following: _Following, message: AnyMessage, now: float) -> None:
        core = following.core
        if core is None:
            self._welcomed(link, following, message)
        elif isinstance(message, Entries):
            self._do_store(link, core, message, now)
        elif core.is_storing:
            following.deferred.append(message)
            if len(following.deferred) > MAX_DEFERRED:
                self._end(link, "the disk does not keep up")
        else:
            self._told(core, message)

    def _welcomed(self, link: Link, following: _Following, message: AnyMessage) -> None:
        if isinstance(message, Refusal):
            self._end(link, f"refused: {message.reason}", failed=True)
            return
        if not isinstance(message, Welcome):
            raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")
        judge_welcome(self._settings, message, following.peer, following.nonce)
        self._note_log(message.host_id, message.log_id, link)
        self._note_voters(message)
        position = following.cursor.position if following.cursor and following.cursor.log_id == message.log_id else 0
        following.core = FollowerLink(
            following.peer,
            Cursor(message.log_id, position),
            self._is_open,
            votes=following.peer in self._settings.voters and not message.recovering,
            keeps_cursor=not message.recovering,
        )
        following.core.source_appended = message.appended
        if self._recovery.welcomed(following.peer, message.appended, another_log=message.another_log):
            self._votes.yields = self.recovering
            self._notice("lost_log", host=self._settings.host_id, known_to=following.peer)

    def _is_open(self, key: tuple[PayloadId, int]) -> bool:
        return self._votes.is_open(key)

    def _do_store(self, link: Link, core: FollowerLink, message: Entries, now: float) -> None:
        # A message that came twice is passed over; within a link positions grow.
        entries = [entry for entry in message.entries if entry.position > core.received]
        if not entries:
            return
        records = tuple(self._received_record(entry, now) for entry in entries)
        late = frozenset(entry.position for entry in entries if self._is_late(entry, now))
        committed = frozenset(entry.position for entry in entries if entry.committed)
        self._do(core.store(link, records, late, committed))

    def _received_record(self, entry: WireEntry, now: float) -> _Received:
        return _Received(
            entry.position,
            entry.payload_id,
            entry.index,
            entry.block_number,
            entry.encoding,
            entry.builder,
            now + self._wall_offset - max(0.0, entry.age_s),
            entry.body,
            entry.prefix,
        )

    def _is_late(self, entry: WireEntry, now: float) -> bool:
        newest = self._newest
        if newest is None or entry.committed or not self._votes_here or self.recovering:
            return False
        is_other = newest.place.payload_id != entry.payload_id
        return is_other and now - entry.age_s + self._settings.late_after_s < newest.born

    def stored(self, store: Store, receipts: Sequence[Receipt], now: float) -> None:
        """The answer to `Store`, after the fsync and after what is new was fed."""
        following = self._followings.get(store.link)
        if following is None or following.core is None:
            self._settle(now)
            return
        core = following.core
        try:
            ack, heard = core.stored(store, receipts)
        except Gap as error:
            self._gap(store, error)
        else:
            self._hear(core, heard, store)
            self._do(Send(store.link, ack))
            while following.deferred and not core.is_storing and store.link in self._followings:
                self._told(core, following.deferred.popleft())
        self._settle(now)

    def store_failed(self, store: Store, reason: str, now: float) -> None:
        """The disk refused: nothing of the batch is there. The link begins again, later."""
        if store.link in self._followings:
            self._end(store.link, reason, failed=True)
        self._settle(now)

    def _gap(self, store: Store, error: Gap) -> None:
        self._notice("gap", host=store.peer, what=str(error))
        if store.cursor is not None:
            self._do(SaveCursor(store.peer, Cursor(store.cursor.log_id, 0)))
        self._end(store.link, str(error), failed=True)

    def _hear(self, core: FollowerLink, heard: Iterable[Heard], store: Store) -> None:
        is_voter = core.peer in self._settings.voters
        for each in heard:
            place = each.place
            match each.verdict:
                case Verdict.NEW if each.position is not None:
                    self._remember_origin(each.position, core.peer)
                case Verdict.REFUSED:
                    self._refused(core, each)
                case Verdict.CLOSED:
                    self._ended_here(each, is_late=bool(store.late))
            if core.votes:
                is_same = each.verdict in (Verdict.NEW, Verdict.HELD)
                self._votes.voted(core.peer, place, fixed=is_same or each.is_sibling)
            if is_voter and each.committed:
                self._votes.word(place)

    def _remember_origin(self, position: int, peer: str) -> None:
        self._origins[position] = peer
        if len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)

    def _refused(self, core: FollowerLink, heard: Heard) -> None:
        if heard.committed and not self._votes.is_open(heard.place.key):
            self._notice("conflict", host=core.peer, payload_id=heard.place.payload_id, index=heard.place.index)
        else:
            self._notice("refused", host=core.peer, payload_id=heard.place.payload_id, index=heard.place.index)

    def _ended_here(self, heard: Heard, *, is_late: bool) -> None:
        payload_id, index = heard.place.key
        if self._votes.ended(payload_id, index):
            self._tell_closed(payload_id, index, decided=False)
            if is_late:
                self._notice("late", payload_id=payload_id, index=index)
        self._votes.refused(payload_id)

    def _told(self, core: FollowerLink, message: AnyMessage) -> None:
        is_voter = core.peer in self._settings.voters
        match message:
            case Committed(places) if is_voter:
                for place in places:
                    self._votes.word(Place(place.payload_id, place.index, place.prefix))
            case Closed(payload_id, at, decided) if is_voter:
                if core.votes:
                    self._votes.ended_at(core.peer, payload_id, at)
                if decided:
                    self._votes.dead_word(payload_id, at)
            case Pruned(through):
                missed = core.pruned(through)
                if missed:
                    self._notice("pruned", host=core.peer, positions=missed)
            case Settled(payload_id, state, block_hash):
                self._do(FollowState(payload_id, state, block_hash))
            case _:
                raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")

    # --- answers of the log ---

    def removed(self, command: Replace, now: float) -> None:
        """The answer to `Replace`. What took the branch's place comes again, on links that begin again."""
        self._epoch += 1
        self._changed(command.payload_id)
        positions = self._remove(command.payload_id, command.from_index)
        self._votes.reopened(command.payload_id, command.from_index)
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
        self._changed(command.payload_id)
        positions = self._remove(command.payload_id, command.at)
        self._votes.ended(command.payload_id, command.at)
        self._votes.dead_word(command.payload_id, command.at)
        self._tell_closed(command.payload_id, command.at, decided=True)
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
        self._settle(now)

    def recovered(self, _: SetRecovered, now: float) -> None:
        """The answer to `SetRecovered`: from now on this host votes."""
        self._recovery.recovering = self._votes.yields = False
        self._votes.may_vote(self._settings.host_id)
        self._notice("recovered")
        self._end_all("this host has its vote")
        self._settle(now)

    def _changed(self, payload_id: PayloadId) -> None:
        self._changing.discard(payload_id)
        self._order.frozen.discard(payload_id)
        self._votes.touch(payload_id)

    def _begin_again(self, payload_id: PayloadId, from_index: int) -> None:
        for link, following in list(self._followings.items()):
            if following.core is not None and following.core.has_in_doubt(payload_id, from_index):
                self._end(link, "a branch is fetched again")

    def _tell_closed(self, payload_id: PayloadId, at: int, *, decided: bool) -> None:
        for link, source in self._sources.items():
            if source.core is not None:
                self._do(Send(link, Closed(payload_id, at, decided)))

    # --- what follows ---

    def tick(self, now: float, wall_offset: float) -> None:
        """Time has passed; some 20 times a second."""
        self._wall_offset = wall_offset
        self._end_overdue(now)
        self._order.give_up_waiting(now)
        for following in self._followings.values():
            core = following.core
            if core is not None and core.keeps_cursor and not core.is_storing and core.cursor().position > core.saved:
                core.saved = core.cursor().position
                self._do(SaveCursor(core.peer, core.cursor()))
        self._settle(now)

    def _end_overdue(self, now: float) -> None:
        opened: list[tuple[Link, _Source | _Following]] = [*self._sources.items(), *self._followings.items()]
        for link, each in opened:
            if each.core is None and now - each.opened_at > HANDSHAKE_S:
                self._end(link, f"no handshake within {HANDSHAKE_S:g} s", failed=True)
            elif isinstance(each.core, SourceLink) and each.core.in_flight and now - each.core.heard_at > ACK_S:
                self._end(link, f"no acknowledgement within {ACK_S:g} s", failed=True)

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
                self._tell_closed(payload_id, index, decided=True)
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
            self._requeue(self._order.undecided())

    def _requeue(self, entries: Sequence[Waiting]) -> None:
        """Move entries to the end of the log, in their order: whole payloads from an index on."""
        if len(entries) > MAX_MOVED:
            return
        first: dict[PayloadId, int] = {}
        for waiting in entries:
            first.setdefault(waiting.place.payload_id, waiting.place.index)
        for payload_id, index in first.items():
            self._change(Requeue(payload_id, index))

    def _recover(self) -> None:
        if not self.recovering or self._is_setting_recovered:
            return
        for following in self._followings.values():
            if following.core is not None:
                self._recovery.reached(following.peer, following.core.undoubted())
        if self._recovery.is_done:
            self._is_setting_recovered = True
            self._do(SetRecovered())

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    def _notice(self, name: str, **fields: object) -> None:
        self._conflicts += name == "conflict"
        self._do(Notice(name, fields))
