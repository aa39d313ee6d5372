"""Binary messages both ways over a websocket, with or without TLS: for peers that both have something to say.

Everything is read as it comes, so pings are answered and a dead peer is noticed however slow the reader of the
messages is; a reader that falls behind its inbox loses the connection, never a message in the middle. The tasks of one
connection never wait for each other's sends while they read, so that two ends cannot block one another.
"""

import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

import trio
from wsproto import WSConnection
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from appliance.domain.errors import UnavailableError
from appliance.net.duplex_handshake import Authorize, Refusal, ask, judge, receive_some, why
from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken
from appliance.net.opening import Stream, close_hard, open_stream, parse_url
from appliance.net.tls import client_context
from appliance.net.websocket_client import Inbox, raise_only

_GOODBYE_S: Final = 0.5
GOING_AWAY: Final = 1001

__all__ = ["DuplexLimits", "Duplex", "dial", "answer", "Authorize", "Refusal"]

EVENTS_AT_A_TIME: Final = 32
"""Frames of one read that are handled in one turn of the loop: a read may hold 40,000 small ones, 1 s of work."""


@dataclass(frozen=True, slots=True)
class DuplexLimits:
    """Bounds of one connection. Over ``max_message_bytes`` or ``max_inbox_bytes`` (not yet taken) it is ended."""

    max_message_bytes: int = 32 * 2**20
    max_inbox_bytes: int = 64 * 2**20
    handshake_timeout_s: float = 5.0
    ping_interval_s: float = 2.0
    pong_timeout_s: float = 4.0
    send_timeout_s: float = 10.0


