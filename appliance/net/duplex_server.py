"""A listener for `Duplex` connections: a few peers that know each other, with or without TLS."""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import trio

from appliance.net.duplex import Authorize, Duplex, DuplexLimits, Refusal, answer
from appliance.net.opening import Stream, close_hard
from appliance.telemetry.logging import get_logger
from appliance.telemetry.seldom import Seldom

log = get_logger("net")

MAX_CONNECTIONS: Final = 256
"""Open at the same time, those that have not said who they are included. More are closed at once."""

NEWCOMER_S: Final = 1.0
"""At `MAX_CONNECTIONS` a new connection takes the place of the oldest that has not said who it is, once that is so old:
else newcomers would close one another in a flood."""

_ACCEPT_PAUSE_S: Final = 0.1

OnDuplex = Callable[[Duplex], Awaitable[None]]


class DuplexServer:
    """Serves ``handler`` on ``listener``, which it closes, until cancelled; then every peer is told goodbye."""

    def __init__(
        self,
        handler: OnDuplex,
        listener: socket.socket,
        authorize: Authorize,
        *,
        ssl_context: ssl.SSLContext | None = None,
        limits: DuplexLimits | None = None,
    ) -> None:
        self.connections = 0
        self.refused = 0
        self._handler = handler
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        self._authorize = authorize
        self._ssl_context = ssl_context
        self._limits = limits or DuplexLimits()
        self._seldom = Seldom()  # who is refused comes again for ever
        self._newcomers: dict[trio.CancelScope, float] = {}  # who has not shaken hands, and since when; oldest first

    def __repr__(self) -> str:
        return f"<DuplexServer {self.connections} connections>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept for ever."""
        async with self._listener, trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    stream = await self._listener.accept()
                except OSError as error:  # out of descriptors: new peers wait in the backlog
                    log.error("cannot accept", server="replication", reason=str(error))
                    await trio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._admit(stream, nursery)

    def _admit(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        if self.connections >= MAX_CONNECTIONS and not self._make_room():
            self.refused += 1
            close_hard(stream)
            return
        self.connections += 1
        nursery.start_soon(self._serve, stream)

    def _make_room(self) -> bool:
        """End the oldest newcomer, in the next turn of the loop; false where none is old enough."""
        oldest = next(iter(self._newcomers), None)
        if oldest is None or trio.current_time() - self._newcomers[oldest] < NEWCOMER_S:
            return False
        del self._newcomers[oldest]
        oldest.cancel()
        return True

    async def _serve(self, stream: trio.SocketStream) -> None:
        name = _peer_of(stream)
        try:
            with trio.CancelScope() as scope:
                self._newcomers[scope] = trio.current_time()
                await self._converse(stream, name, scope)
        except Exception:
            log.exception("connection failed", peer_address=name)
        finally:
            self._newcomers.pop(scope, None)
            self.connections -= 1
            close_hard(stream)

    async def _converse(self, stream: trio.SocketStream, name: str, scope: trio.CancelScope) -> None:
        # trio's 16 KiB bound on unsent bytes costs a wake-up for every 16 KiB of a large message.
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, 0)
        secured = await self._secured(stream)
        if secured is None:
            return
        async with answer(secured, name, partial(self._judge, name), limits=self._limits) as duplex:
            self._newcomers.pop(scope, None)
            if duplex is not None:
                await self._handler(duplex)

    def _judge(self, name: str, target: str, headers: Mapping[str, str]) -> Refusal | None:
        refusal = self._authorize(target, headers)
        if refusal is not None:
            self._note_refused(name, refusal.status, "a peer is refused", status=refusal.status, reason=refusal.text)
        return refusal

    def _note_refused(self, name: str, kind: object, event: str, **fields: object) -> None:
        self.refused += 1
        attempts = self._seldom.note((name, kind), trio.current_time())
        if attempts:
            log.warning(event, peer_address=name, attempts=attempts, **fields)

    async def _secured(self, stream: trio.SocketStream) -> Stream | None:
        """The stream under TLS, where that is asked for; None for one that does not come up."""
        if self._ssl_context is None:
            return stream
        tls = trio.SSLStream(stream, self._ssl_context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._limits.handshake_timeout_s):
                await tls.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            self._note_refused(_peer_of(stream), "tls", "no TLS with a peer", reason=str(error.__cause__ or error))
            return None
        return tls


def _peer_of(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "a peer that is gone"
