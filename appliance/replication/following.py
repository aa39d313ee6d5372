"""Following one peer's log: dial, ask from the cursor on, store what comes, say so when it is on disk."""

import os
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from appliance.domain.errors import LogError, RemoteError, UnavailableError
from appliance.domain.payloads import PayloadId
from appliance.domain.replicas import Cursor
from appliance.net.backoff import Backoff
from appliance.net.duplex import Duplex, DuplexLimits, dial
from appliance.replication.follower_link import Batch, FollowerLink, Gap
from appliance.replication.host import VotingHost
from appliance.replication.security import TARGET, authorization
from appliance.replication.source_link import Refused
from appliance.telemetry.logging import get_logger
from appliance.wire import replication as wire
from appliance.wire.replication import (
    MAX_MESSAGE_BYTES,
    NONCE_BYTES,
    Closed,
    Committed,
    Entries,
    Pruned,
    Refusal,
    Settled,
    Welcome,
)

log = get_logger("replication")

LIMITS: Final = DuplexLimits(max_message_bytes=MAX_MESSAGE_BYTES, max_inbox_bytes=64 * 2**20)
"""An inbox holds several windows of a source (8 MiB in flight): it fills only for one that keeps none."""

WELCOME_TIMEOUT_S: Final = 5.0

Dial = Callable[[], AbstractAsyncContextManager[Duplex]]


