"""One host's side as a source: whom it welcomes, and what of its log goes out to them. Pure."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from appliance.domain.errors import DecodeError
from appliance.domain.replicas import Record
from appliance.replication.commands import Link, Read, Renew, Replace, Send
from appliance.replication.handshake import Refused, answer, judge_hello
from appliance.replication.ledger import MAX_OPEN, Ledger
from appliance.replication.links import Source
from appliance.replication.membership import Membership, Restored
from appliance.replication.places import Place
from appliance.replication.source_link import SourceLink
from appliance.wire.replication import (
    MAX_AGE_S,
    Ack,
    AnyMessage,
    Closed,
    Hello,
    Passed,
    Pruned,
    Refusal,
    Welcome,
    WireEntry,
)

MAX_ORIGINS: Final = 16_384
"""Entries of which it is remembered who sent them, so that their bodies are not sent back. Of older ones they are."""


class Sourcing(Ledger):
    """The followers of this host's log. What a link needs to begin, in either direction, is here as well."""

    def __init__(self, settings: Membership, restored: Restored, now: float, wall_offset: float) -> None:
        self._known_logs = dict(restored.known_logs)
        self._origins: OrderedDict[int, str] = OrderedDict()
        self._incoming: dict[Place, str] = {}  # what is being stored, and whose it is: within the links' windows
        super().__init__(settings, restored, now, wall_offset)

    def source_opened(self, link: Link, now: float) -> None:
        """Somebody who showed the secret connected here."""
        self._sources[link] = Source(now)

    def _source_received(self, link: Link, source: Source, message: AnyMessage, now: float) -> None:
        if source.core is None and isinstance(message, Hello):
            self._greeted(link, source, message, now)
        elif source.core is not None and isinstance(message, Ack):
            self._acknowledged(source.core, message, now)
        elif isinstance(message, Refusal):
            self._end(link, f"refused by the other side: {message.reason}", failed=True)
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
