"""A lane to an origin: one kept-alive connection with one user, for a proxy whose every microsecond counts.

`HttpClient` shares connections among many tasks, and each of its requests has a deadline of trio's; here the user
owns the connection, calls `abort` when a request's time is up, and a small request costs two system calls and one
turn of the loop. Connections under TLS are `ClientConnection`s, as the client's.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from appliance.net import socket_io
from appliance.net.answer_parser import AnswerParser
from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectionBroken, TimedOut
from appliance.net.http_exchange import ClientConnection
from appliance.net.http_parser import ParseError
from appliance.net.opening import Endpoint, Stream, close_hard, open_stream

_MAX_HEADER_BYTES: Final = 64 * 1024
# The first read takes a whole small answer; what is longer is read in pieces that cost fewer turns of the loop.
_FIRST_RECEIVE_BYTES: Final = 64 * 1024
_RECEIVE_BYTES: Final = 256 * 1024
_JOIN_BYTES: Final = 16384
# An idle connection may have been closed, or been sent a farewell as a 408. Nobody does that within half a second
# of a request, and looking costs a system call.
_FRESH_S: Final = 0.5

Check = Callable[[Stream], Awaitable[None]]
"""Looks at a connection before anything is sent on it; raises `UnavailableError` to refuse it."""


class LaneAnswer:
    """What a proxy passes on of an answer. ``content_type`` is None where none came."""

    __slots__ = ("body", "content_type", "status")

    def __init__(self, status: int, body: bytes, content_type: bytes | None) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type

    def __repr__(self) -> str:
        return f"<LaneAnswer {self.status}, {len(self.body)} bytes>"


class HttpLane:
    """Sends to ``endpoint`` by POST, one request at a time, with ready heads (see `post_head`).

    ``check`` is called on every new connection. `close` may be called at any time, `abort` while `exchange` runs.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        ssl_context: ssl.SSLContext | None,
        max_response_bytes: int,
        connect_timeout_s: float,
        check: Check | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._ssl_context = ssl_context
        self._max_response_bytes = max_response_bytes
        self._connect_timeout_s = connect_timeout_s
        self._check = check
        self._connection: _PlainConnection | _SecureConnection | None = None
        self._used_at = 0.0
        self._opening = trio.CancelScope()
        self._aborted = False

    def __repr__(self) -> str:
        return f"<HttpLane {self._endpoint.origin}, {'open' if self._connection else 'not connected'}>"

    async def exchange(self, head: bytes, body: bytes, now: float) -> LaneAnswer:
        """The answer, whatever its status; ``now`` is trio's time.

        A kept-alive connection that turns out to be closed before a byte of the answer came is replaced once,
        as in `HttpClient`. Raises `ConnectFailed`, `ConnectionBroken`, `BadResponse` (`AnswerTooLarge`), and
        `TimedOut` after `abort`. When it raises, the connection is gone.
        """
        self._aborted = False
        connection = self._connection
        if connection is not None and (now - self._used_at < _FRESH_S or connection.is_quiet()):
            try:
                return await self._exchange_on(connection, head, body, now)
            except ConnectionBroken as error:
                if not error.nothing_read:
                    raise
        return await self._exchange_on(await self._open(), head, body, now)

    def abort(self) -> None:
        """The request's time is up: `exchange` raises `TimedOut` with the next turn of the loop."""
        self._aborted = True
        self._opening.cancel()
        self.close()

    def close(self) -> None:
        """Close at once; the next `exchange` opens a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _exchange_on(
        self, connection: "_PlainConnection | _SecureConnection", head: bytes, body: bytes, now: float
    ) -> LaneAnswer:
        try:
            answer = await connection.exchange(head, body)
        except (trio.ClosedResourceError, ConnectionBroken) as error:
            self.close()
            # Woken by its socket and aborted in the same turn of the loop, it read from what was closed already.
            if self._aborted or not isinstance(error, ConnectionBroken):
                raise self._timed_out() from None
            raise
        except BaseException:
            self.close()
            raise
        self._used_at = now
        if not connection.reusable:
            self.close()
        return answer

    async def _open(self) -> "_PlainConnection | _SecureConnection":
        """Under a scope of its own, so that `abort` can end it."""
        self.close()
        with trio.CancelScope() as self._opening:
            stream = await open_stream(self._endpoint, self._ssl_context, self._connect_timeout_s)
            try:
                if self._check is not None:
                    await self._check(stream)
            except BaseException:
                close_hard(stream)
                raise
            self._connection = self._wrap(stream)
            return self._connection
        raise self._timed_out()

    def _wrap(self, stream: Stream) -> "_PlainConnection | _SecureConnection":
        if isinstance(stream, trio.SocketStream):
            return _PlainConnection(stream, self._endpoint.origin, self._max_response_bytes)
        return _SecureConnection(stream, self._endpoint.origin, self._max_response_bytes)

    def _timed_out(self) -> TimedOut | ConnectionBroken:
        if self._aborted:
            return TimedOut(f"no answer from {self._endpoint.origin} in time")
        return ConnectionBroken(f"the connection to {self._endpoint.origin} was closed here")


def post_head(endpoint: Endpoint, content_type: str = "application/json") -> bytes:
    """The head of a POST up to the number of its Content-Length; the caller adds that and two line ends."""
    lines = [f"POST {endpoint.target} HTTP/1.1", f"host: {endpoint.authority}"]
    if endpoint.authorization is not None:
        lines.append(f"authorization: {endpoint.authorization}")
    lines += [f"accept: {content_type}", f"content-type: {content_type}", "content-length: "]
    return "\r\n".join(lines).encode("latin-1")


class _SecureConnection:
    """The client's connection, for TLS."""

    def __init__(self, stream: Stream, origin: str, max_response_bytes: int) -> None:
        self._inner = ClientConnection(
            stream, origin, max_header_bytes=_MAX_HEADER_BYTES, max_response_bytes=max_response_bytes
        )
        self.is_quiet = self._inner.is_quiet
        self.close = self._inner.close

    @property
    def reusable(self) -> bool:
        return self._inner.reusable

    async def exchange(self, head: bytes, body: bytes) -> LaneAnswer:
        self._inner.begin(head, body)
        response = await self._inner.finish("POST")
        content_type = response.headers.get("content-type")
        return LaneAnswer(response.status, response.body, content_type.encode("latin-1") if content_type else None)


