"""A whole plane on real sockets: one group in front of simulated endpoints, and clients of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import trio
from prometheus_client import CollectorRegistry

from appliance.net.http import HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import open_listener
from appliance.net.websocket_client import Inbox, Send, conversation
from appliance.providers.endpoint_health import Thresholds
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.service import Providers
from appliance.providers.settings import EndpointSettings, GroupSettings
from tests.providers.chain import Chain
from tests.providers.endpoint import Endpoint
from tests.support.eventually import eventually

# Short times, so that what takes minutes takes seconds here. What an endpoint has for an answer is not among them:
# a machine that has other things to do lets a process wait for seconds.
QUICK = GroupSettings(
    name="l1",
    endpoints=(),
    thresholds=Thresholds(return_after_s=0.2, max_head_age_s=30, max_head_lag=3),
    probe_interval_s=0.05,
    poll_interval_s=0.02,
    timeout_s=30.0,
    deadline_s=60.0,
    drain_timeout_s=1.0,
    ping_interval_s=0.2,
    pong_timeout_s=30.0,
)
IMPATIENT = replace(QUICK, timeout_s=1.5, deadline_s=60.0, pong_timeout_s=1.5)
"""For endpoints that hang."""


@dataclass
class WebsocketClient:
    """A client of the group over a websocket."""

    inbox: Inbox
    send: Send
    notifications: list[dict[str, Any]] = field(default_factory=list)
    _next_id: int = 1

    async def call(self, method: str, *params: Any) -> Any:
        """The result; AssertionError for an error."""
        answer = await self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """The whole answer; notifications that come before it are kept."""
        identifier, self._next_id = self._next_id, self._next_id + 1
        call = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}
        await self.send(msgspec.json.encode(call).decode())
        with trio.fail_after(60):
            while (message := await self._next()).get("id") != identifier:
                self.notifications.append(message)
        return message

    async def notification(self) -> Any:
        """The result of the next notification."""
        return (await self.whole_notification())["result"]

    async def whole_notification(self) -> dict[str, Any]:
        """Subscription and result."""
        with trio.fail_after(60):
            message = self.notifications.pop(0) if self.notifications else await self._next()
        params: dict[str, Any] = message["params"]
        return params

    async def heads(self, count: int) -> list[int]:
        """The numbers of the next heads."""
        return [int((await self.notification())["number"], 16) for _ in range(count)]

    async def _next(self) -> dict[str, Any]:
        body, _ = await anext(self.inbox)
        message: dict[str, Any] = msgspec.json.decode(body)
        return message


@dataclass
class Rig:
    """What a test holds in its hands."""

    chain: Chain
    endpoints: dict[str, Endpoint]
    providers: Providers
    registry: CollectorRegistry
    nursery: trio.Nursery
    stopping: trio.Event
    address: str
    client: HttpClient

    async def post(self, body: bytes) -> HttpResponse:
        return await self.client.request("POST", None, (("content-type", "application/json"),), body, timeout_s=120)

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """The whole answer over HTTP."""
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": "a", "method": method, "params": params})
        answer: dict[str, Any] = msgspec.json.decode((await self.post(body)).body)
        assert answer["id"] == "a"
        return answer

    async def call(self, method: str, *params: Any) -> Any:
        """The result over HTTP; AssertionError for an error."""
        answer = await self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[WebsocketClient]:
        async with conversation(
            f"ws://{self.address}/",
            ping_interval_s=60,
            pong_timeout_s=60,
            connect_timeout_s=60,
            max_message_bytes=2**24,
        ) as (inbox, send):
            yield WebsocketClient(inbox, send)

    def status(self, name: str) -> dict[str, Any]:
        """An endpoint's part of the status."""
        group: Any = self.providers.statistics()["groups"]
        found: dict[str, Any] = next(each for each in group["l1"]["endpoints"] if each["name"] == name)
        return found

    @property
    def active(self) -> str | None:
        group: Any = self.providers.statistics()["groups"]
        name: str | None = group["l1"]["active"]
        return name

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def until_active(self, name: str | None) -> None:
        await eventually(lambda: self.active == name)

    async def until_known(self) -> None:
        """Each endpoint has answered a probe."""
        await eventually(lambda: all(self.status(name)["head"] is not None for name in self.endpoints))

    def mine(self, count: int = 1) -> None:
        """Blocks that every endpoint shows, and pushes where it can."""
        for _ in range(count):
            block = self.chain.mine()
            for endpoint in self.endpoints.values():
                if endpoint.head == block:
                    endpoint.announce(block)


@asynccontextmanager
async def rig(settings: GroupSettings = QUICK, **schemes: str) -> AsyncIterator[Rig]:
    """Endpoints by name, each "http" or "ws"; everything ends with the block."""
    chain = Chain()
    chain.mine_many(3)
    endpoints = {name: Endpoint(name, chain) for name in schemes}
    registry, stopping = CollectorRegistry(), trio.Event()
    async with trio.open_nursery() as nursery:
        for endpoint in endpoints.values():
            await endpoint.start(nursery)
        urls = {name: each.websocket_url if schemes[name] == "ws" else each.url for name, each in endpoints.items()}
        group = replace(settings, endpoints=tuple(EndpointSettings(name, url) for name, url in urls.items()))
        providers = Providers([group], ProviderMetrics.create(registry))
        listener = open_listener("127.0.0.1:0")
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with trio.open_nursery() as serving:

            async def run(*, task_status: trio.TaskStatus[None]) -> None:
                await providers.run({"l1": listener}, stopping=stopping, task_status=task_status)

            await serving.start(run)
            async with HttpClient(f"http://{address}/") as client:
                yield Rig(chain, endpoints, providers, registry, serving, stopping, address, client)
            stopping.set()
        for endpoint in endpoints.values():
            endpoint.resume()
        nursery.cancel_scope.cancel()
