"""The HTTP face: paths, rate limits, log lines, status."""

import io
import json

import pytest
from structlog.testing import capture_logs

from appliance.lb.rate_limit import Rate
from appliance.telemetry import logging as telemetry
from tests.lb.test_failures import HIGH, replaced
from tests.lb.world import CALL, COOL, FakeNode, answers, world


async def test_the_other_paths() -> None:
    async with world(FakeNode()) as w:
        root = await w.get("/")
        assert (root.status, root.body) == (200, b"prio-load-balancer\n")
        assert (await w.get("/healthz")).body == b"OK\n"
        assert (await w.get("/nowhere")).status == 404
        assert (await w.client.request("POST", "/nowhere", timeout_s=60)).status == 404
        assert (await w.call(path="/?key=1")).body == COOL


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/", "GET, HEAD, POST"),
        ("GET", "/sim", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/nodes", "GET, POST, DELETE"),
    ],
)
async def test_another_method_is_told_which_there_are(method: str, path: str, allowed: str) -> None:
    async with world() as w:
        refused = await w.client.request(method, path, timeout_s=60)
        assert (refused.status, refused.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("by_key", [False, True])
async def test_over_its_rate_a_client_gets_429(by_key: bool) -> None:
    rates = {"key_rate": Rate(0.001, 2)} if by_key else {"instance_rate": Rate(0.001, 2)}
    async with world(FakeNode(), settings=replaced(**rates)) as w:
        statuses = [(await w.call(headers={"X-Api-Key": "a"})).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await w.call(headers={"X-Api-Key": "a"})
        limit = "key" if by_key else "instance"
        text = f"too many requests: over the limit of this {limit}\n".encode()
        assert (refused.body, int(refused.headers["retry-after"]) >= 1) == (text, True)
        assert (await w.call(headers={"X-Api-Key": "b"})).status == (200 if by_key else 429)
        assert (await w.get("/healthz")).status == 200
        assert w.metric("lb_rate_limited_total", limit=limit) == w.metric("lb_answers_total", status="4xx") >= 2


async def test_clients_without_a_key_are_told_apart_by_address() -> None:
    async with world(FakeNode(), settings=replaced(key_rate=Rate(0.001, 1))) as w:
        assert [(await w.call()).status for _ in range(2)] == [200, 429]
        assert (await w.call(headers={"X-Api-Key": "address 127.0.0.1"})).status == 200


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(telemetry, "_targets", [telemetry.LogTarget(stream, json=True, shows_info=True)])
    return stream


async def test_log_lines_are_the_originals(lines: io.StringIO) -> None:
    node = FakeNode()
    async with world(node) as w:
        await w.call(headers=HIGH | {"X-Request-ID": "mine"})
    added, completed = map(json.loads, lines.getvalue().splitlines())
    assert (added["message"], added["level"], added["plane"]) == ("Request added to queue", "info", "lb")
    assert {key: added[key] for key in ("reqID", "requestIsHighPrio", "requestIsFastTrack")} == {
        "reqID": "mine",
        "requestIsHighPrio": True,
        "requestIsFastTrack": False,
    }
    assert (added["fastTrack"], added["highPrio"], added["lowPrio"]) == (0, 0, 0)
    assert completed["message"] == "Request completed"
    assert completed["payloadSize"] == len(CALL)
    assert (completed["statusCode"], completed["nodeURI"], completed["requestTries"]) == (200, node.url, 1)
    assert completed["durationMs"] >= 0
    for name in ("queueItems", "queueItemsFastTrack", "queueItemsHighPrio", "queueItemsLowPrio"):
        assert completed[name] == 0


async def test_a_refused_request_is_a_line_of_its_own_and_refusals_a_warning(lines: io.StringIO) -> None:
    with capture_logs() as logs:
        async with world() as w:
            for number in range(3):
                await w.call(headers=HIGH | {"X-Request-ID": f"r{number}"})
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["event"], line["reason"], line["requests"]) for line in warnings] == [
        ("requests refused", "no nodes available", 1),
        ("requests refused", "no nodes available", 2),  # at the end
    ]
    written = [json.loads(line) for line in lines.getvalue().splitlines()]
    refused = [line for line in written if line["message"] == "Request refused"]
    assert [line["reqID"] for line in refused] == ["r0", "r1", "r2"]
    assert {(line["reason"], line["requestIsHighPrio"], line["requestTries"]) for line in refused} == {
        ("no nodes available", True, 0)
    }


async def test_a_failed_try_is_found_by_its_requests_id() -> None:
    async with world(FakeNode(answers(479))) as w:
        with capture_logs() as logs:
            await w.call(headers={"X-Request-ID": "mine"})
            await w.call()
    tries = [line for line in logs if line["event"] == "Request proxying failed"]
    assert [line.get("reqID") for line in tries] == ["mine"] * 3 + [None] * 3
    assert "reqID" not in tries[-1]


async def test_log_lines_can_be_left_out(lines: io.StringIO) -> None:
    async with world(FakeNode(), settings=replaced(log_requests=False)) as w:
        await w.call()
    assert lines.getvalue() == ""


async def test_metrics_and_status() -> None:
    async with world(FakeNode()) as w:
        for headers in ({}, HIGH, {"X-Fast-Track": "true"}, {"X-Fast-Track": "yes"}):
            await w.call(headers=headers)
        assert w.metric("lb_requests_total", priority="low") == 2
        assert w.metric("lb_requests_total", priority="high") == 1
        assert w.metric("lb_answers_total", status="2xx") == 4
        assert w.metric("lb_queue_wait_seconds_count", priority="fast_track") == 1
        assert w.metric("lb_proxy_seconds_count", priority="low") == 2
        assert w.metric("lb_nodes", state="healthy") == 1
        assert w.metric("lb_queue_depth", priority="low") == 0
        assert w.metric("lb_in_flight") == 0
        status = w.lb.statistics()
        assert status["queue"] == {"fast_track": 0, "high": 0, "low": 0}
        assert json.dumps(status)
        assert w.lb.facts()[0].reason == "1 of 1 nodes get requests"
