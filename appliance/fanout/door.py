"""From a request to a subscriber with a place in the log, or to a refusal that says why."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from appliance.domain.errors import LogError, PrunedError
from appliance.domain.positions import Located
from appliance.fanout.limits import Admission, ClientAddress, Ticket, TooManyFromAddress
from appliance.fanout.lookups import Lookups
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.ports import LogView
from appliance.fanout.resume import STREAM_PATHS, BadRequest, SubscribeRequest, parse_query
from appliance.net import websocket_handshake as handshake
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import Connection, Upgrade
from appliance.net.websocket_handshake import NotAWebsocket
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

MAX_BLOCKS_AHEAD: Final = 600  # ten minutes of the fastest chains: no host that works lags so far behind another
RETRY_AFTER: Final = ("retry-after", "5")  # seconds


@dataclass(frozen=True, slots=True)
class Admitted:
    """A subscriber that may come in: what it asked for, where that is, and its place among the limits."""

    request: SubscribeRequest
    located: Located
    ticket: Ticket


Serve = Callable[[Admitted, Connection, bytes], Awaitable[None]]
"""Serves a subscriber until its connection ends. It claims the ticket first and releases it last."""


class Door:
    """Handles the requests of one fan-out listener."""

    def __init__(
        self,
        log_view: LogView,
        admission: Admission,
        client_address: ClientAddress,
        metrics: FanoutMetrics,
        stopping: trio.Event,
        serve: Serve,
    ) -> None:
        self._admission = admission
        self._client_address = client_address
        self._metrics = metrics
        self._stopping = stopping
        self._serve = serve
        self._log = log_view
        self._lookups = Lookups(log_view)

    async def handle(self, request: HttpRequest) -> HttpResponse | Upgrade:
        """Answer one request: 101, or 400, 404, 405, 410, 426, 429 or 503 with a JSON `message`."""
        if request.path == "/healthz":
            return _refusal(503, "stopping") if self._stopping.is_set() else HttpResponse(200, b"ok\n")
        if request.path not in STREAM_PATHS:
            return _refusal(404, "no such stream: connect to /ws")
        if request.method != "GET":
            return _refusal(405, "a websocket begins with GET", ("allow", "GET"))
        return await self._subscribe(request)

    async def _subscribe(self, request: HttpRequest) -> HttpResponse | Upgrade:
        wanted = parse_query(request.query)
        if isinstance(wanted, BadRequest):
            return _refusal(400, wanted.reason)
        accepted = _handshake(request)
        if isinstance(accepted, NotAWebsocket):
            return _refusal(accepted.status, accepted.reason, ("sec-websocket-version", handshake.VERSION))
        ticket = self._admit(request)
        if isinstance(ticket, HttpResponse):
            return ticket
        try:
            answer = await self._locate(wanted, ticket)
        except BaseException:
            ticket.release()
            raise
        if isinstance(answer, HttpResponse):
            ticket.release()
            return answer
        ticket.offer(trio.current_time())
        return Upgrade(accepted, partial(self._serve, answer))

    def _admit(self, request: HttpRequest) -> Ticket | HttpResponse:
        if self._stopping.is_set():
            return _refusal(503, "this host is going away", RETRY_AFTER)
        address = self._client_address.of(request.peer, request.headers.get(self._client_address.header))
        ticket = self._admission.admit(address, trio.current_time())
        if isinstance(ticket, Ticket):
            return ticket
        self._metrics.rate_limited_requests.add()
        if isinstance(ticket, TooManyFromAddress):
            return _refusal(429, "too many subscribers from this address", RETRY_AFTER)
        return _refusal(429, "this host has no room for more subscribers", RETRY_AFTER)

    async def _locate(self, wanted: SubscribeRequest, ticket: Ticket) -> Admitted | HttpResponse:
        try:
            located = await self._lookups.locate(wanted.resume)
        except PrunedError as error:
            return _gone(error)
        except LogError as error:
            log.warning("cannot look up a position", error=str(error))
            return _refusal(503, "the flashblock log cannot be read", RETRY_AFTER)
        return self._too_far_ahead(located) or Admitted(wanted, located, ticket)

    def _too_far_ahead(self, located: Located) -> HttpResponse | None:
        """A place that this log will not reach soon is a mistake: its subscriber would hear nothing for ever."""
        newest = self._log.recent(located.position - 1, 1) if located.skip_through and located.position else None
        if not (located.skip_through and newest):  # an empty log cannot tell
            return None
        if located.skip_through[0] - newest[0].block_number <= MAX_BLOCKS_AHEAD:
            return None
        return _refusal(400, f"block_number is far beyond the newest block here, {newest[0].block_number}")


def _handshake(request: HttpRequest) -> tuple[tuple[str, str], ...] | NotAWebsocket:
    if not request.upgrade:
        return NotAWebsocket(426, handshake.NO_UPGRADE)
    return handshake.accept(request.headers)


def _refusal(status: int, message: str, *headers: tuple[str, str]) -> HttpResponse:
    return _json(status, {"message": message}, *headers)


def _gone(error: PrunedError) -> HttpResponse:
    oldest = error.oldest and {"block_number": error.oldest[0], "flashblock_index": error.oldest[1]}
    return _json(410, {"message": str(error), "oldest": oldest})


def _json(status: int, body: dict[str, object], *headers: tuple[str, str]) -> HttpResponse:
    return HttpResponse(status, json.dumps(body).encode() + b"\n", [("content-type", "application/json"), *headers])
