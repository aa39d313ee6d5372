"""Thousands of connections that say nothing, and take the whole limit: who has something to say is served."""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from appliance.net.errors import ConnectionBroken
from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import HttpLimits, HttpServer, open_listener
from tests.support.eventually import eventually

WANTED = 10_000
NEWCOMERS = 50
_SPARE = 300
CLIENT = Path(__file__).with_name("idle_client.py")


async def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, request.body)


def descriptors() -> int:
    """How many connections this process may hold, after raising its limit as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - _SPARE


async def newcomer_is_served(url: str) -> None:
    """It gets 503 (or a reset, when that is lost) only as long as no silent connection is a second old."""
    with trio.fail_after(60):
        while not await is_served(url):  # noqa: ASYNC110 there is no event for what becomes old enough
            await trio.sleep(0.1)


async def is_served(url: str) -> bool:
    async with HttpClient(url) as client:
        with suppress(ConnectionBroken):
            return (await client.request("POST", "/", body=b"new", timeout_s=60)).status == 200
    return False


async def test_ten_thousand_silent_connections_keep_nobody_out(nursery: trio.Nursery) -> None:
    limit = min(WANTED, descriptors())
    if limit < 1000:
        pytest.skip(f"only {limit} descriptors")
    listener = open_listener("127.0.0.1:0")
    host, port = listener.getsockname()
    stopping = trio.Event()
    limits = HttpLimits(max_connections=limit + 1, first_request_timeout_s=120)
    server = HttpServer(answer, listener, limits=limits, stopping=stopping, drain_timeout_s=1)
    await nursery.start(lambda task_status: server.run(task_status=task_status))
    url = f"http://{host}:{port}"
    async with HttpClient(url) as client:
        first = await client.request("POST", "/", body=b"before", timeout_s=60)
        idle = await trio.lowlevel.open_process(
            [sys.executable, str(CLIENT), host, str(port), str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert idle.stdout is not None
        assert idle.stdin is not None
        with trio.fail_after(60):
            report = await idle.stdout.receive_some()
        served = [await client.request("POST", "/", body=b"meanwhile", timeout_s=60) for _ in range(20)]
        # The client keeps one connection; the rest are silent, and that is the limit.
        assert report.decode().split() == [str(limit), "held"]
        await eventually(lambda: server.statistics()["connections"] == limit + 1)
        assert [first.body, *(each.body for each in served)] == [b"before"] + [b"meanwhile"] * 20
        for _ in range(NEWCOMERS):
            await newcomer_is_served(url)
        replaced = server.statistics()["replaced"]
        assert isinstance(replaced, int)
        assert 1 <= replaced <= NEWCOMERS  # one that has left makes room for the next, once the server has seen it
        await idle.stdin.aclose()
        assert await idle.wait() == 0
        await eventually(lambda: server.statistics()["connections"] == 1)
        last = await client.request("POST", "/", body=b"after", timeout_s=60)
        assert last.body == b"after"
    stopping.set()
