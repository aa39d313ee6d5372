"""HTTP on one accepted connection: receive, hand to the handler, answer, in order, with deadlines.

A request costs one turn of the event loop. Deadlines are plain numbers that the server's sweeper compares with
the clock a few times in each timeout: a trio deadline that moves with every request costs more than parsing it.
"""

import math
import socket as stdlib_socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum, auto
from functools import partial
from typing import Final

import trio

from appliance.net import http_encoding, socket_io
from appliance.net.body_budget import BodyBudget
from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import HeaderItems, Headers, HttpRequest, HttpResponse
from appliance.net.http_parser import MAX_HEADERS, HeadAnswered, OnHead, ParseError, RequestParser, Stage
from appliance.net.message_parser import BODY, HEAD, START
from appliance.telemetry.logging import get_logger

log = get_logger("net")

# The most that is read ahead of the handler: pipelined requests of one read wait in memory, the rest in
# the kernel, and the client is held back by TCP.
RECEIVE_BYTES: Final = 65536
# Within a body, which may be megabytes, fewer and larger reads: each costs a turn of the loop.
_BODY_RECEIVE_BYTES: Final = 262144
# How long and how much of what a refused client still sends is read and thrown away. Closing at once would make
# the kernel send a reset, which can destroy our answer before the client reads it.
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 16 * 1024 * 1024
_TEXT: Final = Headers({"content-type": "text/plain; charset=utf-8"})
INTERNAL_ERROR: Final = HttpResponse(500, b"internal error\n", _TEXT)
_TEXT_RETRY: Final = Headers({**_TEXT, "retry-after": "1"})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one server takes. Times in seconds.

    Over ``max_connections`` a new client takes the place of the one that has waited longest without asking
    anything, or gets 503 (see `HttpServer`). A head over ``max_header_bytes`` or ``max_headers`` fields is
    431, a body over ``max_body_bytes`` 413 (before it is read, when Content-Length says so). All bodies that
    are coming in or being handled hold at most ``max_body_bytes_in_flight`` (the first 64 KiB of each are not
    counted); one that does not fit gets 503 with Retry-After.
    ``too_large`` is what a body over ``max_body_bytes`` is answered with instead of 413 and the parser's words.
    ``header_timeout_s`` runs from the first byte of a request to the end of its head, ``body_timeout_s`` from there
    to the end of its body; past either it is 408. ``idle_timeout_s`` is the wait for a request's first byte (for
    that of a connection's first request, ``first_request_timeout_s`` if shorter) and
    ``write_timeout_s`` the time for a whole answer to be taken; past any of these the connection is closed.
    Without ``keep_alive`` every answer closes: for who has more clients than could be allowed to ask again all at once.
    """

    max_connections: int = 1024
    max_header_bytes: int = 32 * 1024
    max_body_bytes: int = 32 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0
    write_timeout_s: float = 30.0
    max_headers: int = MAX_HEADERS
    first_request_timeout_s: float = 10.0
    max_body_bytes_in_flight: int = 256 * 1024 * 1024
    too_large: tuple[int, str] | None = None
    keep_alive: bool = True

    def __post_init__(self) -> None:
        if self.max_body_bytes_in_flight < self.max_body_bytes:
            raise ValueError("a body of max_body_bytes would never fit into max_body_bytes_in_flight")


@dataclass(frozen=True, slots=True)
class Connection:
    """An upgraded connection: trio's stream and the standard library's socket over one descriptor.

    ``socket`` is non-blocking; use it for sends that must not wait, never while ``stream`` is sending. The
    server closes both when `Upgrade.serve` returns. ``peer`` is the IP address of the client.
    """

    stream: trio.SocketStream
    socket: stdlib_socket.socket
    peer: str

    @classmethod
    def wrap(cls, accepted: stdlib_socket.socket, peer: str) -> "Connection":
        """Give ``accepted`` a trio stream."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        # trio asks for at most 16 KiB unsent in the kernel: a 20 KB frame would not fit into one
        # non-blocking send, and large answers would take a wake-up for every 16 KiB. 0 is the system's default.
        if accepted.family != stdlib_socket.AF_UNIX:
            stream.setsockopt(stdlib_socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, 0)
        return cls(stream, accepted, peer)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A handler's answer to a websocket request: `101` with ``headers``, then ``serve`` owns the connection.

    `Connection: Upgrade` and `Upgrade: websocket` are written by the server; ``headers`` holds
    Sec-WebSocket-Accept. ``serve`` gets the bytes that were read behind the request; the connection is closed
    when it returns. It runs in the connection's own task, and is cancelled at the end of the drain.
    """

    headers: HeaderItems
    serve: Callable[[Connection, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HandOver:
    """As `Upgrade`, but no task stays with the connection: thousands that say nothing are served by one.

    ``take`` gets the socket (non-blocking), the bytes that were read behind the request, and what it has to call when
    it has closed the socket; until then the connection counts as one of the server's. Who takes connections ends
    them, also when the server stops. When it raises, the server closes the connection.
    """

    headers: HeaderItems
    take: "Take"


Take = Callable[[stdlib_socket.socket, bytes, Callable[[], None]], None]

Handler = Callable[[HttpRequest], Awaitable[HttpResponse | Upgrade | HandOver]]
"""Answers one request. `Upgrade` and `HandOver` only where ``request.upgrade``. What it raises becomes a 500."""


@dataclass(slots=True)
class Counters:
    """What the sessions of one server did since its start."""

    requests: int = 0
    answered_at_head: int = 0
    replaced: int = 0
    upgrades: int = 0
    bad_requests: int = 0
    no_room_for_body: int = 0
    request_timeouts: int = 0
    write_timeouts: int = 0
    cancelled_by_client: int = 0
    handler_failures: int = 0

    def statistics(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


class Phase(Enum):
    """Where a session stands."""

    WAITING = auto()  # for the first byte of a request
    RECEIVING = auto()
    HANDLING = auto()
    ANSWERING = auto()


# As the stages: a look at the class takes longer than the rest of a change.
WAITING: Final = Phase.WAITING
RECEIVING: Final = Phase.RECEIVING
HANDLING: Final = Phase.HANDLING
ANSWERING: Final = Phase.ANSWERING


class Session:
    """The HTTP part of a connection's life: until it closes, or a handler upgrades it."""

    def __init__(
        self,
        connection: stdlib_socket.socket,
        peer: str,
        handler: Handler,
        limits: HttpLimits,
        stopping: trio.Event,
        counters: Counters,
        name: str,
        *,
        bodies: BodyBudget,
        on_head: OnHead | None,
    ) -> None:
        self.began = trio.current_time()
        self.deadline = math.inf
        self._connection = connection
        self._handler = handler
        self._limits = limits
        self._stopping = stopping
        self._counters = counters
        self._name = name
        self._early = EarlyAnswer(connection)
        self._closes = False  # whether the answer to the request that is being handled ends the connection
        self._parser = RequestParser(
            max_header_bytes=limits.max_header_bytes,
            max_body_bytes=limits.max_body_bytes,
            max_headers=limits.max_headers,
            peer=peer,
            on_head=None if on_head is None else partial(self._judge_head, on_head),
            bodies=bodies,
            early=self._early,
            too_large=limits.too_large,
        )
        self._scope = trio.CancelScope()
        self._phase = WAITING
        self._timed_stage: Stage | None = None
        self._client_gone = False
        self._asked = False
        self._replaced = False
        self._over = False

    async def run(self) -> tuple[Upgrade | HandOver, bytes] | None:
        """Talk until the connection should close, or is upgraded: then the upgrade and the bytes behind it."""
        upgrade = None
        failure: ParseError | None = None
        with self._scope:
            try:
                upgrade = await self._converse()
            except ParseError as error:
                failure = error
        if self._scope.cancelled_caught:
            failure = self._judge_cancelled()
        if failure is not None:
            await self._refuse(failure)
        return None if upgrade is None else (upgrade, self._parser.rest)

    def expire_if_due(self, now: float) -> None:
        """Give up what the session waits for, if its deadline has passed."""
        if self.deadline <= now:
            self._scope.cancel()

    def close_if_waiting(self) -> None:
        """The server stops, and there is no request to finish here, not even one that nobody has read yet."""
        if self._phase is WAITING and not socket_io.has_come(self._connection):
            self._scope.cancel()

    def asks_nothing(self) -> bool:
        """It waits for a client that never finished a request, or a head that the server's `OnHead` let pass."""
        return not self._asked and self._phase in (WAITING, RECEIVING)

    def replace(self) -> None:
        """Another client needs the place; to be called while the session `asks_nothing`."""
        self._replaced = True
        self._scope.cancel()

    def client_gone(self) -> None:
        """The client hung up: its handler, running or about to run, is cancelled."""
        self._client_gone = True
        if self._phase is HANDLING:
            self._scope.cancel()

    def release(self) -> None:
        """Free the parser at once."""
        self._parser.close()

    async def _converse(self) -> Upgrade | HandOver | None:
        parser = self._parser
        while True:
            requests = await self._next_requests()
            if requests is None:
                return None
            upgrade = await self._serve_each(requests)
            del requests  # or a connection that waits keeps its last body
            if upgrade is not None or self._over:
                return upgrade
            parser.check()
            if parser.take_expectation():
                await self._send(http_encoding.CONTINUE, b"")

    async def _next_requests(self) -> Sequence[HttpRequest] | None:
        """Those that the next bytes complete, perhaps none; None when there will be no more bytes."""
        data = await self._receive()
        return self._parser.feed(data) if data else None

    async def _serve_each(self, requests: Sequence[HttpRequest]) -> Upgrade | HandOver | None:
        """Handle and answer; when it returns nothing here refers to a body any more."""
        try:
            for number, request in enumerate(requests):
                if number:
                    await trio.lowlevel.checkpoint()  # pipelined requests must not hold the loop together
                answer = await self._handle(request)
                if isinstance(answer, Upgrade | HandOver):
                    await self._send(http_encoding.switching_head(Headers(answer.headers)), b"")
                    return answer
                if not await self._answer(request, answer):
                    self._over = True
                    return None
            return None
        finally:
            for request in requests:
                self._parser.release_body(request)

    async def _receive(self) -> bytes:
        """The next bytes, or none when there will be none."""
        stage = self._parser.stage
        if stage is not self._timed_stage:
            self._begin_stage(stage)
        if stage is START and self._stopping.is_set() and not socket_io.has_come(self._connection):
            return b""
        size = _BODY_RECEIVE_BYTES if stage is BODY else RECEIVE_BYTES
        data = await socket_io.receive(self._connection, size)
        if self._scope.cancel_called:
            # The deadline passed in the same turn of the loop: no request starts that would be cancelled.
            await trio.lowlevel.checkpoint()
        return data

    def _begin_stage(self, stage: Stage) -> None:
        limits = self._limits
        if stage is START:
            timeout_s = limits.idle_timeout_s
            if not self._asked:
                timeout_s = min(timeout_s, limits.first_request_timeout_s)
            self._phase = WAITING
        else:
            timeout_s = limits.header_timeout_s if stage is HEAD else limits.body_timeout_s
            self._phase = RECEIVING
        self._timed_stage = stage
        self.deadline = trio.current_time() + timeout_s

    async def _handle(self, request: HttpRequest) -> HttpResponse | Upgrade | HandOver:
        self._counters.requests += 1
        self._mark_handling()
        # Behind the refusal of an upgrade a client may have sent frames already: no way back to HTTP.
        keeps_alive = request.keep_alive and self._limits.keep_alive
        self._closes = not keeps_alive or request.upgrade or self._stopping.is_set()
        self._early.reset(usable=request.method != "HEAD" and not request.upgrade, close=self._closes)
        if self._client_gone:
            self._scope.cancel()
        try:
            answer = await self._handler(request)
            if isinstance(answer, HttpResponse):
                return answer
            if request.upgrade:
                self._counters.upgrades += 1
                return answer
            raise TypeError("the handler answers Upgrade to a request that asked for none")
        except Exception:
            self._counters.handler_failures += 1
            log.exception("handler failed", server=self._name, method=request.method)
            return INTERNAL_ERROR

    def _mark_handling(self) -> None:
        self._asked = True
        self._phase = HANDLING
        self._timed_stage = None
        self.deadline = math.inf

    def _judge_head(self, on_head: OnHead, method: str, target: str, headers: Headers) -> HttpResponse | None:
        """The parser's `OnHead`: the server's one, which must not end the connection without an answer."""
        try:
            response = on_head(method, target, headers)
        except Exception:
            self._counters.handler_failures += 1
            log.exception("on_head failed", server=self._name, method=method)
            return INTERNAL_ERROR
        self._asked = self._asked or response is None
        return response

    async def _answer(self, request: HttpRequest, response: HttpResponse) -> bool:
        """Send the response; true when the connection goes on."""
        try:
            if self._early.begun:
                if not await self._end_early(response):
                    return False
            else:
                self._closes = self._closes or self._stopping.is_set()
                head, body = self._encode(response, close=self._closes)
                await self._send(head, b"" if request.method == "HEAD" else body)
        finally:
            response.sent()
        if self._closes and request.keep_alive:
            await self._linger()
        return not self._closes

    async def _end_early(self, response: HttpResponse) -> bool:
        """Send what is left of an answer that has begun; false when it cannot be ended as it began.

        Then the client sees the connection end in the middle of an answer: that is all that can still be said.
        """
        try:
            rest = self._early.rest(response)
        except ValueError:
            self._counters.handler_failures += 1
            log.exception("an answer that has begun cannot be ended", server=self._name)
            return False
        if rest:
            await self._send_rest(rest)
        return True

    def _encode(self, response: HttpResponse, *, close: bool) -> tuple[bytes, bytes]:
        body = b"" if response.status in (204, 304) else response.body
        try:
            return http_encoding.response_head(response.status, response.headers, len(body), close=close), body
        except ValueError:
            self._counters.handler_failures += 1
            log.exception("answer cannot be encoded", server=self._name, status=response.status)
            return self._encode(INTERNAL_ERROR, close=close)

    async def _send(self, head: bytes, body: bytes) -> None:
        """Most answers fit into the kernel's buffer: one system call, no deadline and no turn of the loop.

        The turn comes with the next receive, at the latest.
        """
        rest = socket_io.send_message_now(self._connection, head, body)
        if rest:
            await self._send_rest(rest)

    async def _send_rest(self, rest: Sequence[bytes | memoryview]) -> None:
        self._phase = ANSWERING
        self._timed_stage = None
        self.deadline = trio.current_time() + self._limits.write_timeout_s
        await socket_io.send_all(self._connection, *rest)

    def _judge_cancelled(self) -> ParseError | None:
        """The scope was cancelled: by whom, and what to say to the client."""
        counters = self._counters
        if self._replaced:
            counters.replaced += 1
            if self._phase is RECEIVING:  # to who said nothing, an answer would be one to a later request
                socket_io.send_now(self._connection, http_encoding.BUSY)
        elif self._phase is RECEIVING:
            counters.request_timeouts += 1
            return ParseError(408, "the request did not arrive in time")
        if self._phase is ANSWERING:
            counters.write_timeouts += 1
        elif self._phase is HANDLING:
            counters.cancelled_by_client += 1
        return None

    async def _refuse(self, failure: ParseError) -> None:
        self._phase = ANSWERING
        response = self._refusal(failure)
        head, body = self._encode(response, close=True)
        if isinstance(failure, HeadAnswered) and failure.method == "HEAD":
            body = b""
        with trio.move_on_after(_LINGER_S):
            await socket_io.send_all(self._connection, head + body)
            await self._linger()

    def _refusal(self, failure: ParseError) -> HttpResponse:
        """Count it, and say it."""
        counters = self._counters
        if isinstance(failure, HeadAnswered):
            counters.answered_at_head += 1
            return failure.response
        if failure.status == 503:
            counters.no_room_for_body += 1
        elif failure.status != 408:
            counters.bad_requests += 1
        body = failure.text.encode("latin-1", "replace") + b"\n"
        return HttpResponse(failure.status, body, _TEXT_RETRY if failure.status == 503 else _TEXT)

    async def _linger(self) -> None:
        """Close our direction and read until the client closes its own, within bounds."""
        self._phase = ANSWERING
        self._connection.shutdown(stdlib_socket.SHUT_WR)
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_S):
            while left > 0 and (data := await socket_io.receive(self._connection, RECEIVE_BYTES)):
                left -= len(data)
