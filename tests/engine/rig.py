"""The whole engine on real sockets, between a fake op-node, a fake EL and fake builders."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
import trio.lowlevel
from prometheus_client import CollectorRegistry

from appliance.domain.health import Health
from appliance.engine.metrics import EngineMetrics
from appliance.engine.ports import FlashblockStream
from appliance.engine.service import Engine, EngineSettings
from appliance.engine.upstream import Upstream
from appliance.net.http import HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import open_listener
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, FakeUpstream, RecordingStream, accepts, answers, at_the_tip, block
from tests.support.ports import held_address

SECRET = b"\x22" * 32
LOCAL = m.Block("local")
EL_ID = "0x0e"
PATIENT_S = 30.0
"""Deadlines and timeouts that no test waits for: who is quick enough on a good day is so on a bad one."""


def execution_client() -> FakeUpstream:
    """An EL that does what it should."""
    return FakeUpstream(
        "l2",
        secret=b"\x33" * 32,
        behaviours={
            "engine_forkchoiceUpdatedV3": accepts(EL_ID),
            "engine_getPayloadV4": block(LOCAL),
            "engine_newPayloadV4": answers(m.verdict()),
            "eth_getBlockByNumber": at_the_tip,
        },
    )


def fake_builder(name: str) -> FakeUpstream:
    """A builder that does what it should; its block and payload id go by its name."""
    return FakeUpstream(
        name,
        behaviours={
            "engine_forkchoiceUpdatedV3": accepts(f"0x{name.encode().hex()}"),
            "engine_getPayloadV4": block(block_of(name)),
            "engine_newPayloadV4": answers(m.verdict()),
            "eth_getBlockByNumber": at_the_tip,
        },
    )


def block_of(name: str) -> m.Block:
    """The block that a builder of this name makes."""
    return m.Block(f"{name}'s", transactions=("0x02" + name.encode().hex(),))


@dataclass
class Rig:
    """What a test holds in its hands."""

    engine: Engine
    el: FakeUpstream
    builders: dict[str, FakeUpstream]
    client: HttpClient
    registry: CollectorRegistry
    nursery: trio.Nursery
    stopping: trio.Event
    finished: trio.Event = field(default_factory=trio.Event)

    async def post(self, body: bytes, token: str | None = None, client: HttpClient | None = None) -> HttpResponse:
        """As op-node does; with another ``client``, as someone else beside it."""
        token = token or f"Bearer {jwt.sign(SECRET, time.time())}"
        return await (client or self.client).request("POST", "/", {"authorization": token}, body, timeout_s=SOON_S)

    async def ask(self, body: bytes) -> bytes:
        """A call that is answered with HTTP 200."""
        response = await self.post(body)
        assert response.status == 200
        return response.body

    async def get(self, path: str) -> HttpResponse:
        """As op-conductor does."""
        return await self.client.request("GET", path, timeout_s=SOON_S)

    async def healthy(self) -> None:
        """Wait until /healthz answers 200."""
        with trio.fail_after(SOON_S):
            while self.engine.health() is not Health.OK:
                await trio.lowlevel.checkpoint()

    async def order_build(self) -> None:
        """A build; who has joined it is another matter."""
        await self.ask(m.build())

    async def joined(self, stream: RecordingStream, *builders: str) -> None:
        """Wait until these have joined the newest build."""
        with trio.fail_after(SOON_S):
            while not {call[2] for call in stream.calls if call[0] == "builder_joined"} >= set(builders):
                await trio.lowlevel.checkpoint()

    async def waiting(self, count: int) -> None:
        """Wait until so many calls of op-node wait for their reply."""
        with trio.fail_after(SOON_S):
            while self.engine.statistics()["waiting_requests"] != count:
                await trio.lowlevel.checkpoint()

    def metric(self, name: str, **labels: str) -> float:
        """As a scrape a moment later has it: what is counted after the answer is counted here."""
        self.engine.statistics()
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def rig(
    *names: str,
    settings: EngineSettings | None = None,
    stream: FlashblockStream | None = None,
    timeout_s: float = PATIENT_S,
    drain_timeout_s: float = 1.0,
) -> AsyncIterator[Rig]:
    """An engine with builders of these names; everything ends with the block."""
    settings = settings or EngineSettings(SECRET, builder_deadline_s=PATIENT_S)
    settings = replace(settings, drain_timeout_s=drain_timeout_s)
    el, builders = execution_client(), {name: fake_builder(name) for name in names}
    registry, stopping = CollectorRegistry(), trio.Event()
    metrics = EngineMetrics.create(registry)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for fake in (el, *builders.values()):
            fake.address = stack.enter_context(held_address())
            await nursery.start(fake.run)
        upstreams = [
            await stack.enter_async_context(Upstream(fake.name, fake.url, fake.secret, metrics, timeout_s=timeout_s))
            for fake in (el, *builders.values())
        ]
        engine = Engine(settings, upstreams[0], tuple(upstreams[1:]), stream or RecordingStream(), metrics)
        async with trio.open_nursery() as engine_nursery:

            async def start(*, task_status: trio.TaskStatus[object]) -> None:
                await engine.run(open_listener("127.0.0.1:0"), stopping=stopping, task_status=task_status)

            server = await engine_nursery.start(start)
            async with HttpClient(f"http://{server.address}") as client:
                yield Rig(engine, el, builders, client, registry, nursery, stopping)
            stopping.set()
        nursery.cancel_scope.cancel()
