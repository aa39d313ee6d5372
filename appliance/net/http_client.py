"""The HTTP/1.1 client: one origin, a bounded pool of kept-alive connections, a deadline for each request."""

import ssl
from types import TracebackType
from typing import Final, Self

import trio

from appliance.net import http_encoding
from appliance.net.connection_pool import ConnectionPool
from appliance.net.errors import ConnectionBroken, TimedOut
from appliance.net.http import HeaderItems, Headers, HttpResponse
from appliance.net.http_exchange import ClientConnection
from appliance.net.opening import open_stream, parse_url

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
            ssl_context = ssl.create_default_context()
        self._ssl_context = ssl_context if self._endpoint.secure else None
        self._connect_timeout_s = connect_timeout_s
        self._max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._permits = trio.Semaphore(max_connections)
        self._pool: ConnectionPool[ClientConnection] = ConnectionPool(idle_timeout_s=idle_timeout_s)
        self._own_headers = self._fixed_headers()
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
        if self._closed:
            raise trio.ClosedResourceError(f"{self!r} is closed")
        self._requests += 1
        head = self._encode_head(method, target, headers, len(body))
        with trio.move_on_after(timeout_s):
            await self._take_permit()
            try:
                return await self._exchange(method, head, body, self._take_idle() if repeatable else None)
            finally:
                self._permits.release()
        self._timed_out += 1
        raise TimedOut(f"no answer from {self.origin} within {timeout_s * 1000:.0f} ms")

    async def _take_permit(self) -> None:
        """Without a turn of the event loop where one is free: on the way of a block each turn counts."""
        try:
            self._permits.acquire_nowait()
        except trio.WouldBlock:
            await self._permits.acquire()

    def _encode_head(self, method: str, target: str | None, headers: HeaderItems, body_size: int) -> bytes:
        given = headers if isinstance(headers, Headers) else Headers(headers)
        # By the items' view: unpacking a Mapping of ours would look each name up in Python.
        merged = Headers.adopt(self._own_headers | dict(given.items()))
        return http_encoding.request_head(method, target or self._endpoint.target, merged, body_size)

    def _fixed_headers(self) -> dict[str, str]:
        headers = {"host": self._endpoint.authority}
        if self._endpoint.authorization is not None:
            headers["authorization"] = self._endpoint.authorization
        return headers

    async def _exchange(
        self, method: str, head: bytes, body: bytes, connection: ClientConnection | None
    ) -> HttpResponse:
        if connection is not None:
            try:
                return await self._exchange_on(connection, method, head, body)
            except ConnectionBroken as error:
                if not error.nothing_read:
                    raise
                self._retried += 1
        return await self._exchange_on(await self._open(), method, head, body)

    def _take_idle(self) -> ClientConnection | None:
        connection, discarded = self._pool.take(trio.current_time(), ClientConnection.is_quiet)
        for old in discarded:
            old.close()
        return connection

    async def _open(self) -> ClientConnection:
        stream = await open_stream(self._endpoint, self._ssl_context, self._connect_timeout_s)
        self._opened += 1
        return ClientConnection(
            stream, self.origin, max_header_bytes=_MAX_HEADER_BYTES, max_response_bytes=self._max_response_bytes
        )

    async def _exchange_on(self, connection: ClientConnection, method: str, head: bytes, body: bytes) -> HttpResponse:
        try:
            response = await connection.exchange(method, head, body)
        except BaseException:
            connection.close()
            raise
        if connection.reusable and not self._closed:
            self._pool.put(connection, trio.current_time())
        else:
            connection.close()
        return response

    def _busy(self) -> int:
        return self._max_connections - self._permits.value
