"""Fakes around the engine: upstreams on real sockets that do as told, and a stream that writes down its calls."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from appliance.domain.assembled import AssembledPayload
from appliance.domain.health import HealthFact
from appliance.domain.payloads import BuildId, PayloadId
from appliance.engine.ports import Build
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer, open_listener
from appliance.wire import jwt
from appliance.wire.jsonrpc import decode_request, is_batch
from tests.engine import messages as m

MIB = 1024 * 1024
SOON_S = 60.0
"""What is sure to come is waited for this long: another machine is slow, or stands still for seconds."""
NEVER_S = 3600.0
"""Whoever waits for this long gets no answer: the rig's op-node gives up after `SOON_S`. So no time has to be measured,
and a machine that is busy makes no difference."""
LIMITS = HttpLimits(max_body_bytes=64 * MIB)

Behaviour = Callable[["FakeUpstream", HttpRequest], Awaitable[HttpResponse]]


def answers(body: bytes, status: int = 200, content_type: str = "application/json") -> Behaviour:
    """The same body each time; its id is the test's business."""

    async def behave(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
        return HttpResponse(status, body, (("content-type", content_type),))

    return behave


def block(block: m.Block, version: int = 4) -> Behaviour:
    """getPayload's answer under the id that was asked with."""

    async def behave(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, block.answer(identifier_of(request), version))

    return behave


def accepts(payload_id: str | None = None, status: str = "VALID") -> Behaviour:
    """forkchoiceUpdated's answer; a payload id only for attributes."""

    async def behave(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
        params = json.loads(request.body)["params"]
        given = payload_id if len(params) > 1 and params[1] else None
        return HttpResponse(200, m.forkchoice_answer(given, status, identifier_of(request)))

    return behave


async def at_the_tip(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
    """The latest block is of this second: neither old nor of the future, however long a test takes."""
    return HttpResponse(200, m.latest_block(int(time.time())))


async def hangs(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
    """Never answers."""
    await trio.sleep_forever()
    raise AssertionError


def gated(gate: trio.Event, behaviour: Behaviour) -> Behaviour:
    """As ``behaviour``, once the gate is open."""

    async def behave(upstream: "FakeUpstream", request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return await behaviour(upstream, request)

    return behave


def identifier_of(request: HttpRequest) -> object:
    return json.loads(request.body).get("id")


@dataclass
class FakeUpstream:
    """Engine API on a port of its own. ``behaviours`` by method name, looked at with each request.

    One that is to be stopped has an ``address`` that is held for it: else another program may get the port meanwhile.
    """

    name: str
    secret: bytes = b"\x11" * 32
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    arrived: trio.Condition = field(default_factory=trio.Condition)
    address: str = ""
    _stopping: trio.Event = field(default_factory=trio.Event)
    _over: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`; the same port each time."""
        self._stopping, self._over = trio.Event(), trio.Event()
        server = HttpServer(
            self.handle,
            open_listener(self.address or "127.0.0.1:0"),
            limits=LIMITS,
            stopping=self._stopping,
            drain_timeout_s=0,
        )
        self.address = server.address
        task_status.started()
        await server.run()
        self._over.set()

    async def stop(self) -> None:
        """Gone: connections are cut, and new ones refused."""
        self._stopping.set()
        with trio.fail_after(SOON_S):
            await self._over.wait()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        jwt.verify(self.secret, request.headers.get("authorization"), time.time())
        self.requests.append(request.body)
        async with self.arrived:
            self.arrived.notify_all()
        method = "batch" if is_batch(request.body) else decode_request(request.body).method
        behaviour = self.behaviours.get(method) or answers(m.error(-32601, "no such method"))
        return await behaviour(self, request)

    def bodies(self, method: str) -> list[bytes]:
        """The requests of a method so far, in order of arrival."""
        return [body for body in self.requests if f'"{method}"'.encode() in body]

    async def wait_for(self, method: str, count: int = 1) -> list[bytes]:
        """The requests of a method, once there are as many."""
        with trio.fail_after(SOON_S):
            async with self.arrived:
                while len(self.bodies(method)) < count:
                    await self.arrived.wait()
        return self.bodies(method)


@dataclass
class RecordingStream:
    """The engine's view of the flashblock plane, as a list of calls."""

    assembled: AssembledPayload | None = None
    fact: HealthFact | None = None
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def build_started(self, build: Build) -> None:
        self.calls.append(("build_started", build.build_id, build.builders))

    def build_confirmed(self, build_id: BuildId) -> None:
        self.calls.append(("build_confirmed", build_id))

    def build_abandoned(self, build_id: BuildId) -> None:
        self.calls.append(("build_abandoned", build_id))

    def builder_joined(self, build_id: BuildId, builder: str, payload_id: PayloadId) -> None:
        self.calls.append(("builder_joined", build_id, builder, payload_id))

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        self.calls.append(("seal", build_id))
        return self.assembled

    def payload_returned(self, build_id: BuildId, block_hash: str, *, holds_all: bool = False) -> None:
        self.calls.append(("payload_returned", build_id, block_hash))

    def head_changed(self, block_hash: str, block_number: int | None) -> None:
        self.calls.append(("head_changed", block_hash, block_number))

    def health(self) -> HealthFact | None:
        return self.fact

    def names(self) -> list[object]:
        return [call[0] for call in self.calls]


class BrokenStream(RecordingStream):
    """A bug in the other plane."""

    def build_started(self, build: Build) -> None:
        raise ZeroDivisionError("a bug")

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        raise ZeroDivisionError("a bug")

    def health(self) -> HealthFact | None:
        raise ZeroDivisionError("a bug")
