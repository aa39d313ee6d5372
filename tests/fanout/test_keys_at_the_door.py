"""API keys over real sockets: who comes in, who does not, and that no key is written down anywhere."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from appliance.fanout.api_keys import App
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.service import FanoutSettings
from tests.fanout.fakes import MemoryLog
from tests.fanout.serving import Serving, serving

ALPHA, ALPHA_NEXT, BETA = "alpha-key-0123456789", "alpha-next-0123456789", "beta-key-0123456789"


@asynccontextmanager
async def guarded(*, public: bool = False, max_per_ip: int = 100) -> AsyncIterator[Serving]:
    """A plane with two apps; alpha may have two subscribers."""
    apps = (App.create("alpha", [ALPHA, ALPHA_NEXT], 2), App.create("beta", [BETA], 100))
    log = MemoryLog()
    log.append(1, 0)
    async with serving(log, FanoutSettings(api_keys=apps, public_access=public, max_per_ip=max_per_ip)) as server:
        yield server


async def ask(server: Serving, target: str) -> tuple[int, str, dict[str, str]]:
    """Status, message and headers of the answer; the connection stays open."""
    client = await server.client()
    status, headers, body = await client.request(target)
    return status, "" if status == 101 else json.loads(body)["message"], headers


@pytest.mark.parametrize(
    "target", [f"/ws/{ALPHA}", f"/ws/{ALPHA_NEXT}", f"/ws/{BETA}/filter", f"/ws/{BETA}?block_number=1"]
)
async def test_who_has_a_key_gets_the_stream(target: str) -> None:
    async with guarded() as server:
        client = await server.client()
        status, _, _ = await client.request(target)
        assert status == 101
        assert (await client.frames(1))[0].payload == b'{"n":1,"index":0}'


@pytest.mark.parametrize("target", ["/ws/wrong-key-0123456789", f"/ws/{ALPHA[:-1]}", f"/ws/{BETA}x/filter", "/ws/%ff"])
async def test_a_wrong_key_is_401_with_a_message(target: str) -> None:
    async with guarded() as server:
        assert (await ask(server, target))[:2] == (401, "invalid API key")
        assert server.metrics.unauthorized_requests.value == 1


@pytest.mark.parametrize("target", ["/", "/ws", "/ws/filter", "/ws?block_number=nonsense"])
async def test_without_a_key_it_is_401_before_anything_else_is_said(target: str) -> None:
    async with guarded() as server:
        assert (await ask(server, target))[:2] == (401, "an API key is needed: connect to /ws/{api_key}")


async def test_public_access_lets_in_who_has_no_key_and_never_who_has_a_wrong_one() -> None:
    async with guarded(public=True) as server:
        assert (await ask(server, "/ws"))[0] == 101
        assert (await ask(server, f"/ws/{ALPHA}"))[0] == 101
        assert (await ask(server, "/ws/wrong-key-0123456789"))[0] == 401


async def test_where_no_key_is_configured_there_is_no_path_with_a_key() -> None:
    async with serving(MemoryLog()) as server:
        assert (await ask(server, f"/ws/{ALPHA}"))[0] == 404
        assert (await ask(server, "/ws/filter"))[0] == 101


async def test_an_app_has_so_many_subscribers_with_all_of_its_keys_together() -> None:
    async with guarded() as server:
        first = await server.client()
        assert (await first.request(f"/ws/{ALPHA}"))[0] == 101
        assert (await ask(server, f"/ws/{ALPHA_NEXT}"))[0] == 101
        status, message, headers = await ask(server, f"/ws/{ALPHA}")
        assert (status, message) == (429, "too many subscribers with the keys of this app")
        assert headers["retry-after"] == "5"
        assert (await ask(server, f"/ws/{BETA}"))[0] == 101
        await server.until("subscribers", 3)
        assert server.fanout.statistics()["apps"] == {"alpha": 2, "beta": 1}
        await first.stream.aclose()
        await server.until("subscribers", 2)
        assert (await ask(server, f"/ws/{ALPHA}"))[0] == 101


async def test_the_limit_of_an_address_holds_beside_that_of_an_app() -> None:
    async with guarded(max_per_ip=1) as server:
        assert (await ask(server, f"/ws/{BETA}"))[0] == 101
        assert (await ask(server, f"/ws/{ALPHA}"))[:2] == (429, "too many subscribers from this address")


async def test_apps_are_counted_by_name() -> None:
    registry = CollectorRegistry()
    metrics = FanoutMetrics.create(registry)
    metrics.connections_by_app.add("alpha", 3)
    metrics.subscribers_by_app.add("alpha")
    lines = generate_latest(registry).decode().splitlines()
    assert 'websocket_proxy_connections_by_app{app="alpha"} 3.0' in lines
    assert 'fanout_app_subscribers{app="alpha"} 1.0' in lines


async def test_no_key_is_in_any_log_line_metric_or_status() -> None:
    with structlog.testing.capture_logs() as lines:
        async with guarded() as server:
            for target in (f"/ws/{ALPHA}", f"/ws/{ALPHA}x", f"/ws/{BETA}?block_number=nonsense", f"/ws/{BETA}/nothing"):
                await ask(server, target)
            await server.until("subscribers", 1)
            said = repr(server.fanout.statistics()) + repr(server.metrics)
    for key in (ALPHA, BETA):
        assert key not in said + repr(lines)
    assert server.metrics.subscribers_by_app.values["alpha"] == 0
    assert server.metrics.connections_by_app.values["alpha"] == 1
