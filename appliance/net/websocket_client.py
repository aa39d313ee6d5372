"""A websocket client connection as a stream of messages that is always read, on trio-websocket.

trio-websocket answers no ping while a message waits to be fetched (its issue 82), so a task of ours fetches
every message at once into an inbox with a bound. The inbox's reader may be slow; the connection is not.
"""

import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final, NoReturn, Self, cast

import trio
import trio_websocket
import wsproto.utilities

from appliance.domain.errors import UnavailableError
from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken, WebsocketRefused
from appliance.net.opening import Endpoint, Stream, close_hard, open_stream, parse_url
from appliance.net.tls import client_context
from appliance.net.websocket_frames import BadStart, FrameGate

Message = tuple[bytes, bool]
"""The payload, and whether it came in a binary frame. A text message is its UTF-8 bytes, as it came."""

Send = Callable[[str], Awaitable[None]]
"""Sends one text message; raises `ConnectionBroken` when the connection has ended."""

# A flashblock has at most a few hundred KB: 16 MiB are tens of seconds of a stream. An inbox over its bound ends the
# connection, because to skip a message silently would be worse, and memory is not endless.
_INBOX_BYTES: Final = 16 * 1024 * 1024
_MESSAGE_OVERHEAD: Final = 128
_RECEIVE_BYTES: Final = 65536
_CLOSE_TIMEOUT_S: Final = 0.5
_REASON_BYTES: Final = 500

FRAME_BURST_S: Final = 3.0
"""For so many seconds a server may have been held up, and then send all at once."""


