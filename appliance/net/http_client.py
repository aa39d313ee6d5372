"""The HTTP/1.1 client: one origin, a bounded pool of kept-alive connections, a deadline for each request."""

import ssl
from types import TracebackType
from typing import Final, Self

import trio

from appliance.net import http_encoding
from appliance.net.connection_pool import ConnectionPool
from appliance.net.errors import ConnectionBroken, TimedOut
from appliance.net.http import HeaderItems, Headers, HttpResponse
from appliance.net.http_exchange import BodyWatch, ClientConnection
from appliance.net.opening import open_stream, parse_url
from appliance.net.tls import client_context

_MAX_HEADER_BYTES: Final = 64 * 1024
_MIB: Final = 1024 * 1024


class HttpClient:
    """Requests to the origin of ``url``; `request` may be called by many tasks at once.

    At most ``max_connections`` requests run at a time; others wait, first come first served, each within its own
    deadline. For https, ``ssl_context`` defaults to the system's certificate authorities. A kept-alive
    connection that turns out to be closed before a byte of the answer came is replaced, once, by a fresh one and
    the request is sent again: so send only what may arrive twice, or say that it may not.

    Raises `ConfigError` for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 32,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout_s: float = 5.0,
        idle_timeout_s: float = 60.0,
        max_response_bytes: int = 64 * _MIB,
    ) -> None:
        self._endpoint = parse_url(url, "http", "https")
        if self._endpoint.secure and ssl_context is None:
            ssl_context = client_context()
        self._ssl_context = ssl_context if self._endpoint.secure else None
        self._connect_timeout_s = connect_timeout_s
        self._max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._permits = trio.Semaphore(max_connections)
        self._pool: ConnectionPool[ClientConnection] = ConnectionPool(idle_timeout_s=idle_timeout_s)
        self._own_headers = self._fixed_headers()
        self._merged: tuple[Headers | None, Headers] = None, Headers()
        self._closed = False
        self._requests = self._retried = self._timed_out = self._opened = 0

    def __repr__(self) -> str:
        return f"<HttpClient {self._endpoint.origin}, {self._busy()} busy, {len(self._pool)} idle>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """Scheme, host and port, without path or credentials: fit for logs."""
        return self._endpoint.origin

    async def aclose(self) -> None:
        """`close`, for who expects to await it."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close idle connections now, and busy ones when their requests end. Idempotent."""
        self._closed = True
        for connection in self._pool.clear():
            connection.close()

    def statistics(self) -> dict[str, object]:
        """Connections now, and since the start: requests, retried ones, deadlines passed, connections opened."""
        return {
            "origin": self.origin,
            "busy": self._busy(),
            "idle": len(self._pool),
            "requests": self._requests,
            "retried": self._retried,
            "timed_out": self._timed_out,
            "opened": self._opened,
        }

    async def request(
        self,
        method: str,
        target: str | None = None,
        headers: HeaderItems = (),
        body: bytes = b"",
        *,
        timeout_s: float,
        repeatable: bool = True,
    ) -> HttpResponse:
        """Send one request and return the answer, whatever its status.

        ``target`` (path and query) defaults to the URL's. ``timeout_s`` covers waiting for a free connection,
        connecting, sending and receiving. One that is not ``repeatable`` gets a fresh connection, and so is never
        sent twice. Raises `ConnectFailed`, `TimedOut`, `ConnectionBroken` and
        `BadResponse`, all `UnavailableError`; `trio.ClosedResourceError` after `close`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self.begin(method, target, headers, body, timeout_s=timeout_s, repeatable=repeatable).response()

    def begin(
        self,
        method: str,
        target: str | None = None,
        headers: HeaderItems = (),
        body: bytes = b"",
        *,
        timeout_s: float,
        repeatable: bool = True,
    ) -> "PendingRequest":
        """`request` in two steps: where a connection is idle, the request goes out before this returns.

        So it is on its way without a turn of the event loop. Await `PendingRequest.response` once.
        """
        if self._closed:
            raise trio.ClosedResourceError(f"{self!r} is closed")
        self._requests += 1
        head = self._encode_head(method, target, headers, len(body))
        pending = PendingRequest(self, method, head, body, timeout_s, repeatable=repeatable)
        pending.try_begin()
        return pending

    def _encode_head(self, method: str, target: str | None, headers: HeaderItems, body_size: int) -> bytes:
        return http_encoding.request_head(method, target or self._endpoint.target, self._merge(headers), body_size)

    def _merge(self, headers: HeaderItems) -> Headers:
        """With our own ones. The same object again, which an upstream's is for a second, is encoded already."""
        if headers is self._merged[0]:
            return self._merged[1]
        given = headers if isinstance(headers, Headers) else Headers(headers)
        # By the items' view: unpacking a Mapping of ours would look each name up in Python.
        merged = Headers.adopt(self._own_headers | dict(given.items()))
        if given is headers:
            self._merged = given, merged
        return merged

    def _fixed_headers(self) -> dict[str, str]:
        headers = {"host": self._endpoint.authority}
        if self._endpoint.authorization is not None:
            headers["authorization"] = self._endpoint.authorization
        return headers

    def try_permit(self) -> bool:
        """Take a permit without a turn of the event loop, where one is free: on the way of a block each counts."""
        try:
            self._permits.acquire_nowait()
        except trio.WouldBlock:
            return False
        return True

    async def wait_permit(self) -> None:
        """Wait for one."""
        await self._permits.acquire()

    def give_back_permit(self) -> None:
        """The request is over."""
        self._permits.release()

    def take_idle(self) -> ClientConnection | None:
        """A connection that can be used at once; None when there is none."""
        connection, discarded = self._pool.take(trio.current_time(), ClientConnection.is_quiet)
        for old in discarded:
            old.close()
        return connection

    async def open(self) -> ClientConnection:
        """A fresh connection."""
        stream = await open_stream(self._endpoint, self._ssl_context, self._connect_timeout_s)
        self._opened += 1
        return ClientConnection(
            stream, self.origin, max_header_bytes=_MAX_HEADER_BYTES, max_response_bytes=self._max_response_bytes
        )

    def put_back(self, connection: ClientConnection) -> None:
        """Its exchange is over: keep it, or close it where it cannot serve another."""
        if connection.reusable and not self._closed:
            self._pool.put(connection, trio.current_time())
        else:
            connection.close()

    def count_retry(self) -> None:
        """A kept-alive connection turned out to be closed."""
        self._retried += 1

    def timed_out(self, timeout_s: float) -> TimedOut:
        """The error for a request whose deadline has passed, which is counted."""
        self._timed_out += 1
        return TimedOut(f"no answer from {self.origin} within {timeout_s * 1000:.0f} ms")

    def _busy(self) -> int:
        return self._max_connections - self._permits.value


