"""One host of a replicated log: what it hears, what follows for its log, its commit point and its links. Pure.

Every input is one method call; `take_commands` then has what the shell must do, in order. Before each input the shell
feeds what this host's log has got since (`feed`), so that an entry is known here before anybody's vote for it.

    links -> received --> FollowerLink -> Store -----> log -> stored -> Votes -> judge -> CommitOrder -> CommitThrough
                     `--> SourceLink <- read <- Read <- log                       `--> Replace, Close, Requeue
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Copy, Cursor, Receipt, Verdict
from appliance.replication.commands import (
    FollowState,
    Link,
    Replace,
    SaveCursor,
    Send,
    SetRecovered,
    Store,
)
from appliance.replication.follower_link import SAVE_CURSOR_S, BodyMissing, FollowerLink, Gap, Heard
from appliance.replication.handshake import Refused, greet, judge_welcome
from appliance.replication.links import Following
from appliance.replication.membership import Membership, Restored
from appliance.replication.places import Place
from appliance.replication.sourcing import Sourcing
from appliance.wire.replication import (
    AnyMessage,
    Closed,
    Committed,
    Entries,
    Passed,
    Pruned,
    Refusal,
    Settled,
    Welcome,
    WireEntry,
)

MAX_DEFERRED: Final = 4096
"""Messages of one link that wait for the disk; then the link is ended, and begins again."""


class Core(Sourcing):
    """The whole of one host: what comes on its links, beside what is in its log and goes out of it (`Sourcing`)."""

    def __init__(self, settings: Membership, restored: Restored, now: float, wall_offset: float) -> None:
        self._stored_at = self._alive_at = now
        self._storing: Counter[str] = Counter()  # batches on their way to the disk, also of links that ended
        super().__init__(settings, restored, now, wall_offset)

    # --- links ---

    def alive(self, now: float) -> None:
        """This host's loop runs; to be said many times a second, also while its inputs wait for the disk.

        After a standstill (a stopped process) all that is followed is followed anew. What has come
        meanwhile says how old it was when it was sent, not when it is read: it would count as new, and give way to what
        is fetched now. A standstill is what makes an entry too young by more than the order across payloads bears.
        """
        stood_s, self._alive_at = now - self._alive_at, now
        if stood_s > self._settings.late_after_s:
            for link in list(self._followings):
                self._end(link, f"this host stood still for {stood_s:.1f} s", failed=True)

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
        self.alive(now)
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
        if not message.recovering:
            self._known_logs[following.peer] = message.log_id  # its votes are heard from now on
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
        records = tuple(self._copy(entry, now) for entry in entries)
        late = frozenset(entry.position for entry in entries if not entry.committed and self._is_late(entry, now))
        committed = frozenset(entry.position for entry in entries if entry.committed)
        self._incoming.update((Place(entry.payload_id, entry.index, entry.prefix), core.peer) for entry in entries)
        self._do(core.store(link, records, late, committed))
        self._storing[core.peer] += 1

    def _copy(self, entry: WireEntry, now: float) -> Copy:
        return Copy(
            entry.position,
            entry.payload_id,
            entry.index,
            entry.block_number,
            entry.encoding,
            entry.builder,
            now + self._wall_offset - entry.age_s,
            entry.body,
            entry.prefix,
        )

    def _is_late(self, entry: WireEntry, now: float) -> bool:
        newest = self._newest
        if newest is None or not self._votes_here or self.recovering:
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
        except BodyMissing as error:
            self._end(store.link, str(error), failed=True)
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

    def recovered(self, command: SetRecovered, now: float) -> None:
        """The links begin again from where they are: what a peer had not held any more is not missed a second time."""
        self._save_cursors()
        super().recovered(command, now)

    # --- time ---

    def tick(self, now: float) -> None:
        """Time has passed; some 20 times a second."""
        self._end_overdue(now)
        self._order.give_up_waiting(now)
        if now - self._stored_at >= SAVE_CURSOR_S:
            self._save_cursors()
        self._settle(now)

    def _save_cursors(self) -> None:
        for following in self._followings.values():
            if following.core is not None:
                self._save_cursor(following.core)

    def _save_cursor(self, core: FollowerLink) -> None:
        cursor = core.unsaved()
        if cursor is not None:
            self._do(SaveCursor(core.peer, cursor))
