"""A lane to an origin: one kept-alive connection with one user, for a proxy whose every microsecond counts.

`HttpClient` shares connections among many tasks, and each of its requests has a deadline of trio's; here the user
owns the connection, calls `abort` when a request's time is up, and a small request costs two system calls and, with
a `Readiness`, no turn of the loop: its answer is told by a callback. Connections under TLS are `ClientConnection`s, as
the client's.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from appliance.net import socket_io
from appliance.net.answer_parser import AnswerParser
from appliance.net.errors import AnswerTooLarge, BadResponse, ConnectionBroken, TimedOut
from appliance.net.http_exchange import ClientConnection
from appliance.net.http_parser import ParseError
from appliance.net.opening import Endpoint, Stream, close_hard, open_stream
from appliance.net.readiness import Readiness
from appliance.telemetry.logging import get_logger

log = get_logger("net")

_MAX_HEADER_BYTES: Final = 64 * 1024
# The first read takes a whole small answer; what is longer is read in pieces that cost fewer turns of the loop.
_FIRST_RECEIVE_BYTES: Final = 64 * 1024
_RECEIVE_BYTES: Final = 256 * 1024
# An idle connection may have been closed, or been sent a farewell as a 408. Nobody does that within half a second
# of a request, and looking costs a system call.
_FRESH_S: Final = 0.5
_NO_REQUEST: Final = (b"", b"")

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


OnAnswer = Callable[[LaneAnswer | None], None]
"""Told an answer; None when there is more to do for it than to read it, which `HttpLane.finish` does."""


class HttpLane:
    """Sends to ``endpoint`` by POST, one request at a time, with ready heads (see `post_head`).

    ``check`` is called on every new connection. `close` may be called at any time, `abort` while a request runs.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        ssl_context: ssl.SSLContext | None,
        max_response_bytes: int,
        connect_timeout_s: float,
        check: Check | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._ssl_context = ssl_context
        self._max_response_bytes = max_response_bytes
        self._connect_timeout_s = connect_timeout_s
        self._check = check
        self._readiness = readiness
        self._connection: _PlainConnection | _SecureConnection | None = None
        self._used_at = 0.0
        self._opening = trio.CancelScope()
        self._aborted = False
        self._request = _NO_REQUEST  # the one that runs: head and body
        self._begun = False  # whether it was sent, or at least tried to be
        self._on_answer: OnAnswer | None = None

    def __repr__(self) -> str:
        return f"<HttpLane {self._endpoint.origin}, {'open' if self._connection else 'not connected'}>"

    async def exchange(self, head: bytes, body: bytes, now: float) -> LaneAnswer:
        """The answer, whatever its status; ``now`` is trio's time. Raises what `finish` does."""
        self.begin(head, body, now)
        return await self.finish()

    def begin(self, head: bytes, body: bytes, now: float, on_answer: OnAnswer | None = None) -> bool:
        """Send a request on the connection that is there; it waits for nothing.

        True: ``on_answer`` is going to be called, unless the lane is closed before. False: go on with `finish`.
        """
        self._aborted = False
        self._request = (head, body)
        connection = self._connection
        self._begun = connection is not None and connection.is_usable(now - self._used_at < _FRESH_S)
        if connection is None or not self._begun:
            return False
        self._used_at = now
        sent = connection.begin(head, body)
        self._on_answer = on_answer if sent and self._readiness is not None else None
        return self._on_answer is not None

    async def finish(self) -> LaneAnswer:
        """The answer to the request that was begun, in a task.

        A kept-alive connection that turns out to be closed before a byte of the answer came is replaced once,
        as in `HttpClient`. Raises `ConnectFailed`, `ConnectionBroken`, `BadResponse` (`AnswerTooLarge`), and
        `TimedOut` after `abort`. When it raises, the connection is gone.
        """
        if self._begun:
            if self._connection is None:
                raise self._timed_out()
            try:
                return await self._finish_on(self._connection)
            except ConnectionBroken as error:
                if not error.nothing_read:
                    raise
        connection = await self._open()
        self._used_at = trio.current_time()
        connection.begin(*self._request)
        return await self._finish_on(connection)

    def abort(self) -> None:
        """The request's time is up: `finish` raises `TimedOut`, with the next turn of the loop where it runs."""
        self._aborted = True
        self._opening.cancel()
        on_answer = self._on_answer
        self.close()
        if on_answer is not None:
            on_answer(None)

    def close(self) -> None:
        """Close at once, and tell nobody; the next request opens a new connection."""
        self._on_answer = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _readable(self, connection: "_PlainConnection", _gone: bool) -> None:
        """Something came on the connection, or it ended."""
        on_answer = self._on_answer
        if on_answer is None:
            connection.stirred = True
            return
        try:
            is_over, answer = connection.take_now()
            if is_over:
                self._on_answer = None
            if answer is not None:
                self._end(connection)
        except Exception:  # whoever asked must not wait for it: to him the connection is broken
            log.exception("reading an answer failed", origin=self._endpoint.origin)
            self.close()
            on_answer(None)
            return
        if is_over:
            on_answer(answer)

    async def _finish_on(self, connection: "_PlainConnection | _SecureConnection") -> LaneAnswer:
        try:
            answer = await connection.finish()
        except (trio.ClosedResourceError, ConnectionBroken) as error:
            self.close()
            # Woken by its socket and aborted in the same turn of the loop, it read from what was closed already.
            if self._aborted or not isinstance(error, ConnectionBroken):
                raise self._timed_out() from None
            raise
        except BaseException:
            self.close()
            raise
        self._end(connection)
        return answer

    def _end(self, connection: "_PlainConnection | _SecureConnection") -> None:
        self._request = _NO_REQUEST  # an idle lane keeps no body
        if not connection.reusable:
            self.close()

    async def _open(self) -> "_PlainConnection | _SecureConnection":
        """Under a scope of its own, so that `abort` can end it."""
        self.close()
        if self._aborted:
            raise self._timed_out()
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
            plain = _PlainConnection(stream, self._endpoint.origin, self._max_response_bytes, self._readiness)
            if self._readiness is not None:
                plain.watch(partial(self._readable, plain))
            return plain
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
    """The client's connection, for TLS, which only tasks can read."""

    def __init__(self, stream: Stream, origin: str, max_response_bytes: int) -> None:
        self._inner = ClientConnection(
            stream, origin, max_header_bytes=_MAX_HEADER_BYTES, max_response_bytes=max_response_bytes
        )
        self.close = self._inner.close

    @property
    def reusable(self) -> bool:
        return self._inner.reusable

    def is_usable(self, fresh: bool) -> bool:
        return fresh or self._inner.is_quiet()

    def begin(self, head: bytes, body: bytes) -> bool:
        self._inner.begin(head, body)
        return False

    async def finish(self) -> LaneAnswer:
        response = await self._inner.finish("POST")
        content_type = response.headers.get("content-type")
        return LaneAnswer(response.status, response.body, content_type.encode("latin-1") if content_type else None)


