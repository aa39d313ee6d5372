"""The HTTP face towards op-node and op-conductor: probes, tokens, JSON-RPC calls one by one and in batches."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.domain.health import Health, HealthFact
from appliance.engine.events import JSON, Reply
from appliance.engine.metrics import EngineMetrics
from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.wire import jwt
from appliance.wire.engine import Call, ForkchoiceUpdated, GetPayload, Mirrored, NewPayload, Other, decode_call
from appliance.wire.jsonrpc import (
    INTERNAL_ERROR,
    NULL_ID,
    RESPONSE_TOO_LARGE,
    Request,
    RequestError,
    decode_batch,
    decode_request,
    decode_response,
    encode_batch,
    encode_error,
    is_batch,
)

MAX_BATCH: Final = 1000
MAX_BATCH_RESPONSE: Final = 64 * 1024 * 1024
"""Calls in a batch as in go-ethereum; of its answers, more than this many bytes are not held in memory."""

Ask = Callable[[Call, bytes, bytes, EarlyAnswer | None], Awaitable[Reply]]
"""(call, id, body, where a large reply may begin before all of it is there) -> the multiplexer's reply."""

_JSON_HEADERS: Final = Headers({"content-type": JSON})
_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_HEALTH_TEXTS: Final = {
    Health.OK: b"OK",
    Health.PARTIAL: b"Partial Content",
    Health.UNAVAILABLE: b"Service Unavailable",
}
_CALL_NAMES: Final[dict[type[Call], str]] = {
    ForkchoiceUpdated: "forkchoice_updated",
    GetPayload: "get_payload",
    NewPayload: "new_payload",
    Mirrored: "mirrored",
    Other: "other",
}


class Frontend:
    """Turns HTTP requests into calls. ``health`` answers the status of /healthz, ``facts`` its reasons."""

    def __init__(
        self,
        secret: bytes,
        ask: Ask,
        health: Callable[[], Health],
        metrics: EngineMetrics,
        *,
        facts: Callable[[], list[HealthFact]] = list,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._ask = ask
        self._health = health
        self._facts = facts
        self._wall_clock = wall_clock
        self._unauthorized = metrics.unauthorized
        self._requests = {kind: metrics.requests.labels(name) for kind, name in _CALL_NAMES.items()}

    def on_head(self, method: str, target: str, headers: Headers) -> HttpResponse | None:
        """The answer to what needs no body, and to a call without a good token; None for a call to be read.

        The probes need no token (rollup-boost's paths, on the same port).
        """
        path = HttpRequest(method, target, headers).path
        if path == "/healthz":
            status = self._health()
            lines = [_HEALTH_TEXTS[status], *map(_fact_line, self._facts())]
            return HttpResponse(int(status), b"\n".join(lines), _TEXT)
        if path in {"/readyz", "/livez"}:
            return HttpResponse(200, b"OK", _TEXT)
        if method != "POST":
            return HttpResponse(405, b"JSON-RPC calls are POST requests\n", (*_TEXT, ("allow", "POST")))
        try:
            jwt.verify(self._secret, headers.get("authorization"), self._wall_clock())
        except jwt.Unauthorized as error:
            self._unauthorized.inc()
            return HttpResponse(401, f"{error}\n".encode(), _TEXT)
        return None

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one HTTP request. A head that the server has not admitted is judged here: no call without a token."""
        if not request.admitted:
            answer = self.on_head(request.method, request.target, request.headers)
            if answer is not None:
                return answer
        return await self._answer(request.body, request.early)

    async def _answer(self, body: bytes, early: EarlyAnswer | None) -> HttpResponse:
        try:
            if is_batch(body):
                return await self._batch(body)
            request = decode_request(body)
        except RequestError as error:
            return _json(encode_error(error.identifier, error.code, str(error)))
        reply = await self._call(request, body, None if request.is_notification else early)
        if request.is_notification:
            return HttpResponse(reply.status)  # JSON-RPC 2.0, 4.1: no answer, not even an error
        return HttpResponse(reply.status, reply.body, _headers(reply.content_type))

    async def _call(self, request: Request, body: bytes, early: EarlyAnswer | None = None) -> Reply:
        call = decode_call(request)
        self._requests[type(call)].inc()
        return await self._ask(call, bytes(request.id), body, early)

    async def _batch(self, body: bytes) -> HttpResponse:
        elements = decode_batch(body, limit=MAX_BATCH)
        if all(_is_for_the_el(element) for element in elements):
            return await self._forward_batch(body, elements)
        return _json(encode_batch(await self._one_by_one(elements)))

    async def _forward_batch(self, body: bytes, elements: list[msgspec.Raw]) -> HttpResponse:
        """A batch of which no call is our business goes to the EL whole and comes back as it is."""
        self._requests[Other].inc(len(elements))
        reply = await self._ask(Other(), NULL_ID, body, None)
        if not reply.failure:
            return HttpResponse(reply.status, reply.body, _headers(reply.content_type))
        wanted = [request for element in elements if not (request := decode_request(element)).is_notification]
        errors = [encode_error(bytes(request.id), INTERNAL_ERROR, reply.failure) for request in wanted]
        return _json(encode_batch(errors))

    async def _one_by_one(self, elements: list[msgspec.Raw]) -> list[bytes]:
        """In order: a batch may hold newPayload and the forkchoiceUpdated that builds on it."""
        answers: list[bytes] = []
        room = MAX_BATCH_RESPONSE
        for element in elements:
            answer = await self._element(element, room)
            if answer is not None:
                answers.append(answer)
                room -= len(answer)
        return answers

    async def _element(self, element: msgspec.Raw, room: int) -> bytes | None:
        try:
            request = decode_request(element)
        except RequestError as error:
            return encode_error(error.identifier, error.code, str(error))
        if room <= 0:
            return encode_error(bytes(request.id), RESPONSE_TOO_LARGE, "the answers of this batch are too large")
        reply = await self._call(request, bytes(element))
        return None if request.is_notification else _as_element(reply, bytes(request.id))


def _fact_line(fact: HealthFact) -> bytes:
    return f"{fact.name}: {'well' if fact.healthy else 'not well'}, {fact.reason}".encode()


def _is_for_the_el(element: msgspec.Raw) -> bool:
    try:
        return isinstance(decode_call(decode_request(element)), Other)
    except RequestError:
        return False


def _as_element(reply: Reply, identifier: bytes) -> bytes:
    """An answer that is no JSON-RPC (an error page) would break the array that it goes into."""
    try:
        decode_response(reply.body)
    except DecodeError as error:
        return encode_error(identifier, INTERNAL_ERROR, f"l2 answered HTTP {reply.status}, {error}")
    return reply.body


def _json(body: bytes) -> HttpResponse:
    return HttpResponse(200, body, _JSON_HEADERS)


def _headers(content_type: str) -> Headers:
    return _JSON_HEADERS if content_type == JSON else Headers({"content-type": content_type})
