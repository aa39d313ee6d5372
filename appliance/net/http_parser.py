"""HTTP/1.1 bytes in, whole messages out: llhttp (through httptools) with limits, and no I/O.

llhttp checks the grammar (strictly: CRLF, no folding, never both Content-Length and Transfer-Encoding).
What it leaves to its user is done here and in message_parser: sizes, versions, codings, upgrades, and the end
of a body that only the end of the connection tells. Promise: however the bytes are split, the same messages
come out; bytes that are no HTTP raise `ParseError` and nothing else.
"""

from collections.abc import Callable
from typing import Final

from httptools import HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from appliance.net.body_budget import BodyBudget
from appliance.net.body_buffer import BodyBuffer
from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.message_parser import BODY, HEAD, LINE_OVERHEAD, MAX_HEADERS, START, MessageParser, ParseError, Stage
from appliance.net.repeated_head import RepeatedHead

__all__ = ["MAX_HEADERS", "HeadAnswered", "OnHead", "ParseError", "RequestParser", "ResponseParser", "Stage"]

LARGE_BODY_BYTES: Final = 64 * 1024
"""Of a response; more than this still to come is read into its place. Less comes with one read most often."""

# Fields are counted with what separates them, and a length that is told anew may have more digits.
_HEAD_SLACK: Final = MAX_HEADERS + 32
_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")}
_VERSIONS: Final = frozenset({"1.1", "1.0"})

OnHead = Callable[[str, str, Headers], HttpResponse | None]
"""(method, target, headers) of a head that is whole: its answer, if the body need not be read. Quick, never waits."""


class HeadAnswered(ParseError):
    """`OnHead` gave ``response`` to a request of ``method``: its body is not read, so nothing can follow it."""

    def __init__(self, response: HttpResponse, method: str) -> None:
        super().__init__(response.status, "answered at its head")
        self.response = response
        self.method = method