class Duplex:
    """One open connection; made by `dial` and `answer`. One task receives, any may send."""

    def __init__(self, stream: Stream, connection: WSConnection, name: str, limits: DuplexLimits) -> None:
        self.name = name
        self._stream = stream
        self._connection = connection
        self._limits = limits
        self._inbox = Inbox(limits.max_inbox_bytes)
        self._message = bytearray()  # as far as it has come; empty pieces cost nothing
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._sending = trio.Lock()
        self._rest: bytes | memoryview = b""  # of a frame that went out in part: nothing else may follow it
        self._rest_due = trio.Event()
        self._pong: bytes | None = None  # only the latest ping is answered (RFC 6455, 5.5.3)
        self._pong_due = trio.Event()
        self._heard_at = trio.current_time()
        self._ended = False

    def __repr__(self) -> str:
        return f"<Duplex with {self.name}>"

    async def receive(self) -> bytes:
        """The next message; raises `ConnectionBroken` or `BadResponse` when the connection ends, after the last one."""
        message, _ = await anext(self._inbox)
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; raises `ConnectionBroken`. Cancelled within a frame, the connection is closed hard."""
        await self._send(BytesMessage(data=message))

    def send_now(self, message: bytes) -> bool:
        """Send one message without waiting; False where that cannot be, and then nothing has gone out: `send` can tell.

        It cannot be under TLS, and while something else goes out. What the kernel does not take now is sent later.
        """
        if self._socket is None or self._ended or self._rest or self._sending.locked():
            return False
        try:
            data = self._connection.send(BytesMessage(data=message))
        except LocalProtocolError:
            return False  # it is being closed
        self._rest = self._sent_now(self._socket.fileno(), data)
        if self._rest:
            self._rest_due.set()
        return True

    def _sent_now(self, descriptor: int, data: bytes) -> bytes | memoryview:
        """What is left of it; all of it where the connection is broken: who waits to send the rest will be told."""
        try:
            sent = os.write(descriptor, data)
        except OSError:
            return data
        return memoryview(data)[sent:] if sent < len(data) else b""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read, ping and answer pings until the connection ends; who receives is told why."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ping_for_ever)
                nursery.start_soon(self._pong_for_ever)
                nursery.start_soon(self._send_rest_for_ever)
                await self._handle_events()  # what came behind the handshake
                task_status.started()
                await self._read_for_ever()
        except* UnavailableError as group:
            self._fail(_first(group))

    async def say_goodbye(self, code: int) -> None:
        """Send a close frame, briefly, unless the connection has ended."""
        with trio.move_on_after(_GOODBYE_S, shield=True):
            try:
                await self._send(CloseConnection(code=code))
            except UnavailableError:
                return

    def _fail(self, error: UnavailableError) -> None:
        self._ended = True
        self._inbox.fail(error)
        close_hard(self._stream)

    async def _send(self, event: Event) -> None:
        async with self._sending:
            await self._send_rest()
            try:
                data = self._connection.send(event)
            except LocalProtocolError:
                raise ConnectionBroken(f"the connection with {self.name} is being closed") from None
            await self._send_whole(data)

    async def _send_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            await self._send_whole(rest)

    async def _send_whole(self, data: bytes | memoryview) -> None:
        """Or end the connection: half a frame may be out, so nothing may follow it."""
        if self._ended:
            raise ConnectionBroken(f"the connection with {self.name} has ended")
        try:
            await self._send_in_time(data)
        except BaseException:
            self._ended = True
            close_hard(self._stream)
            raise

    async def _send_in_time(self, data: bytes | memoryview) -> None:
        with trio.move_on_after(self._limits.send_timeout_s) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionBroken(f"the connection with {self.name} broke: {why(error)}") from None
        if scope.cancelled_caught:
            raise ConnectionBroken(f"{self.name} does not read: nothing went out for {self._limits.send_timeout_s} s")

    async def _read_for_ever(self) -> NoReturn:
        while True:
            data = await receive_some(self._stream, self.name)
            self._heard_at = trio.current_time()
            try:
                self._connection.receive_data(data)
            except (RemoteProtocolError, LocalProtocolError) as error:
                raise BadResponse(f"bad websocket from {self.name}: {error}") from None
            await self._handle_events()

    async def _handle_events(self) -> None:
        for number, event in enumerate(self._connection.events(), start=1):
            self._handle(event)
            if number % EVENTS_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()

    def _handle(self, event: Event) -> None:
        match event:
            case BytesMessage():
                self._take(event)
            case Ping():
                self._pong = bytes(event.payload)
                self._pong_due.set()
            case CloseConnection():
                reason = event.reason or "no reason given"
                raise ConnectionBroken(f"{self.name} closed the websocket ({event.code} {reason})")
            case TextMessage():
                raise BadResponse(f"a text message from {self.name}")

    def _take(self, event: BytesMessage) -> None:
        if len(self._message) + len(event.data) > self._limits.max_message_bytes:
            raise BadResponse(f"a message of {self.name} is over {self._limits.max_message_bytes} bytes")
        self._message += event.data
        if not event.message_finished:
            return
        message, self._message = bytes(self._message), bytearray()
        if not self._inbox.put((message, True)):
            raise ConnectionBroken(f"too many messages of {self.name} wait to be handled")

    async def _pong_for_ever(self) -> NoReturn:
        while True:
            await self._pong_due.wait()
            self._pong_due = trio.Event()
            await self._send(Pong(payload=self._pong or b""))

    async def _send_rest_for_ever(self) -> NoReturn:
        while True:
            await self._rest_due.wait()
            self._rest_due = trio.Event()
            async with self._sending:
                await self._send_rest()

    async def _ping_for_ever(self) -> NoReturn:
        """Whatever comes after a ping shows that the other end is alive: a pong may stand in line behind megabytes."""
        while True:
            await trio.sleep(self._limits.ping_interval_s)
            asked_at = trio.current_time()
            await self._send(Ping())
            await trio.sleep(self._limits.pong_timeout_s)
            if self._heard_at < asked_at:
                text = f"nothing from {self.name} for {self._limits.pong_timeout_s} s after a ping"
                raise ConnectionBroken(text)


@asynccontextmanager
async def dial(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: DuplexLimits | None = None,
) -> AsyncGenerator[Duplex, None]:
    """Connect to ``url`` (ws or wss). Raises `ConnectFailed`, `WebsocketRefused` with the status among them."""
    limits = limits or DuplexLimits()
    endpoint = parse_url(url, "ws", "wss")
    tls = (ssl_context or client_context()) if endpoint.secure else None
    deadline = trio.current_time() + limits.handshake_timeout_s
    stream = await open_stream(endpoint, tls, limits.handshake_timeout_s)
    try:
        with trio.move_on_at(deadline) as scope:
            connection = await ask(stream, endpoint, headers or {})
        if scope.cancelled_caught:
            raise ConnectFailed(f"no websocket handshake with {endpoint.origin} in time")
        async with _opened(Duplex(stream, connection, endpoint.origin, limits)) as duplex:
            yield duplex
    finally:
        close_hard(stream)


@asynccontextmanager
async def answer(
    stream: Stream, name: str, authorize: Authorize, *, limits: DuplexLimits | None = None
) -> AsyncGenerator[Duplex | None, None]:
    """Take a connection that came in; None where it was refused or broke before it was open."""
    limits = limits or DuplexLimits()
    try:
        connection = None
        with trio.move_on_after(limits.handshake_timeout_s):
            connection = await judge(stream, name, authorize)
        if connection is None:
            yield None
            return
        async with _opened(Duplex(stream, connection, name, limits)) as duplex:
            yield duplex
    finally:
        close_hard(stream)


@asynccontextmanager
async def _opened(duplex: Duplex) -> AsyncGenerator[Duplex, None]:
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(duplex.run)
            try:
                yield duplex
            finally:
                await duplex.say_goodbye(GOING_AWAY)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_only(group)


def _first(group: BaseExceptionGroup[UnavailableError]) -> UnavailableError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UnavailableError)  # noqa: S101 except* picked them
    return error