class Following:
    """The link to one peer, made again whenever it ends."""

    def __init__(self, host: VotingHost, peer: str, dial_peer: Dial) -> None:
        self.peer = peer
        self.failures = 0
        self.last_error: str | None = None
        self.link: FollowerLink | None = None
        self._host = host
        self._dial = dial_peer
        self._backoff = Backoff(initial_s=0.02, maximum_s=2.0)
        self._scope = trio.CancelScope()
        metrics = host.metrics
        self._lag = metrics.lag.labels(peer)
        self._up = metrics.following.labels(peer)
        self._received = metrics.received.labels(peer)
        self._refused = metrics.refused.labels(peer)
        self._reconnects = metrics.reconnects.labels(peer)
        self._missed = metrics.missed.labels(peer)
        self._up.set(0)

    def __repr__(self) -> str:
        return f"<Following {self.peer}: {self.link or self.last_error or 'not yet'}>"

    def end(self) -> None:
        """End the connection; it is made again at once."""
        self._scope.cancel()

    def rewound(self, payload_id: PayloadId, from_index: int) -> Cursor | None:
        """The cursor from which a branch that was refused comes again."""
        return self.link.rewound(payload_id, from_index) if self.link else None

    async def run(self) -> None:
        """Follow for ever. Only bugs propagate."""
        while True:
            with trio.CancelScope() as self._scope:
                await self._follow_and_say_why_not()
            await trio.sleep(self._backoff.next())

    async def _follow_and_say_why_not(self) -> None:
        try:
            await self._follow()
        except (UnavailableError, RemoteError, LogError) as error:
            self._note_failure(error)
        finally:
            self.link = None
            self._up.set(0)
            self._host.followed.discard(self)
            self._host.links.discard(self)

    def _note_failure(self, error: Exception) -> None:
        self.failures += 1
        self._reconnects.inc()
        text = str(error)
        if text != self.last_error or self.link is not None:  # a peer that stays away is said once
            log.warning("a peer is not followed", peer=self.peer, reason=text)
        self.last_error = text

    async def _follow(self) -> None:
        async with self._dial() as duplex:
            link = await self._shake_hands(duplex)
            self.link, self.last_error = link, None
            self._host.followed.add(self)
            self._host.links.add(self)
            self._up.set(1)
            log.info("following a peer", peer=self.peer, position=link.position, behind=self._behind(link))
            await self._host.caught_up(self.peer, link.position)
            while True:
                await self._take(duplex, link, wire.decode(await duplex.receive()))
                self._lag.set(self._behind(link))

    async def _shake_hands(self, duplex: Duplex) -> FollowerLink:
        host, nonce = self._host, os.urandom(NONCE_BYTES)
        cursor = await host.flashlog.cursor_of(self.peer)
        link = FollowerLink(host.identity, self.peer, nonce, cursor, host.votes.is_open)
        await duplex.send(wire.encode(link.hello(recovering=host.recovery.recovering)))
        with trio.move_on_after(WELCOME_TIMEOUT_S):
            answer = wire.decode(await duplex.receive())
            await self._judge(link, answer)
            return link
        raise Refused(f"{self.peer} did not answer within {WELCOME_TIMEOUT_S} s")

    async def _judge(self, link: FollowerLink, answer: wire.AnyMessage) -> None:
        if isinstance(answer, Refusal):
            raise Refused(f"{self.peer} refuses this host: {answer.reason}")
        if not isinstance(answer, Welcome):
            raise Refused(f"{self.peer} did not say welcome")
        link.welcomed(answer)
        if answer.another_log and not self._host.recovery.recovering:
            await self._host.begin_recovery(self.peer)
            raise Refused(f"{self.peer} knew this host with another log")
        self._host.recovery.welcomed(self.peer, answer.appended)

    async def _take(self, duplex: Duplex, link: FollowerLink, message: wire.AnyMessage) -> None:
        match message:
            case Entries():
                await self._store(duplex, link, link.received(message))
            case Committed():
                await self._host.voted(self.peer, (), link.committed(message))
            case Settled():
                await self._host.flashlog.follow_state(message.payload_id, message.state, message.block_hash)
            case Closed():
                await self._host.closed(message.payload_id, message.at)
            case Pruned():
                await self._note_pruned(link, message)
            case _:
                raise Refused(f"{self.peer} sent a {type(message).__name__}, which a source does not say")

    async def _store(self, duplex: Duplex, link: FollowerLink, batch: Batch) -> None:
        receipts = await self._host.flashlog.append_from(self.peer, batch.entries, batch.cursor)
        try:
            stored = link.stored(batch, receipts)
        except Gap:
            log.error("a peer's log is followed from its start again", peer=self.peer)
            await self._host.flashlog.set_cursor(self.peer, Cursor(batch.cursor.log_id, 0))
            raise
        await duplex.send(wire.encode(stored.ack))
        self._received.inc(stored.new)
        if stored.refused:
            self._note_refused(stored.refused, batch)
        await self._host.voted(self.peer, stored.votes, stored.decided)
        self._backoff.reset()
        await self._host.caught_up(self.peer, link.position)

    def _note_refused(self, count: int, batch: Batch) -> None:
        first = batch.entries[0]
        self._refused.inc(count)
        log.error("second bodies refused, kept as evidence", peer=self.peer, entries=count, payload_id=first.payload_id)

    async def _note_pruned(self, link: FollowerLink, message: Pruned) -> None:
        missed = link.pruned(message)
        cursor = link.cursor()
        if cursor is not None:
            await self._host.flashlog.set_cursor(self.peer, cursor)
        if missed:
            self._missed.inc(missed)
            log.error("a peer's retention was faster than this host", peer=self.peer, missed_positions=missed)

    @staticmethod
    def _behind(link: FollowerLink) -> int:
        return max(0, link.source_appended - link.position)

    def statistics(self) -> dict[str, object]:
        """Where this host stands in the peer's log."""
        link = self.link
        return {
            "following": link is not None,
            "position": link.position if link else None,
            "behind": self._behind(link) if link else None,
            "failures": self.failures,
            "last_error": self.last_error,
        }


def dialer(url: str, secret: bytes, ssl_context: ssl.SSLContext | None, limits: DuplexLimits = LIMITS) -> Dial:
    """How a peer is reached: with a fresh token each time."""

    def open_it() -> AbstractAsyncContextManager[Duplex]:
        target = url.rstrip("/") + TARGET
        return dial(target, headers=authorization(secret), ssl_context=ssl_context, limits=limits)

    return open_it
