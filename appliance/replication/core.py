"""One host of a replicated log: what it hears, what follows for its log, its commit point and its links. Pure.

Every input is one method call; `take_commands` then has what the shell must do, in order. Before each input the shell
feeds what this host's log has got since (`feed`), so that an entry is known here before anybody's vote for it.

    links -> received --> FollowerLink -> Store -----> log -> stored -> Votes -> judge -> CommitOrder -> CommitThrough
                     `--> SourceLink <- read <- Read <- log                       `--> Replace, Close, Requeue
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor, Receipt, Record, Verdict
from appliance.replication.commands import (
    FollowState,
    Link,
    Read,
    Renew,
    Replace,
    SaveCursor,
    Send,
    Store,
)
from appliance.replication.follower_link import SAVE_CURSOR_S, FollowerLink, Gap, Heard
from appliance.replication.handshake import Refused, answer, greet, judge_hello, judge_welcome
from appliance.replication.ledger import MAX_OPEN, Ledger
from appliance.replication.links import Following, Source
from appliance.replication.membership import Membership, Restored
from appliance.replication.places import Place
from appliance.replication.source_link import SourceLink
from appliance.wire.replication import (
    MAX_AGE_S,
    Ack,
    AnyMessage,
    Closed,
    Committed,
    Entries,
    Hello,
    Passed,
    Pruned,
    Refusal,
    Settled,
    Welcome,
    WireEntry,
)

MAX_DEFERRED: Final = 4096
"""Messages of one link that wait for the disk; then the link is ended, and begins again."""

MAX_ORIGINS: Final = 16_384
"""Entries of which it is remembered who sent them, so that their bodies are not sent back. Of older ones they are."""


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


class Core(Ledger):
    """The whole of one host: what comes on its links, beside what is in its log (`Ledger`)."""

    def __init__(self, settings: Membership, restored: Restored, now: float, wall_offset: float) -> None:
        self._known_logs = dict(restored.known_logs)
        self._origins: OrderedDict[int, str] = OrderedDict()
        self._incoming: dict[Place, str] = {}  # what is being stored, and whose it is: within the links' windows
        self._stored_at = now
        self._storing: Counter[str] = Counter()  # batches on their way to the disk, also of links that ended
        super().__init__(settings, restored, now, wall_offset)

    # --- links ---

    def source_opened(self, link: Link, now: float) -> None:
        """Somebody who showed the secret connected here."""
        self._sources[link] = Source(now)

    def follower_opened(self, link: Link, peer: str, nonce: bytes, cursor: Cursor | None, now: float) -> None:
        """This host connected to a peer; ``cursor`` is the durable one, ``nonce`` random."""
        self._followings[link] = Following(peer, nonce, cursor, now)
        self._do(Send(link, greet(self._settings, nonce, cursor, recovering=self.recovering)))

    def ended(self, link: Link, now: float) -> None:
        """A connection is gone."""
        self._sources.pop(link, None)
        following = self._followings.pop(link, None)
        if following is not None and following.core is not None:
            # A peer that comes back with an older log of the same name is known by how far it was followed.
            self._save_cursor(following.core)
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

    # --- the source's side ---

    def _source_received(self, link: Link, source: Source, message: AnyMessage, now: float) -> None:
        if source.core is None and isinstance(message, Hello):
            self._greeted(link, source, message, now)
        elif source.core is not None and isinstance(message, Ack):
            self._acknowledged(source.core, message, now)
        else:
            raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")

    def _greeted(self, link: Link, source: Source, hello: Hello, now: float) -> None:
        judge_hello(self._settings, hello)
        another_log = self._known_logs.get(hello.host_id, hello.log_id) != hello.log_id
        self._note_log(hello.host_id, hello.log_id, link)
        self._note_voters(hello)
        if hello.recovering and self._changing:
            # A change may rest on what the lost log voted: it has to be in this log when that host reads it.
            raise Refused("this host is changing its log; come again in a moment")
        if hello.cursor_log_id == self._settings.log_id and hello.cursor > self._appended:
            self._notice("lost_log", host=self._settings.host_id, had=hello.cursor, has=self._appended)
            self._do(Renew())
            raise Refused("this host's log was set back; it begins anew")
        cursor = hello.cursor if hello.cursor_log_id == self._settings.log_id else 0
        votes = hello.host_id in self._settings.voters and not hello.recovering
        # What is undecided here is sent again though it may be settled there: the answer is that host's vote.
        start = max(min(cursor, self._order.committed), self._pruned)
        source.core = SourceLink(hello.host_id, hello.log_id, start, now, begun_at=self._order.seen, votes=votes)
        self._incoming = {place: peer for place, peer in self._incoming.items() if peer != hello.host_id}
        if votes:
            self._known_logs[hello.host_id] = hello.log_id
        welcome = answer(
            self._settings, hello, self._appended, recovering=self.recovering, another_log=another_log and not votes
        )
        self._do(Send(link, welcome))
        if self._pruned > cursor:
            self._do(Send(link, Pruned(self._pruned)))
        for payload_id, at, is_dead in self._votes.own_ends():
            if is_dead:
                self._do(Send(link, self._closed_message(payload_id, at)))
            elif hello.follow_only:
                self._do(Send(link, Closed(payload_id, at, None)))

    def _is_lost(self, host: str, log_id: str) -> bool:
        return host in self._settings.voters and self._log_ids.get(host, log_id) != log_id

    def _note_log(self, host: str, log_id: str, link: Link) -> None:
        """One log a host, and one link in each direction: what came before is of an earlier life."""
        self._check_names(host, log_id)
        if self._is_lost(host, log_id):
            self._notice("lost_log", host=host, had=self._log_ids[host], has=log_id)
            self._forget(host)
            self._drop_orphans()
        if host in self._settings.voters:
            self._log_ids[host] = log_id
        for other in self._links_of(host, like=link):
            self._end(other, "another link took its place")

    def _check_names(self, host: str, log_id: str) -> None:
        """Raise `Refused` for two hosts of one name, or of one log. A dead one's links end within seconds, by pings."""
        for peer, other in self._connected_logs():
            if peer == host and other != log_id:
                raise Refused(f"host_id {host} is connected with another log: are there two of that name?")
            if peer != host and other == log_id:
                raise Refused(f"log {log_id} is that of {peer}: a copied folder?")

    def _drop_orphans(self) -> None:
        """Nobody follows a learner: what only a lost log had beside it is decided by nobody. The rest comes again."""
        if self._votes_here:
            return
        for waiting in self._order.undecided(MAX_OPEN):
            self._change(Replace(*waiting.place.key))
        for link in list(self._followings):
            self._end(link, "what is undecided is fetched again")

    def _note_voters(self, message: Hello | Welcome) -> None:
        if set(message.voters) != self._settings.voters or message.quorum != self._settings.quorum:
            self._notice("other_voters", host=message.host_id, voters=sorted(message.voters), quorum=message.quorum)

    def _acknowledged(self, core: SourceLink, ack: Ack, now: float) -> None:
        found = core.ack(ack, now)
        if not core.votes:
            return
        # What it holds comes in its own log, in its order: counted there, committed entries have one order everywhere.
        for place in found.ended:
            self._votes.ended_at(core.peer, place)

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
            self._do(Send(command.link, Passed(command.through)))

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
            self._age(record, now),
            None if is_known else record.body,
            record.prefix,
            self._order.is_committed(record.position, (record.payload_id, record.index)),
        )

    def _age(self, record: Record, now: float) -> float:
        """By the steady clock while it matters, until the entry is committed; the wall clock may be set meanwhile."""
        waiting = self._order.at(record.position)
        age_s = now - waiting.born if waiting else now + self._wall_offset - record.received_at
        return min(max(0.0, age_s), MAX_AGE_S)

    # --- the follower's side ---

    def _follower_received(self, link: Link, following: Following, message: AnyMessage, now: float) -> None:
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

    def _welcomed(self, link: Link, following: Following, message: AnyMessage) -> None:
        if isinstance(message, Refusal):
            self._end(link, f"refused: {message.reason}", failed=True)
            return
        if not isinstance(message, Welcome):
            raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")
        judge_welcome(self._settings, message, following.peer, following.nonce)
        if self._is_lost(message.host_id, message.log_id) and self._storing[message.host_id]:
            # What of it is not decided is dropped, so all of it has to be in this log first.
            self._end(link, "what its lost log sent is still on its way to the disk", failed=True)
            return
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
        self._incoming.update((Place(entry.payload_id, entry.index, entry.prefix), core.peer) for entry in entries)
        self._do(core.store(link, records, late, committed))
        self._storing[core.peer] += 1

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
        self._stored_at = now
        self._forget_incoming(store)
        self._storing[store.peer] -= 1
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
            self._take_deferred(store.link, following, core)
        self._settle(now)

    def _take_deferred(self, link: Link, following: Following, core: FollowerLink) -> None:
        try:
            while following.deferred and not core.is_storing and link in self._followings:
                self._told(core, following.deferred.popleft())
        except DecodeError as error:
            self._end(link, str(error), failed=True)

    def store_failed(self, store: Store, reason: str, now: float) -> None:
        """The disk refused: nothing of the batch is there. The link begins again, later."""
        self._forget_incoming(store)
        self._storing[store.peer] -= 1
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
                case Verdict.REFUSED:
                    self._refused(core, each)
                case Verdict.CLOSED:
                    self._ended_here(each, is_late=bool(store.late))
            if core.votes:
                is_same = each.verdict in (Verdict.NEW, Verdict.HELD)
                self._votes.voted(core.peer, place, fixed=is_same or each.is_sibling)
            if is_voter and each.committed:
                self._votes.word(place)

    def feed(self, records: Sequence[Record], through: int, now: float) -> None:
        """What this host's log has after `seen`. It is read for followers at once, before `stored` says who sent it."""
        for record in records:
            peer = self._incoming.get(Place(record.payload_id, record.index, record.prefix))
            if peer is not None:
                self._remember_origin(record.position, peer)
        super().feed(records, through, now)

    def _remember_origin(self, position: int, peer: str) -> None:
        self._origins[position] = peer
        if len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)

    def _forget_incoming(self, store: Store) -> None:
        for entry in store.entries:
            self._incoming.pop(Place(entry.payload_id, entry.index, entry.prefix), None)

    def _refused(self, core: FollowerLink, heard: Heard) -> None:
        if heard.committed and not self._votes.is_open(heard.place.key):
            self._notice("conflict", host=core.peer, payload_id=heard.place.payload_id, index=heard.place.index)
        else:
            self._notice("refused", host=core.peer, payload_id=heard.place.payload_id, index=heard.place.index)

    def _ended_here(self, heard: Heard, *, is_late: bool) -> None:
        payload_id, index = heard.place.key
        if heard.is_sibling and self._votes.ended(payload_id, index) and is_late:
            self._notice("late", payload_id=payload_id, index=index)
        self._votes.refused(payload_id)

    def _told(self, core: FollowerLink, message: AnyMessage) -> None:
        is_voter = core.peer in self._settings.voters
        match message:
            case Committed(places) if is_voter:
                for place in places:
                    self._votes.word(Place(place.payload_id, place.index, place.prefix))
            case Closed(payload_id, at, logs) if is_voter:
                self._told_closed(payload_id, at, logs)
            case Pruned(through):
                missed = core.pruned(through)
                if missed:
                    self._notice("pruned", host=core.peer, positions=missed)
            case Passed(through):
                core.passed(through)
            case Settled(payload_id, state, block_hash):
                self._do(FollowState(payload_id, state, block_hash))
            case _:
                raise DecodeError(f"{type(message).__name__.lower()} is not what is expected here")

    def _told_closed(self, payload_id: PayloadId, at: int, logs: dict[str, str] | None) -> None:
        # It may have waited here while a voter's log was lost, and with it a vote that it rests on.
        if logs is not None and all(self._log_ids.get(host, log_id) == log_id for host, log_id in logs.items()):
            self._votes.dead_word(payload_id, at)
        elif not self._votes_here and self._order.is_undecided((payload_id, at)):
            # Perhaps nobody has it any more, and a learner is asked by nobody. What somebody has is fetched again.
            self._change(Replace(payload_id, at))

    # --- time ---

    def tick(self, now: float) -> None:
        """Time has passed; some 20 times a second."""
        self._end_overdue(now)
        self._order.give_up_waiting(now)
        if now - self._stored_at >= SAVE_CURSOR_S:
            for following in self._followings.values():
                if following.core is not None:
                    self._save_cursor(following.core)
        self._settle(now)

    def _save_cursor(self, core: FollowerLink) -> None:
        cursor = core.unsaved()
        if cursor is not None:
            self._do(SaveCursor(core.peer, cursor))
