"""The load balancer's HTTP face: prio-load-balancer's paths, headers and texts (REFERENCE, section 5)."""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import trio

from appliance.domain.errors import ApplianceError
from appliance.lb.dispatch import Dispatcher, Refusal
from appliance.lb.held_answers import HeldAnswers
from appliance.lb.metrics import LbMetrics
from appliance.lb.node import Node
from appliance.lb.node_set import NodeSet
from appliance.lb.queue import Priority
from appliance.lb.rate_limit import RateLimit
from appliance.lb.relay import Answer, Relay, Waiting
from appliance.lb.request_log import RequestLog
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.telemetry.logging import get_logger
from appliance.wire.jsonrpc import MALFORMED

log = get_logger("lb")

TOO_LARGE: Final = (400, "Payload too large")
_PROXIED: Final = frozenset({"/", "/sim"})
_PAGES: Final = {"/": ("GET", "HEAD", "POST"), "/sim": ("POST",), "/healthz": ("GET", "HEAD")}
_TEXT: Final = Headers({"content-type": "text/plain; charset=utf-8"})
_JSON: Final = Headers({"content-type": "application/json"})
_RETRY_AFTER_S: Final = 1
_ANSWER_LINES: Final = (
    b"content-type: %b\r\nX-PrioLB-QueueDurationUs: %d\r\nX-PrioLB-SimDurationUs: %d\r\n"
    b"X-PrioLB-TotalDurationUs: %d\r\nX-PrioLB-QueueSizeStart: %d\r\nX-PrioLB-QueueSizeEnd: %d\r\n"
)


class _NodeBody(msgspec.Struct):
    """The body of POST and DELETE /nodes; other keys are ignored, as ever."""

    uri: Annotated[str, msgspec.Meta(max_length=16_384)]


@dataclass(frozen=True, slots=True)
class FaceSettings:
    """``key_header`` names a client for the rate limit, in lower case; ``nodes_api`` lets `/nodes` change nodes."""

    key_header: str = "x-api-key"
    nodes_api: bool = True


class Face:
    """Answers HTTP requests. One object for one run of the plane."""

    def __init__(
        self,
        settings: FaceSettings,
        dispatcher: Dispatcher[Waiting, Node],
        relay: Relay,
        nodes: NodeSet,
        limit: RateLimit,
        held: HeldAnswers,
        metrics: LbMetrics,
        request_log: RequestLog,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._relay = relay
        self._nodes = nodes
        self._limit = limit
        self._held = held
        self._metrics = metrics
        self._log = request_log
        self._answers = metrics.answers.counts

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The server's handler."""
        if request.method == "POST" and (request.target in _PROXIED or request.path in _PROXIED):
            return await self._proxy(request)
        if request.path == "/nodes":
            return await self._nodes_request(request)
        return self._page(request)

    def _page(self, request: HttpRequest) -> HttpResponse:
        allowed = _PAGES.get(request.path)
        if allowed is None:
            return _text(404, "404 page not found")
        if request.method not in allowed:
            return _not_allowed(*allowed)
        if request.path == "/":
            return _text(200, "prio-load-balancer")
        refusal = self._dispatcher.refusal()
        return _text(200, "OK") if refusal is None else _text(503, refusal.value)

    async def _proxy(self, request: HttpRequest) -> HttpResponse:
        headers = request.headers
        now = trio.current_time()
        if self._limit.active:
            wait_s = self._limit.admit(self._key(request), now)
            if wait_s:
                self._metrics.rate_limited.inc()
                self._answers[4] += 1
                return _text(429, "too many requests", wait_s)
        high = headers.get("x-high-priority") == "true" or headers.get("high_prio") == "true"
        priority = Priority.HIGH if high else Priority.LOW
        if headers.get("x-fast-track") == "true":
            priority = Priority.FAST_TRACK
        job = Waiting(priority, now)
        self._metrics.requests.counts[priority] += 1
        request_id = headers.get("x-request-id")
        try:
            return await self._relayed(job, request.body, high, request_id)
        except trio.Cancelled:
            self._metrics.cancelled.inc()
            log.info("Client closed the connection prematurely", reqID=request_id, requestTries=job.tries)
            raise

    async def _relayed(self, job: Waiting, body: bytes, high: bool, request_id: str | None) -> HttpResponse:
        if self._held.full:
            return self._held_full(request_id)
        placed = self._relay.submit(job)
        start = self._dispatcher.queue.sizes()
        logged = self._log.enabled
        if logged and not isinstance(placed, Refusal):
            self._log.added(job, high, request_id, start)
        answer = await self._relay.complete(job, placed, body)
        if isinstance(answer, Refusal):
            return self._refuse(answer, request_id)
        total_s = trio.current_time() - job.created
        end = self._dispatcher.queue.sizes()
        headers = _headers(answer, total_s, start[job.priority], end[job.priority])
        response = self._held.response(answer.status, answer.body, headers)
        if response is None:
            return self._held_full(request_id)
        self._answers[answer.status // 100] += 1
        if logged:
            self._log.completed(job, high, request_id, len(body), answer, total_s, end)
        return response

    def _held_full(self, request_id: str | None) -> HttpResponse:
        self._metrics.refused[Refusal.HELD_FULL].inc()
        return self._refuse(Refusal.HELD_FULL, request_id)

    def _refuse(self, refusal: Refusal, request_id: str | None) -> HttpResponse:
        self._answers[5] += 1
        log.warning("request refused", reason=refusal.value, reqID=request_id)
        return _text(503, refusal.value, _RETRY_AFTER_S)

    def _key(self, request: HttpRequest) -> str:
        """What a client says it is, else its address; a prefix keeps the one from being taken for the other."""
        said = request.headers.get(self._settings.key_header)
        return f"address {request.peer}" if said is None else f"key {said[:128]}"

    async def _nodes_request(self, request: HttpRequest) -> HttpResponse:
        if request.method == "GET":
            return HttpResponse(200, msgspec.json.encode(self._nodes.uris()) + b"\n", _JSON)
        if request.method not in ("POST", "DELETE"):
            return _not_allowed("GET", "POST", "DELETE")
        if not self._settings.nodes_api:
            return _text(403, "nodes are changed by the admin API only")
        try:
            uri = msgspec.json.decode(request.body, type=_NodeBody).uri
        except MALFORMED as error:
            return _text(400, f'expected {{"uri": …}}: {error}')
        who = f"nodes api {request.peer}"
        try:
            if request.method == "POST":
                await self._nodes.add(uri, None, who)
            else:
                await self._nodes.remove(uri, who)
        except ApplianceError as error:
            return _text(400, str(error))
        return HttpResponse(200)


def _headers(answer: Answer, total_s: float, size_at_start: int, size_at_end: int) -> Headers:
    lines = _ANSWER_LINES % (
        answer.content_type,
        int(answer.queue_s * 1e6),
        int(answer.proxy_s * 1e6),
        int(total_s * 1e6),
        size_at_start,
        size_at_end,
    )
    return Headers.encoded(lines)


def _not_allowed(*allowed: str) -> HttpResponse:
    return HttpResponse(405, b"method not allowed\n", Headers({**_TEXT, "allow": ", ".join(allowed)}))


def _text(status: int, text: str, retry_after_s: int = 0) -> HttpResponse:
    headers = _TEXT if not retry_after_s else Headers({**_TEXT, "retry-after": str(retry_after_s)})
    return HttpResponse(status, text.encode("utf-8", "replace") + b"\n", headers)
