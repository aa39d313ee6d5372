"""One upstream: a token of this second with each call, and errors that name it."""

import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import ConfigError, UnavailableError
from appliance.engine.metrics import EngineMetrics
from appliance.engine.upstream import Upstream
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_server import HttpLimits, HttpServer, open_listener
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, FakeUpstream, answers
from tests.support.ports import held_address

SECRET = b"\x11" * 32


async def test_each_call_has_a_token_of_its_own_second() -> None:
    seen: list[str] = []

    async def handle(request: HttpRequest) -> HttpResponse:
        seen.append(request.headers["authorization"])
        assert request.headers["content-type"] == "application/json"
        return HttpResponse(418, request.body)

    now = 1_700_000_000.75
    registry = CollectorRegistry()
    server = HttpServer(
        handle, open_listener("127.0.0.1:0"), limits=HttpLimits(), stopping=trio.Event(), drain_timeout_s=0
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        metrics = EngineMetrics.create(registry)
        url = f"http://{server.address}"
        async with Upstream("l2", url, SECRET, metrics, timeout_s=SOON_S, wall_clock=lambda: now) as upstream:
            for _ in range(3):
                response = await upstream.post(b"body")
                assert (response.status, response.body) == (418, b"body")
                now += 1
            assert repr(upstream) == f"<Upstream l2 {url}>"
            assert upstream.statistics()["failures"] == 0
        nursery.cancel_scope.cancel()
    assert len(set(seen)) == 3
    for second, header in enumerate(seen):
        jwt.verify(SECRET, header, 1_700_000_000 + second - jwt.MAX_DRIFT_S)
        with pytest.raises(jwt.Unauthorized):
            jwt.verify(SECRET, header, 1_700_000_000 + second - jwt.MAX_DRIFT_S - 1)
    assert registry.get_sample_value("engine_upstream_seconds_count", {"upstream": "l2"}) == 3


async def test_headers_are_made_once_per_second() -> None:
    now = 1_700_000_000.0
    upstream = Upstream(
        "l2", "http://127.0.0.1:1", SECRET, EngineMetrics.create(CollectorRegistry()), wall_clock=lambda: now
    )
    first = upstream._signed_headers()
    now += 0.9
    assert upstream._signed_headers() is first
    now += 0.2
    assert upstream._signed_headers()["authorization"] != first["authorization"]


async def test_a_failure_names_the_upstream_and_its_url_and_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics.create(registry)
    with held_address() as address:
        url = f"http://user:pass@{address}"
        async with Upstream("alpha", url, SECRET, metrics, timeout_s=SOON_S) as upstream:
            with pytest.raises(UnavailableError, match=f"^alpha.*http://{address}") as caught:
                await upstream.post(b"{}")
    assert "pass" not in str(caught.value)
    assert upstream.statistics()["failures"] == 1
    assert registry.get_sample_value("engine_upstream_failures_total", {"upstream": "alpha"}) == 1


def test_a_url_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        Upstream("l2", "ftp://x", SECRET, EngineMetrics.create(CollectorRegistry()))


async def test_an_answer_over_the_bound_is_none(nursery: trio.Nursery) -> None:
    fake = FakeUpstream("alpha", behaviours={"eth_chainId": answers(b"0" * 2000)})
    await nursery.start(fake.run)
    metrics = EngineMetrics.create(CollectorRegistry())
    async with Upstream("alpha", fake.url, fake.secret, metrics, timeout_s=SOON_S, max_answer_bytes=1000) as upstream:
        with pytest.raises(UnavailableError, match="body larger than 1000 bytes"):
            await upstream.post(m.request("eth_chainId", []))
        assert (await upstream.post(m.request("eth_chainId", []), pass_through=True)).status == 200