@asynccontextmanager
async def messages(
    url: str,
    *,
    ping_interval_s: float,
    pong_timeout_s: float,
    connect_timeout_s: float,
    max_message_bytes: int,
    max_frames_per_s: float = inf,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator["Inbox", None]:
    """Connect to ``url`` (ws or wss) and give an async iterator of `Message`.

    Every ``ping_interval_s`` a ping goes out; no pong within ``pong_timeout_s`` ends the connection, and so does
    a message over ``max_message_bytes``. More frames than ``max_frames_per_s`` for long end it too: `FRAME_BURST_S`
    seconds' worth may come at once. ``connect_timeout_s`` covers name, TCP, TLS and the websocket handshake.

    Entering raises `ConnectFailed`; the iterator raises `ConnectionBroken` or `BadResponse` when the
    connection ends, however it ends, after the messages that had come. What the body raises passes unchanged.
    """
    async with conversation(
        url,
        ping_interval_s=ping_interval_s,
        pong_timeout_s=pong_timeout_s,
        connect_timeout_s=connect_timeout_s,
        max_message_bytes=max_message_bytes,
        max_frames_per_s=max_frames_per_s,
        ssl_context=ssl_context,
    ) as (inbox, _):
        yield inbox


@asynccontextmanager
async def conversation(
    url: str,
    *,
    ping_interval_s: float,
    pong_timeout_s: float,
    connect_timeout_s: float,
    max_message_bytes: int,
    max_frames_per_s: float = inf,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[tuple["Inbox", Send], None]:
    """`messages`, for who also has something to say."""
    endpoint = parse_url(url, "ws", "wss")
    if endpoint.secure and ssl_context is None:
        ssl_context = client_context()
    inbox = Inbox(max(_INBOX_BYTES, 2 * max_message_bytes))
    link = _Link(endpoint, ping_interval_s, pong_timeout_s, max_frames_per_s, inbox)
    tls = ssl_context if endpoint.secure else None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(link.run, tls, connect_timeout_s, max_message_bytes)
            yield link.inbox, link.send
            await link.close()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_only(group)


class Inbox:
    """Messages that have come and were not taken yet; an async iterator that ends with an error."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._error: UnavailableError | None = None
        self._changed = trio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if self._waiting:
            await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
        message = self._waiting.popleft()
        self._bytes -= len(message[0]) + _MESSAGE_OVERHEAD
        return message

    def put(self, message: Message) -> bool:
        """Keep a message; false when it no longer fits."""
        size = len(message[0]) + _MESSAGE_OVERHEAD
        if self._bytes + size > self._max_bytes:
            return False
        self._bytes += size
        self._waiting.append(message)
        self._wake()
        return True

    def fail(self, error: UnavailableError) -> None:
        """No more messages will come, and why. The first reason stays."""
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


class _Link:
    """One connection: opens it, pings, moves messages into the inbox, and says in our terms why it ended."""

    def __init__(
        self,
        endpoint: Endpoint,
        ping_interval_s: float,
        pong_timeout_s: float,
        max_frames_per_s: float,
        inbox: Inbox,
    ) -> None:
        self.inbox = inbox
        self._max_frames_per_s = max_frames_per_s
        self._endpoint = endpoint
        self._ping_interval_s = ping_interval_s
        self._pong_timeout_s = pong_timeout_s
        self._connection: trio_websocket.WebSocketConnection | None = None
        self._closing = False

    async def run(
        self,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        max_message_bytes: int,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Raises only before ``started``; what ends the connection later is the inbox's to tell."""
        deadline = trio.current_time() + connect_timeout_s
        stream = await open_stream(self._endpoint, tls, connect_timeout_s)
        try:
            await self._run_on(stream, deadline, max_message_bytes, task_status)
        except UnavailableError as error:
            if self._connection is None:
                raise
            self.inbox.fail(error)
        finally:
            close_hard(stream)

    async def send(self, text: str) -> None:
        """Send a text message. Shielded: a frame that is cancelled in its middle would garble all that follow.

        It does not wait longer than ``pong_timeout_s``: then the other side does not read, and the connection ends.
        """
        if self._connection is None or self._closing:
            raise ConnectionBroken(f"the websocket to {self._endpoint.origin} is closed")
        try:
            with trio.CancelScope(shield=True):
                await self._connection.send_message(text)
        except trio_websocket.ConnectionClosed as error:
            raise ConnectionBroken(
                f"{self._endpoint.origin} closed the websocket ({_in_words(error.reason)})"
            ) from None
        except wsproto.utilities.LocalProtocolError:
            raise ConnectionBroken(f"{self._endpoint.origin} is closing the websocket") from None

    async def close(self) -> None:
        """Say goodbye, briefly."""
        self._closing = True
        with trio.move_on_after(_CLOSE_TIMEOUT_S):
            if self._connection is not None and self._connection.closed is None:
                await self._connection.aclose()

    async def _run_on(
        self, stream: Stream, deadline: float, max_message_bytes: int, task_status: trio.TaskStatus[None]
    ) -> None:
        guarded = _GuardedStream(stream, self._endpoint.origin, self._pong_timeout_s, self._max_frames_per_s)
        try:
            async with trio.open_nursery() as nursery:
                connection = await self._shake_hands(nursery, guarded, deadline, max_message_bytes)
                guarded.opened = True
                self._connection = connection
                task_status.started()
                nursery.start_soon(self._ping_for_ever, connection)
                await self._fetch_for_ever(connection)
        except Exception as error:
            # The boundary of one connection: whatever the library makes of the peer's bytes ends only this.
            raise (guarded.too_many or self._in_our_terms(error)) from error

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: "_GuardedStream", deadline: float, max_message_bytes: int
    ) -> trio_websocket.WebSocketConnection:
        with trio.move_on_at(deadline):
            return await trio_websocket.wrap_client_stream(
                nursery,
                cast("trio.SocketStream", stream),  # it needs no more than a `trio.abc.Stream`
                self._endpoint.authority,
                self._endpoint.target,
                extra_headers=self._extra_headers(),
                max_message_size=max_message_bytes,
                receive_buffer_size=_RECEIVE_BYTES,
            )
        raise ConnectFailed(f"no websocket handshake with {self._endpoint.origin} in time")

    def _extra_headers(self) -> list[tuple[bytes, bytes]]:
        authorization = self._endpoint.authorization
        return [] if authorization is None else [(b"authorization", authorization.encode("ascii"))]

    async def _fetch_for_ever(self, connection: trio_websocket.WebSocketConnection) -> NoReturn:
        while True:
            message = await self._fetch(connection)
            if not self.inbox.put(message):
                raise ConnectionBroken(f"too many messages of {self._endpoint.origin} wait to be handled")

    async def _fetch(self, connection: trio_websocket.WebSocketConnection) -> Message:
        try:
            message = await connection.get_message()
        except trio_websocket.ConnectionClosed:
            if self._closing:
                await trio.sleep_forever()  # our goodbye waits for its answer, then we are cancelled
            raise
        return (message, True) if isinstance(message, bytes) else (message.encode(), False)

    async def _ping_for_ever(self, connection: trio_websocket.WebSocketConnection) -> NoReturn:
        while True:
            await trio.sleep(self._ping_interval_s)
            with trio.move_on_after(self._pong_timeout_s) as scope:
                await connection.ping()
            if scope.cancelled_caught:
                text = f"no pong from {self._endpoint.origin} within {self._pong_timeout_s * 1000:.0f} ms"
                raise ConnectionBroken(text)

    def _in_our_terms(self, error: Exception) -> UnavailableError:
        origin = self._endpoint.origin
        cause = _first_cause(error)
        match cause:
            case UnavailableError():
                return cause
            case trio_websocket.ConnectionRejected():
                return WebsocketRefused(origin, cause.status_code, _first_line(cause.body))
            case trio_websocket.ConnectionClosed():
                reason = cause.reason
                return ConnectionBroken(f"{origin} closed the websocket ({_in_words(reason)})")
        return BadResponse(f"bad websocket from {origin}: {cause!r}")


class _GuardedStream(trio.abc.Stream):
    """What trio-websocket leaves out: an end during the handshake is an error, sending has a deadline, and what was
    read is handled a few frames at a time, and not more of them than the server may send."""

    def __init__(self, stream: Stream, origin: str, send_timeout_s: float, max_frames_per_s: float) -> None:
        self.opened = False
        self._stream = stream
        self._origin = origin
        self._send_timeout_s = send_timeout_s
        self._gate = FrameGate()
        self._max_frames_per_s = max_frames_per_s
        self._spent, self._spent_at = 0.0, -inf
        self.too_many: ConnectionBroken | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        part = self._next_part()
        if part:
            await trio.lowlevel.checkpoint()
            return part
        while not part:
            data = await self._receive(max_bytes)
            if not data:
                return data
            self._gate.put(data)
            part = self._next_part()
        return part

    def _next_part(self) -> bytes:
        frames = self._gate.frames
        try:
            part = self._gate.take()
        except BadStart as error:
            raise ConnectFailed(f"no websocket at {self._origin}: {error}") from None
        if self._gate.frames > frames:
            self._spend(self._gate.frames - frames, trio.current_time())
        return part

    def _spend(self, frames: int, now: float) -> None:
        """A bucket that empties by the second."""
        self._spent = max(0.0, self._spent - (now - self._spent_at) * self._max_frames_per_s) + frames
        self._spent_at = now
        if self._spent > self._max_frames_per_s * FRAME_BURST_S:
            self.too_many = ConnectionBroken(
                f"{self._origin} sends more than {self._max_frames_per_s:g} frames a second"
            )
            raise self.too_many

    async def _receive(self, max_bytes: int | None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self.opened:
                raise
            data = b""
        if not data and not self.opened:
            raise ConnectFailed(f"{self._origin} ended the connection during the websocket handshake")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(self._send_timeout_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            # Half a frame may be out, so nothing may follow it.
            close_hard(self._stream)
            raise trio.BrokenResourceError("the other side does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        close_hard(self._stream)
        await trio.lowlevel.checkpoint()


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _first_line(body: bytes | None) -> str:
    text = (body or b"")[:_REASON_BYTES].decode("utf-8", "replace").strip()
    return text.splitlines()[0] if text else ""


def _in_words(reason: trio_websocket.CloseReason | None) -> str:
    if reason is None:
        return "no reason given"
    return f"{reason.code} {reason.reason or reason.name}"


def raise_only(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """A nursery wraps what the body raises; its caller should see the body's own error.

    What the nursery's other tasks raised because they were cancelled along with it does not count.
    """
    _, others = group.split(trio.Cancelled)
    error: BaseException = others or group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
