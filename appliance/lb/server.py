"""The load balancer's HTTP face: prio-load-balancer's paths, headers and texts (REFERENCE, section 5)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import msgspec
import trio

from appliance.domain.errors import ApplianceError
from appliance.lb.dispatch import Dispatcher, Refusal
from appliance.lb.held_answers import HeldAnswers
from appliance.lb.metrics import LbMetrics
from appliance.lb.node import Node
from appliance.lb.node_set import NodeSet
from appliance.lb.queue import FAST_TRACK, HIGH, LOW
from appliance.lb.rate_limit import RateLimit
from appliance.lb.relay import Answer, Relay, Waiting
from appliance.lb.request_log import RequestLog
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.quick_session import GoOn, Turn
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


class _Call(Waiting, kw_only=True):
    """A request that is to be relayed; ``turn`` is set while no task has it."""

    high: bool
    size_at_start: int = 0
    face: "Face"
    turn: Turn | None = None

    def told(self, answer: Answer | None) -> None:
        """See `Waiting`."""
        self.face.told(self, answer)

    def crashed(self) -> bool:
        """See `Waiting`."""
        if self.turn is None:
            return False
        self.turn.fail()
        return True

    def hand_over(self, go_on: GoOn) -> None:
        """To the task of the client's connection."""
        if self.turn is None:
            raise AssertionError("its task has it already")
        self.turn.hand_over(go_on)
        self.turn = None


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
        if _is_proxied(request):
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

    def begin(self, request: HttpRequest, turn: Turn) -> bool:
        """The server's quick handler: to a free worker at once, without a task. What has to wait is handed over."""
        if not _is_proxied(request):
            return False
        if self._limit.active and (refused := self._over_rate(request)) is not None:
            turn.hand_over(partial(_ready, refused))
            return True
        call = self._take_in(request)
        call.turn = turn
        try:
            self._begin(call, turn)
        except Exception:
            if call.turn is not None:
                self._relay.drop(call)
            raise
        return True

    def _begin(self, call: _Call, turn: Turn) -> None:
        placed = self._submit(call)
        if not isinstance(placed, Node):
            call.hand_over(partial(self._complete, call, placed))
        elif self._relay.begin(call, call.created, alone=True):
            turn.on_cancel = partial(self._give_up, call)
        else:
            call.hand_over(partial(self._resume, call))

    def told(self, call: _Call, answer: Answer | None) -> None:
        """The first try is over; without an answer where there is more to do than to pass one on."""
        if answer is None or call.turn is None:
            call.hand_over(partial(self._resume, call))
        else:
            call.turn.reply(self._answer(call, answer))

    async def _proxy(self, request: HttpRequest) -> HttpResponse:
        if self._limit.active and (refused := self._over_rate(request)) is not None:
            return refused
        call = self._take_in(request)
        with self._dropped_on_failure(call):
            placed = self._submit(call)
        return await self._complete(call, placed)

    def _over_rate(self, request: HttpRequest) -> HttpResponse | None:
        over = self._limit.over(self._key(request), trio.current_time())
        if over is None:
            return None
        self._metrics.rate_limited[over.limit].inc()
        self._answers[4] += 1
        text = f"too many requests: over the limit of this {over.limit}"
        self._log.rate_limited(text)
        return _text(429, text, over.wait_s)

    def _take_in(self, request: HttpRequest) -> _Call:
        header = request.headers.as_dict().get
        high = header("x-high-priority") == "true" or header("high_prio") == "true"
        priority = HIGH if high else LOW
        if header("x-fast-track") == "true":
            priority = FAST_TRACK
        self._metrics.requests.counts[priority] += 1
        request_id = header("x-request-id")
        return _Call(priority, trio.current_time(), body=request.body, high=high, request_id=request_id, face=self)

    def _submit(self, call: _Call) -> Node | Refusal | None:
        placed = Refusal.HELD_FULL if self._held.full else self._relay.submit(call)
        sizes = self._dispatcher.queue.sizes()
        call.size_at_start = sizes[call.priority]
        if not isinstance(placed, Refusal):
            self._log.added(call, call.high, call.request_id, sizes)
        return placed

    async def _complete(self, call: _Call, placed: Node | Refusal | None) -> HttpResponse:
        with self._dropped_on_failure(call):
            return self._answer(call, await self._relay.complete(call, placed))

    async def _resume(self, call: _Call) -> HttpResponse:
        with self._dropped_on_failure(call):
            return self._answer(call, await self._relay.resume(call))

    @contextmanager
    def _dropped_on_failure(self, call: _Call) -> Iterator[None]:
        """A bug, or a client that goes away, must leave no place in the queue taken, and no worker."""
        try:
            yield
        except BaseException as error:
            self._relay.drop(call)
            if isinstance(error, trio.Cancelled):
                self._cancelled(call)
            raise

    def _give_up(self, call: _Call) -> None:
        self._relay.drop(call)
        self._cancelled(call)

    def _cancelled(self, call: _Call) -> None:
        self._metrics.cancelled.inc()
        log.info("Client closed the connection prematurely", requestTries=call.tries, **call.log_facts())

    def _answer(self, call: _Call, answer: Answer | Refusal) -> HttpResponse:
        if isinstance(answer, Refusal):
            self._answers[5] += 1
            self._log.refused(call, call.high, call.request_id, len(call.body), answer.value)
            return _text(503, answer.value, _RETRY_AFTER_S)
        total_s = answer.at - call.created
        sizes = self._dispatcher.queue.sizes()
        if not self._held.has_room(len(answer.body)):
            self._metrics.refused[Refusal.HELD_FULL].inc()
            return self._answer(call, Refusal.HELD_FULL)
        headers = _headers(answer, total_s, call.size_at_start, sizes[call.priority])
        self._answers[answer.status // 100] += 1
        self._log.completed(call, call.high, call.request_id, len(call.body), answer, total_s, sizes)
        return self._held.response(answer.status, answer.body, headers)

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
                problem = (await self._nodes.add(uri, None, who)).unkept
            else:
                problem = await self._nodes.remove(uri, who)
        except ApplianceError as error:
            return _text(400, str(error))
        return HttpResponse(200) if problem is None else _text(200, problem)


def _is_proxied(request: HttpRequest) -> bool:
    return request.method == "POST" and (request.target in _PROXIED or request.path in _PROXIED)


async def _ready(response: HttpResponse) -> HttpResponse:
    return response


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
