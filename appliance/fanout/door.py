"""From a request to a subscriber with a place in the log, or to a refusal that says why."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from appliance.domain.errors import LogError, PrunedError
from appliance.domain.positions import Located
from appliance.fanout.answers import RETRY_AFTER, gone, refusal
from appliance.fanout.api_keys import Grant
from appliance.fanout.filters import FilterIndex
from appliance.fanout.gate import Gate
from appliance.fanout.limits import Ticket
from appliance.fanout.lookups import Lookups
from appliance.fanout.ports import LogView
from appliance.fanout.resume import BadRequest, SubscribeRequest, deflated, parse_target
from appliance.fanout.routes import route
from appliance.net import websocket_handshake as handshake
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HandOver
from appliance.net.websocket_handshake import NotAWebsocket
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

MAX_BLOCKS_AHEAD: Final = 600  # ten minutes of the fastest chains: no host that works lags so far behind another


@dataclass(frozen=True, slots=True)
class Admitted:
    """A subscriber that may come in: what it asked for, where that is, its place among the limits, its key."""

    request: SubscribeRequest
    located: Located
    ticket: Ticket
    grant: Grant | None = None


Welcome = Callable[[Admitted, socket.socket, bytes, Callable[[], None]], None]
"""Takes a subscriber's connection over: see `HandOver.take`. It claims the ticket first and releases it last."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is well: what it wants, our headers, whose key it has."""

    wanted: SubscribeRequest
    headers: tuple[tuple[str, str], ...]
    grant: Grant | None


class Door:
    """Handles the requests of one fan-out listener."""

    def __init__(
        self,
        log_view: LogView,
        gate: Gate,
        stopping: trio.Event,
        welcome: Welcome,
        filters: FilterIndex,
        *,
        deflate: bool = True,
    ) -> None:
        self._gate = gate
        self._stopping = stopping
        self._welcome = welcome
        self._filters = filters
        self._deflate = deflate
        self._log = log_view
        self._lookups = Lookups(log_view)

    async def handle(self, request: HttpRequest) -> HttpResponse | HandOver:
        """Answer one request: 101, or 400, 401, 404, 405, 410, 426, 429 or 503 with a JSON `message`."""
        asked = self._understand(request)
        answer = asked if isinstance(asked, HttpResponse) else await self._subscribe(request, asked)
        if isinstance(answer, HttpResponse):
            self._gate.count_refusal(answer)
        return answer

    def handle_at_once(self, request: HttpRequest) -> HandOver | None:
        """The same where it is 101 and no wait for the log is needed; None for all else, and nothing has happened."""
        asked = self._understand(request)
        if isinstance(asked, HttpResponse):
            return None
        located = self._lookups.recall(asked.wanted.resume)
        if located is None or self._too_far_ahead(located):
            return None
        ticket = self._admit(request, asked)
        return None if isinstance(ticket, HttpResponse) else self._let_in(asked, located, ticket)

    def _understand(self, request: HttpRequest) -> _Asked | HttpResponse:
        """All that can be said without a look at places and the log."""
        if request.path == "/healthz":
            return refusal(503, "stopping") if self._stopping.is_set() else HttpResponse(200, b"ok\n")
        path = route(request.path)
        if path is None:
            return refusal(404, "no such stream: connect to /ws")
        if request.method != "GET":
            return refusal(405, "a websocket begins with GET", ("allow", "GET"))
        grant = self._gate.authenticate(path)
        return grant if isinstance(grant, HttpResponse) else self._understand_query(request, grant)

    def _understand_query(self, request: HttpRequest, grant: Grant | None) -> _Asked | HttpResponse:
        query = parse_target(request.raw_query)
        if isinstance(query, BadRequest):
            return refusal(400, query.reason)
        accepted = _handshake(request)
        if isinstance(accepted, NotAWebsocket):
            return refusal(accepted.status, accepted.reason, ("sec-websocket-version", handshake.VERSION))
        offers = request.headers.get("sec-websocket-extensions") if self._deflate else None
        wanted, extension = (query.wanted, None) if offers is None else deflated(query, offers)
        headers = accepted if extension is None else (*accepted, ("sec-websocket-extensions", extension))
        return _Asked(wanted, headers, grant)

    async def _subscribe(self, request: HttpRequest, asked: _Asked) -> HttpResponse | HandOver:
        ticket = self._admit(request, asked)
        if isinstance(ticket, HttpResponse):
            return ticket
        try:
            located = await self._locate(asked.wanted)
        except BaseException:
            ticket.release()
            raise
        if isinstance(located, HttpResponse):
            ticket.release()
            return located
        return self._let_in(asked, located, ticket)

    def _let_in(self, asked: _Asked, located: Located, ticket: Ticket) -> HandOver:
        ticket.offer(trio.current_time())
        return HandOver(asked.headers, partial(self._welcome, Admitted(asked.wanted, located, ticket, asked.grant)))

    def _admit(self, request: HttpRequest, asked: _Asked) -> Ticket | HttpResponse:
        if self._stopping.is_set():
            return refusal(503, "this host is going away", RETRY_AFTER)
        if asked.wanted.filter is not None and not self._filters.has_room_for(asked.wanted.filter):
            return refusal(429, "this host has no room for another filter", RETRY_AFTER)
        return self._gate.admit(request, asked.grant, asked.wanted.filter)

    async def _locate(self, wanted: SubscribeRequest) -> Located | HttpResponse:
        try:
            located = await self._lookups.locate(wanted.resume)
        except PrunedError as error:
            return gone(error)
        except LogError as error:
            log.warning("cannot look up a position", error=str(error))
            return refusal(503, "the flashblock log cannot be read", RETRY_AFTER)
        return self._too_far_ahead(located) or located

    def _too_far_ahead(self, located: Located) -> HttpResponse | None:
        """A place that this log will not reach soon is a mistake: its subscriber would hear nothing for ever."""
        newest = self._log.recent(located.position - 1, 1) if located.skip_through and located.position else None
        if not (located.skip_through and newest):  # an empty log cannot tell
            return None
        if located.skip_through[0] - newest[0].block_number <= MAX_BLOCKS_AHEAD:
            return None
        return refusal(400, f"block_number is far beyond the newest block here, {newest[0].block_number}")


def _handshake(request: HttpRequest) -> tuple[tuple[str, str], ...] | NotAWebsocket:
    if not request.upgrade:
        return NotAWebsocket(426, handshake.NO_UPGRADE)
    return handshake.accept(request.headers)
