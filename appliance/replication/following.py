"""Following one peer's log: dial, and let the core talk; again whenever it ends."""

import os
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from appliance.domain.errors import LogError, RemoteError, UnavailableError
from appliance.domain.replicas import Cursor
from appliance.net.backoff import Backoff
from appliance.net.duplex import Duplex, DuplexLimits, dial
from appliance.replication.connection import Connection
from appliance.replication.follower_link import FollowerLink
from appliance.replication.reach import PeerLink
from appliance.replication.runner import Runner
from appliance.replication.security import TARGET, authorization
from appliance.telemetry.logging import get_logger
from appliance.wire.replication import MAX_MESSAGE_BYTES, NONCE_BYTES

log = get_logger("replication")

LIMITS: Final = DuplexLimits(max_message_bytes=MAX_MESSAGE_BYTES, max_inbox_bytes=64 * 2**20)
"""An inbox holds several windows of a source (8 MiB in flight): it fills only for one that keeps none."""

Dial = Callable[[], AbstractAsyncContextManager[Duplex]]


class Following:
    """The link to one peer, made again whenever it ends."""

    def __init__(self, runner: Runner, peer: str, dial_peer: Dial) -> None:
        self.peer = peer
        self.failures = 0  # each attempt; in an outage of a minute there are thirty
        self.outages = 0
        self.last_error: str | None = None
        self._runner = runner
        self._dial = dial_peer
        self._connection: Connection | None = None
        self._is_up = self._is_out = False
        self._backoff = Backoff(initial_s=0.02, maximum_s=2.0)
        metrics = runner.metrics
        self._lag = metrics.lag.labels(peer)
        self._up = metrics.following.labels(peer)
        self._reconnects = metrics.reconnects.labels(peer)
        for counter in (metrics.received, metrics.refused, metrics.missed):
            counter.labels(peer)
        self._up.set(0)

    def __repr__(self) -> str:
        return f"<Following {self.peer}: {self.link or self.last_error or 'not yet'}>"

    @property
    def link(self) -> FollowerLink | None:
        """Where this host stands in the peer's log, while it follows."""
        connection = self._connection
        return self._runner.core.following(connection.name) if connection else None

    async def run(self) -> None:
        """Follow for ever. Only bugs propagate."""
        while True:
            try:
                await self._follow()
            except (UnavailableError, RemoteError, LogError) as error:
                self._note_failure(str(error))
            finally:
                self._connection = None
                self._note_up(None)
            await trio.sleep(self._backoff.next())

    async def _follow(self) -> None:
        runner = self._runner
        cursor = await runner.flashlog.cursor_of(self.peer)
        async with self._dial() as duplex:
            connection = self._connection = _Dialled(runner, duplex, self)
            await connection.converse(lambda now: self._open(connection, cursor, now))
            if connection.failed:
                self._note_failure(connection.reason)
            else:
                self._backoff.reset()

    def _open(self, connection: Connection, cursor: Cursor | None, now: float) -> None:
        nonce = os.urandom(NONCE_BYTES)
        self._runner.core.follower_opened(connection.name, self.peer, nonce, cursor, now)

    def _note_failure(self, reason: str) -> None:
        self.failures += 1
        self.outages += not self._is_out
        self._is_out = True
        self._reconnects.inc()
        if reason != self.last_error:  # a peer that stays away is said once
            log.warning("a peer is not followed", peer=self.peer, reason=reason)
        self.last_error = reason

    def _note_up(self, link: FollowerLink | None) -> None:
        if link is not None and not self._is_up:
            self.last_error, self._is_out = None, False
            self._backoff.reset()
            log.info("following a peer", peer=self.peer, position=link.position, behind=link.behind)
        self._is_up = link is not None
        self._up.set(self._is_up)

    def measure(self) -> None:
        """For the metrics, now and then."""
        link = self.link
        self._note_up(link)
        if link is not None:
            self._lag.set(link.behind)

    def reached(self) -> PeerLink:
        """What the link is worth to who counts votes."""
        link = self.link
        return PeerLink(self.peer, link is not None, link is not None and link.votes, self.last_error)

    def statistics(self) -> dict[str, object]:
        """Where this host stands in the peer's log."""
        link = self.link
        return {
            "following": link is not None,
            "position": link.position if link else None,
            "behind": link.behind if link else None,
            "outages": self.outages,
            "failures": self.failures,
            "last_error": None if link else self.last_error,
        }


class _Dialled(Connection):
    """The connection of a `Following`."""

    def __init__(self, runner: Runner, duplex: Duplex, following: Following) -> None:
        super().__init__(runner, duplex)
        self._following = following

    def measure(self) -> None:
        self._following.measure()


def dialer(url: str, secret: bytes, ssl_context: ssl.SSLContext | None, limits: DuplexLimits = LIMITS) -> Dial:
    """How a peer is reached: with a fresh token each time."""

    def open_it() -> AbstractAsyncContextManager[Duplex]:
        target = url.rstrip("/") + TARGET
        return dial(target, headers=authorization(secret), ssl_context=ssl_context, limits=limits)

    return open_it