class _PlainConnection:
    """The same on a bare socket."""

    def __init__(self, stream: trio.SocketStream, origin: str, max_response_bytes: int) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._origin = origin
        self._parser = AnswerParser(max_header_bytes=_MAX_HEADER_BYTES, max_body_bytes=max_response_bytes)
        self.reusable = False
        self._broken = False

    def is_quiet(self) -> bool:
        """Nothing came while idle. Otherwise the other side closed, or sent what nobody asked for."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """At once; who waits on it gets `trio.ClosedResourceError`."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._parser.close()

    async def exchange(self, head: bytes, body: bytes) -> LaneAnswer:
        """Send the request and receive the answer; ``reusable`` says afterwards whether to keep the connection."""
        self.reusable = self._broken = False
        parser = self._parser
        parser.begin()
        rest = self._send_now(head, body)
        if rest:
            await self._send_rest(rest)
        try:
            await self._receive(parser)
        except ParseError as error:
            kind = AnswerTooLarge if error.status == 413 else BadResponse
            raise kind(f"bad answer from {self._origin}: {error.text}") from None
        self.reusable = parser.keep_alive and not self._broken
        return LaneAnswer(parser.status, parser.take_body(), parser.content_type)

    def _send_now(self, head: bytes, body: bytes) -> Sequence[bytes | memoryview]:
        """What the kernel did not take at once. If not all goes out, the answer may still be there: a refusal."""
        try:
            if len(body) > _JOIN_BYTES:
                return socket_io.send_parts_now(self._socket, [head, body])
            data = head + body
            sent = self._socket.send(data)
            return () if sent == len(data) else (memoryview(data)[sent:],)
        except BlockingIOError:
            return head, body
        except OSError:
            self._broken = True
            return ()

    async def _send_rest(self, rest: Sequence[bytes | memoryview]) -> None:
        try:
            await socket_io.send_all(self._socket, *rest)
        except OSError:
            self._broken = True

    async def _receive(self, parser: AnswerParser) -> None:
        if self._socket.fileno() == -1:
            raise trio.ClosedResourceError("closed while it was sending")
        await trio.lowlevel.wait_readable(self._socket)  # `socket_io.receive`, with one frame less for small answers
        try:
            data = self._socket.recv(_FIRST_RECEIVE_BYTES)
        except BlockingIOError:
            data = await socket_io.receive(self._socket, _FIRST_RECEIVE_BYTES)
        except OSError:
            data = b""  # nothing was read, so that there is no answer that it could end
        if data:
            parser.feed(data)
            if parser.whole:
                return
        await self._receive_rest(parser, data)

    async def _receive_rest(self, parser: AnswerParser, data: bytes) -> None:
        anything_read = bool(data)
        while data:
            try:
                data = await socket_io.receive_or_raise(self._socket, _RECEIVE_BYTES)
            except OSError:
                break
            if data:
                parser.feed(data)
            if parser.whole:
                return
        else:
            parser.feed_eof()  # behind an end, not behind a reset
        if not parser.whole:
            when = "in the middle of its answer" if anything_read else "before its answer"
            raise ConnectionBroken(f"{self._origin} closed {when}", nothing_read=not anything_read)