class RequestParser(MessageParser[HttpRequestParser]):
    """Requests of one connection.

    Statuses of `ParseError`: 400 grammar, 405 CONNECT, 413 body (or ``too_large``: status, text), 417 Expect,
    431 header, 501 transfer coding, 503 no room in ``bodies``, 505 version; and `HeadAnswered` when ``on_head``
    answers. Who takes a request out gives its body's room back with `release_body`.
    After a request with ``upgrade`` the parser is done; what followed it is in ``rest``.
    """

    def __init__(
        self,
        *,
        max_header_bytes: int,
        max_body_bytes: int,
        max_headers: int = MAX_HEADERS,
        peer: str = "",
        on_head: OnHead | None = None,
        bodies: BodyBudget | None = None,
        early: EarlyAnswer | None = None,
        too_large: tuple[int, str] | None = None,
    ) -> None:
        super().__init__(max_header_bytes=max_header_bytes, max_body_bytes=max_body_bytes, max_headers=max_headers)
        self.rest = b""
        self._parser = HttpRequestParser(self)
        self._peer = peer
        self._too_large = too_large
        self._on_head = on_head
        self._early = early
        self._bodies = BodyBudget(max_body_bytes) if bodies is None else bodies
        self._pending_bytes = 0  # of the body that is coming in; what was taken out is its taker's to give back
        self._finished: list[HttpRequest] = []
        self._target = b""
        self._method = ""
        self._keep_alive = True
        self._websocket = False
        self._skipped_upgrade = False
        self._replaying = False
        self._expects_continue = False
        self._repeated = RepeatedHead()

    def feed(self, data: bytes) -> list[HttpRequest]:
        """The requests that ``data`` completes.

        Raises `ParseError` when it completes none and is not HTTP. When whole requests came before
        the fault they are returned, and `check` or the next `feed` raises it.
        """
        if self._failure is not None:
            raise self._failure
        if self._websocket:
            self.rest += data
            return []
        fresh = self.stage is START
        if fresh and (request := self._take_repeated(data)) is not None:
            return [request]
        self._consume(data)
        finished = self._finished
        if finished:
            self._finished = []
            self._learn(data, finished, fresh)
        elif self._failure is not None:
            raise self._failure
        return finished

    def _take_repeated(self, data: bytes) -> HttpRequest | None:
        """The request, when ``data`` is one with the head of the last one; its limits are those of any other."""
        found = self._repeated.match(data)
        if found is None:
            return None
        headers, begin = found
        size = len(data) - begin
        if size > self._max_body_bytes or not self._bodies.grow(0, size):
            return None
        self._stalled_bytes = 0
        head = self._repeated
        return HttpRequest(head.method, head.target, headers, data[begin:], self._peer, early=self._early)

    def _learn(self, data: bytes, finished: list[HttpRequest], fresh: bool) -> None:
        """``data`` was parsed; ``fresh`` if it began where a message may begin."""
        request = finished[0]
        whole = fresh and len(finished) == 1 and self.is_between() and request.keep_alive
        if whole and self._on_head is None and len(data) - len(request.body) + _HEAD_SLACK <= self._max_header_bytes:
            self._repeated.learn(data, request.method, request.target, request.headers)
        else:
            self._repeated.forget()

    def close(self) -> None:
        """Release the memory, and the room of bodies that nobody took."""
        self._drop_body()
        for request in self._finished:
            self.release_body(request)
        self._finished = []
        self._on_head = None  # may refer to the session, which refers to us
        self._early = None  # so does this
        self._repeated.forget()
        super().close()

    def release_body(self, request: HttpRequest) -> None:
        """Nobody here needs the body of ``request`` any more."""
        self._bodies.give_back(len(request.body))

    def take_expectation(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body; true once a request."""
        expected, self._expects_continue = self._expects_continue and self.stage is BODY, False
        return expected

    def _consume(self, data: bytes | memoryview) -> None:
        while True:
            try:
                return self._parse(data)
            except HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            if not self._skipped_upgrade:
                self.rest = bytes(data)
                return None
            self._go_on_without_upgrade()

    def _go_on_without_upgrade(self) -> None:
        """Go on as if the client had not offered an upgrade other than websocket (RFC 9110, 7.8).

        llhttp stops behind the head of such a request, as Java's HTTP client sends it (`Upgrade: h2c`) with
        a body. A fresh llhttp is told of a body of the same framing, and what it reports of
        that head is ignored.
        """
        self._skipped_upgrade = False
        self._parser = HttpRequestParser(self)
        framing = b"content-length: " + self._fields.get("content-length", "0").encode("latin-1")
        if "transfer-encoding" in self._fields:
            framing = b"transfer-encoding: chunked"
        self._replaying = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        self._replaying = False

    def on_message_begin(self) -> None:
        if not self._replaying:
            super().on_message_begin()
            self._target = b""
            self._expects_continue = False

    def on_url(self, part: bytes) -> None:
        if self.stage is HEAD:
            self._target += part

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying = False
            return
        parser = self._parser
        self._take_fields(len(self._target) + LINE_OVERHEAD)
        self._begin_body()
        raw_method = parser.get_method()
        self._method = _METHODS.get(raw_method) or raw_method.decode("ascii")
        version = parser.get_http_version()
        self._check_head(version)
        # HTTP/1.0's own keep-alive is not spoken: who asks for it gets Connection: close, which is allowed.
        self._keep_alive = version == "1.1" and parser.should_keep_alive()
        if parser.should_upgrade():
            self._choose_upgrade()
        if self._on_head is not None:
            self._ask_on_head(self._on_head)
        if self._length is not None and not self._bodies.has_room(self._length):
            raise self._no_room()

    def _ask_on_head(self, on_head: OnHead) -> None:
        response = on_head(self._method, self._target.decode("latin-1"), Headers.adopt(self._fields))
        if response is not None:
            self._failure = HeadAnswered(response, self._method)
            raise self._failure

    def _check_head(self, version: str) -> None:
        fields = self._fields
        if version not in _VERSIONS:
            raise self._fail(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if self._method == "CONNECT":
            raise self._fail(405, "no tunnels here")
        if "transfer-encoding" in fields:
            self._check_coding(fields["transfer-encoding"], version)
        if "expect" in fields:
            self._check_expectation(fields["expect"], version)

    def _check_coding(self, coding: str, version: str) -> None:
        if version == "1.0":  # RFC 9112, 6.1: its framing is faulty
            raise self._fail(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != "chunked":
            raise self._fail(501, "the only transfer coding spoken here is chunked")

    def _check_expectation(self, expectation: str, version: str) -> None:
        if expectation.lower() != "100-continue":
            raise self._fail(417, "the only expectation met here is 100-continue")
        self._expects_continue = version == "1.1"

    def _choose_upgrade(self) -> None:
        protocols = [name.strip().lower() for name in self._fields.get("upgrade", "").split(",")]
        self._websocket = "websocket" in protocols and self._method == "GET" and not self._has_body()
        self._skipped_upgrade = not self._websocket

    def _has_body(self) -> bool:
        return self._fields.get("content-length", "0").strip("0") != "" or "transfer-encoding" in self._fields

    def on_body(self, data: bytes) -> None:
        size = self._pending_bytes + len(data)
        if not self._bodies.grow(self._pending_bytes, size):
            self._drop_body()
            raise self._no_room()
        self._pending_bytes = size
        super().on_body(data)

    def _drop_body(self) -> None:
        self._parts = []
        self._bodies.give_back(self._pending_bytes)
        self._pending_bytes = 0

    def _body_too_large(self) -> ParseError:
        return super()._body_too_large() if self._too_large is None else self._fail(*self._too_large)

    def _no_room(self) -> ParseError:
        return self._fail(503, "too many large bodies at a time")

    def on_message_complete(self) -> None:
        if self._skipped_upgrade:
            return
        body = self._take_body()
        self._pending_bytes = 0
        self._finished.append(
            HttpRequest(
                self._method,
                self._target.decode("latin-1"),
                Headers.adopt(self._fields),
                body,
                self._peer,
                self._keep_alive,
                self._websocket,
                admitted=self._on_head is not None,
                early=self._early,
            )
        )


# What a read of 256 KiB may hold: ten thousand interim responses, or forty thousand chunks of a byte, take 27 ms each.
_MAX_HEADS: Final = 9
_FREE_CHUNKS: Final = 1024
_LEAST_CHUNK_BYTES: Final = 64


class ResponseParser(MessageParser[HttpResponseParser]):
    """The response to one request on one connection; ``method`` is the request's.

    Interim responses (1xx) are skipped; 101 is a `ParseError`, since this client offers no upgrade.
    """

    def __init__(
        self,
        *,
        method: str,
        max_header_bytes: int,
        max_body_bytes: int,
        max_headers: int = MAX_HEADERS,
    ) -> None:
        super().__init__(max_header_bytes=max_header_bytes, max_body_bytes=max_body_bytes, max_headers=max_headers)
        self.keep_alive = False
        self.renewable = True  # unless llhttp was left in the middle of a message
        self._parser = HttpResponseParser(self)
        self._head_only = method == "HEAD"
        self._response: HttpResponse | None = None
        self._status = 0
        self._over = False
        self._until_end = False
        self._heads = 0
        self._chunks = 0

    def renew(self) -> None:
        """Go on with the next response of the same connection; only after a whole one with ``keep_alive``."""
        self.keep_alive = self._over = self._until_end = False
        self._heads = self._chunks = 0

    def feed(self, data: bytes | bytearray) -> list[HttpResponse]:
        """The response, once ``data`` completes it; at most one. Raises `ParseError`.

        Bytes behind the response make the connection unfit for another request: ``keep_alive`` is false then.
        """
        self.check()
        if self._over:
            self.keep_alive = False
            return []
        self._parse(data)
        return self._take()

    @property
    def status(self) -> int:
        """Of the response whose head has come."""
        return self._status

    def has_large_body(self) -> bool:
        """Whether a body of known length has begun, and what is to come of it is worth reading past the parser."""
        if self.stage is not BODY or self._over or "transfer-encoding" in self._fields:
            return False
        return "content-length" in self._fields and self.body_size - self._body_bytes > LARGE_BODY_BYTES

    @property
    def body_size(self) -> int:
        """Of a body whose length is known."""
        return int(self._fields["content-length"])

    def body_so_far(self) -> memoryview:
        """What has come of it, in one piece most often; else the first one."""
        return memoryview(self._parts[0] if self._parts else b"")

    def open_body(self) -> BodyBuffer:
        """Room for the whole body, with what has come of it; the parser sees nothing of the rest.

        The length was checked with the head, so the memory is bounded by ``max_body_bytes``.
        """
        parts, self._parts = self._parts, []
        return BodyBuffer(self.body_size, parts)

    def close_body(self, body: BodyBuffer) -> HttpResponse:
        """All of the body has come. Nothing behind it was read: it is exactly as long as the head said."""
        self._over = True
        self.renewable = False
        return HttpResponse(self._status, body.take(), Headers.adopt(self._fields))

    def feed_eof(self) -> list[HttpResponse]:
        """The other side closed: the response, when its end is the end of the connection, else none."""
        if self._until_end and not self._over and self._failure is None:
            self.on_message_complete()
        return self._take()

    def _take(self) -> list[HttpResponse]:
        response, self._response = self._response, None
        if response is None:
            self.check()
            return []
        # Whatever llhttp found wrong came after the end of the response.
        self.keep_alive = self.keep_alive and self._failure is None
        self._failure = None
        return [response]

    def on_message_begin(self) -> None:
        if self._over:
            raise self._fail(502, "bytes behind the response")
        self._heads += 1
        if self._heads > _MAX_HEADS:
            raise self._fail(502, f"more than {_MAX_HEADS - 1} interim responses")
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS + self._body_bytes // _LEAST_CHUNK_BYTES:
            raise self._fail(502, "a body in chunks that are too small")

    def on_headers_complete(self) -> None:
        self._moved = True
        self._status = self._parser.get_status_code()
        self._take_fields(LINE_OVERHEAD)
        self._check_head(self._parser.get_http_version())
        if self._status in (204, 304) or (self._head_only and self._status >= 200):
            self.renewable = False
            # No body, whatever Content-Length says (RFC 9112, 6.3). llhttp may wait for one all the
            # same, so it sees nothing after this, and the connection serves no other request.
            self._finish()
            return
        self._begin_body()
        self.keep_alive = self._parser.should_keep_alive()

    def _check_head(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            raise self._fail(502, f"response in HTTP/{version}")
        if self._status == 101:
            raise self._fail(502, "an upgrade that was not asked for")
        coding = self._fields.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise self._fail(502, "the only transfer coding understood here is chunked")
        self._until_end = coding is None and "content-length" not in self._fields and self._status >= 200

    def on_message_complete(self) -> None:
        if self._status >= 200 and not self._over:
            self._finish()

    def _finish(self) -> None:
        self._over = True
        self._response = HttpResponse(self._status, self._take_body(), Headers.adopt(self._fields))