class _PlainConnection:
    """The same on a bare socket."""

    def __init__(
        self, stream: trio.SocketStream, origin: str, max_response_bytes: int, readiness: Readiness | None
    ) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._origin = origin
        self._readiness = readiness
        self._parser = AnswerParser(max_header_bytes=_MAX_HEADER_BYTES, max_body_bytes=max_response_bytes)
        self._unsent: Sequence[bytes | memoryview] = ()
        self._failure: ParseError | None = None
        self._broken = False
        self._anything_read = False
        self._reset = False
        self.reusable = False
        self.stirred = False  # something came, or it ended, while nobody waited for it

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Let ``callback`` know when something comes."""
        if self._readiness is not None:
            self._readiness.watch(self._socket.fileno(), callback)

    def is_usable(self, fresh: bool) -> bool:
        """Nothing came while idle. Otherwise the other side closed, or sent what nobody asked for."""
        if fresh and not self.stirred:
            return True
        self.stirred = False  # it may have been for what was read since
        return not socket_io.has_come(self._socket)

    def close(self) -> None:
        """At once; who waits on it gets `trio.ClosedResourceError`."""
        fd = self._socket.fileno()
        if fd != -1:
            if self._readiness is not None:
                self._readiness.forget(fd)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._parser.close()

    def begin(self, head: bytes, body: bytes) -> bool:
        """Send the request; whether all of it went out."""
        self.reusable = self._broken = self._anything_read = False
        self._parser.begin()
        self._unsent = self._send_now(head, body)
        return not self._unsent and not self._broken

    def take_now(self) -> tuple[bool, LaneAnswer | None]:
        """Read what has come: whether that was something, and the answer, if it is whole now."""
        try:
            data = self._socket.recv(_FIRST_RECEIVE_BYTES)
        except BlockingIOError:
            return False, None
        except OSError:
            self._reset = True  # the kernel says it once, and then that it is an end
            data = b""
        if not data:
            return True, None  # whoever reads again finds the end again
        try:
            self._feed(data)
        except ParseError as error:
            self._failure = error
            return True, None
        return True, self._answer() if self._parser.whole else None

    async def finish(self) -> LaneAnswer:
        """Send the rest and receive the answer; ``reusable`` says afterwards whether to keep the connection."""
        if self._unsent:
            await self._send_rest()
        try:
            if self._failure is not None:
                raise self._failure
            await self._receive()
        except ParseError as error:
            kind = AnswerTooLarge if error.status == 413 else BadResponse
            raise kind(f"bad answer from {self._origin}: {error.text}") from None
        return self._answer()

    def _answer(self) -> LaneAnswer:
        parser = self._parser
        self.reusable = parser.keep_alive and not self._broken
        return LaneAnswer(parser.status, parser.take_body(), parser.content_type)

    def _send_now(self, head: bytes, body: bytes) -> Sequence[bytes | memoryview]:
        """What the kernel did not take at once. If not all goes out, the answer may still be there: a refusal."""
        try:
            return socket_io.send_message_now(self._socket, head, body)
        except OSError:
            self._broken = True
            return ()

    async def _send_rest(self) -> None:
        rest, self._unsent = self._unsent, ()
        try:
            await socket_io.send_all(self._socket, *rest)
        except OSError:
            self._broken = True

    async def _receive(self) -> None:
        """Until the answer is whole."""
        while not self._parser.whole:
            if self._socket.fileno() == -1:
                raise trio.ClosedResourceError("closed while it was sending")
            size = _RECEIVE_BYTES if self._anything_read else _FIRST_RECEIVE_BYTES
            try:
                data = await socket_io.receive_or_raise(self._socket, size)
            except OSError:
                self._reset = True
                data = b""
            if data:
                self._feed(data)
            else:
                self._end()

    def _feed(self, data: bytes) -> None:
        self._anything_read = True
        self._parser.feed(data)

    def _end(self) -> None:
        if not self._reset:
            self._parser.feed_eof()
        if not self._parser.whole:
            when = "in the middle of its answer" if self._anything_read else "before its answer"
            raise ConnectionBroken(f"{self._origin} closed {when}", nothing_read=not self._anything_read)
