"""The load balancer on real sockets, in front of nodes that do what a test says."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import msgspec
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from appliance.domain.lb_nodes import AddedNode
from appliance.lb.attestation import NO_VERIFIERS, Verifiers
from appliance.lb.checks import CheckRules
from appliance.lb.metrics import LbMetrics
from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.node_set import DeclaredNode, NodeStore
from appliance.lb.relay import RelayRules
from appliance.lb.service import LbSettings, LoadBalancer
from appliance.net.http import HeaderItems, HttpRequest, HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import HttpLimits, open_listener, serve_http

CALL = b'{"jsonrpc":"2.0","method":"eth_callBundle","params":[],"id":1}'
COOL = b'{"id":1,"result":"cool","jsonrpc":"2.0"}\n'
CHECK_METHOD = b"net_version"

# Checks are rare unless a test is about them, and a node that fails once is not out at once.
SETTINGS = LbSettings(
    nodes=NodeSettings(default_workers=4, health=HealthRules(max_fails=3, check_interval_s=600.0)),
    relay=RelayRules(queue_timeout_s=30.0, handover_timeout_s=20.0, proxy_timeout_s=10.0),
    checks=CheckRules(timeout_s=5.0),
    drain_timeout_s=5.0,
)

Behaviour = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass
class FakeNode:
    """A JSON-RPC node: answers ``cool``, or what ``behaviour`` does. Checks are answered apart from it."""

    behaviour: Behaviour | None = None
    check_status: int = 200
    requests: list[HttpRequest] = field(default_factory=list)
    checks: int = 0
    running: int = 0
    most_running: int = 0
    cancelled: int = 0
    url: str = ""

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if CHECK_METHOD in request.body:
            self.checks += 1
            return HttpResponse(self.check_status, b'{"id":1,"result":"1","jsonrpc":"2.0"}')
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        if self.behaviour is not None:
            return await self.behaviour(request)
        return HttpResponse(200, COOL, [("Content-Type", "application/json")])


class Gate:
    """A behaviour that holds each request until the test lets it go."""

    def __init__(self) -> None:
        self.waiting: list[trio.Event] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        event = trio.Event()
        self.waiting.append(event)
        await event.wait()
        return HttpResponse(200, COOL)

    def open_one(self) -> None:
        self.waiting.pop(0).set()

    def open_all(self) -> None:
        while self.waiting:
            self.open_one()


def answers(status: int, body: bytes = b"error\n") -> Behaviour:
    async def behave(_: HttpRequest) -> HttpResponse:
        return HttpResponse(status, body)

    return behave


def hangs_till_its_time_is_up(clock: MockClock, timeout_s: float) -> Behaviour:
    """Never an answer, and so much time passes at once: none that somebody needs for something else."""

    async def behave(request: HttpRequest) -> HttpResponse:
        clock.jump(timeout_s)
        return await hang(request)

    return behave


async def hang(_: HttpRequest) -> HttpResponse:
    """Never an answer."""
    await trio.sleep_forever()
    raise AssertionError("unreachable")


@asynccontextmanager
async def fake_node(node: FakeNode | None = None) -> AsyncGenerator[FakeNode, None]:
    """Serve it, on a port of the kernel's choice."""
    node = node or FakeNode()
    listener = open_listener("127.0.0.1:0")
    node.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_http,
            node.handle,
            listener,
            limits=HttpLimits(),
            stopping=trio.Event(),
            drain_timeout_s=0.0,
            cancel_on_disconnect=True,
        )
        await nursery.start(serve)
        yield node
        nursery.cancel_scope.cancel()


@dataclass
class MemoryStore:
    """Added nodes, without a disk."""

    kept: dict[str, AddedNode] = field(default_factory=dict)

    def lb_nodes(self) -> list[AddedNode]:
        return list(self.kept.values())

    def keep_lb_node(self, node: AddedNode) -> None:
        self.kept[node.url] = node

    def forget_lb_node(self, url: str) -> None:
        self.kept.pop(url, None)


@dataclass
class World:
    """A running load balancer. ``stopping`` set ends it."""

    lb: LoadBalancer
    address: str
    client: HttpClient
    stopping: trio.Event
    registry: CollectorRegistry
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def call(self, body: bytes = CALL, headers: HeaderItems = (), path: str = "/") -> HttpResponse:
        return await self.client.request("POST", path, headers, body, timeout_s=60.0)

    async def nodes(self, method: str, uri: str) -> HttpResponse:
        return await self.client.request(method, "/nodes", (), msgspec.json.encode({"uri": uri}), timeout_s=60.0)

    async def get(self, path: str) -> HttpResponse:
        return await self.client.request("GET", path, timeout_s=60.0)

    def sizes(self) -> tuple[int, int, int]:
        return self.lb._dispatcher.queue.sizes()

    def state(self, number: int = 0) -> str:
        return str(self.lb._nodes.nodes[number].health.state)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def world(
    *nodes: FakeNode | str | DeclaredNode,
    settings: LbSettings = SETTINGS,
    store: NodeStore | None = None,
    verifiers: Verifiers = NO_VERIFIERS,
) -> AsyncGenerator[World, None]:
    """Run one in front of ``nodes``: fake ones (served as well), URLs, or what the configuration would say."""
    async with AsyncExitStack() as stack:
        declared = []
        for node in nodes:
            if isinstance(node, FakeNode):
                await stack.enter_async_context(fake_node(node))
            declared.append(node if isinstance(node, DeclaredNode) else _declared(node))
        registry = CollectorRegistry()
        lb = LoadBalancer(settings, tuple(declared), LbMetrics.create(registry), store=store, verifiers=verifiers)
        made = await stack.enter_async_context(_running(lb, registry))
        yield made


def _declared(node: FakeNode | str) -> DeclaredNode:
    return DeclaredNode(node if isinstance(node, str) else node.url)


@asynccontextmanager
async def _running(lb: LoadBalancer, registry: CollectorRegistry) -> AsyncGenerator[World, None]:
    listener = open_listener("127.0.0.1:0")
    stopping, ended = trio.Event(), trio.Event()

    async def run(*, task_status: trio.TaskStatus[object]) -> None:
        await lb.run(listener, stopping=stopping, task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with HttpClient(f"http://{address}", max_connections=512) as client:
            yield World(lb, address, client, stopping, registry, ended)
        stopping.set()
        with trio.move_on_after(60) as scope:
            await ended.wait()
        assert not scope.cancelled_caught, "the load balancer did not end"