class PendingRequest:
    """A request that is on its way, or waits for a connection. Made by `HttpClient.begin`.

    Who does not await `response` must `abandon` it: it holds a permit and a connection.
    """

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_deadline",
        "_head",
        "_method",
        "_permitted",
        "_repeatable",
        "_timeout_s",
        "_watch",
    )

    def __init__(
        self, client: HttpClient, method: str, head: bytes, body: bytes, timeout_s: float, *, repeatable: bool
    ) -> None:
        self._client = client
        self._method = method
        self._head = head
        self._body = body
        self._timeout_s = timeout_s
        self._deadline = trio.current_time() + timeout_s
        self._connection: ClientConnection | None = None
        self._repeatable = repeatable
        self._permitted = False
        self._watch: BodyWatch | None = None

    def try_begin(self) -> None:
        """Send on an idle connection, where there is one."""
        self._permitted = self._client.try_permit()
        if self._permitted:
            self._begin_on_idle()

    async def response(self, watch: BodyWatch | None = None) -> HttpResponse:
        """The answer; raises what `HttpClient.request` raises. ``watch`` sees a large body come (`BodyWatch`)."""
        self._watch = watch
        with trio.CancelScope(deadline=self._deadline):
            try:
                if not self._permitted:
                    await self._client.wait_permit()
                    self._permitted = True
                return await self._exchange()
            finally:
                self.abandon()
        raise self._client.timed_out(self._timeout_s)

    def abandon(self) -> None:
        """Give back what it holds. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        permitted, self._permitted = self._permitted, False
        if permitted:
            self._client.give_back_permit()

    async def _exchange(self) -> HttpResponse:
        self._begin_on_idle()
        if self._connection is not None:
            try:
                return await self._finish(self._connection)
            except ConnectionBroken as error:
                if not error.nothing_read:
                    raise
                self._connection.close()
                self._client.count_retry()
        self._connection = await self._client.open()
        self._connection.begin(self._head, self._body)
        return await self._finish(self._connection)

    def _begin_on_idle(self) -> None:
        if self._connection is None and self._repeatable:
            self._connection = self._client.take_idle()
            if self._connection is not None:
                self._connection.begin(self._head, self._body)

    async def _finish(self, connection: ClientConnection) -> HttpResponse:
        response = await connection.finish(self._method, self._watch)
        self._connection = None
        self._client.put_back(connection)
        return response
