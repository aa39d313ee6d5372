"""Thousands of connections that say nothing, up to the limit and over it: who has something to say is served."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from appliance.net.http import HttpRequest, HttpResponse
from appliance.net.http_client import HttpClient
from appliance.net.http_server import HttpLimits, HttpServer, open_listener
from tests.support.eventually import eventually

WANTED = 10_000
_SPARE = 300
CLIENT = Path(__file__).with_name("idle_client.py")


async def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, request.body)


def descriptors() -> int:
    """How many connections this process may hold, after raising its limit as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - _SPARE


async def test_ten_thousand_idle_connections_disturb_nobody(nursery: trio.Nursery) -> None:
    limit = min(WANTED, descriptors())
    if limit < 1000:
        pytest.skip(f"only {limit} descriptors")
    listener = open_listener("127.0.0.1:0")
    host, port = listener.getsockname()
    stopping = trio.Event()
    limits = HttpLimits(max_connections=limit + 1, idle_timeout_s=120, header_timeout_s=120)
    server = HttpServer(answer, listener, limits=limits, stopping=stopping, drain_timeout_s=1)
    await nursery.start(lambda task_status: server.run(task_status=task_status))
    async with HttpClient(f"http://{host}:{port}") as client:
        first = await client.request("POST", "/", body=b"before", timeout_s=5)
        idle = await trio.lowlevel.open_process(
            [sys.executable, str(CLIENT), host, str(port), str(limit), "200"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert idle.stdout is not None
        assert idle.stdin is not None
        with trio.fail_after(60):
            report = await idle.stdout.receive_some()
        served = [await client.request("POST", "/", body=b"meanwhile", timeout_s=5) for _ in range(20)]
        # The client keeps one connection; the rest are idle, and what is over the limit was told so.
        assert report.decode().split() == [str(limit), "held", "200", "refused"]
        assert server.statistics()["connections"] == limit + 1
        assert [first.body, *(each.body for each in served)] == [b"before"] + [b"meanwhile"] * 20
        await idle.stdin.aclose()
        assert await idle.wait() == 0
        await eventually(lambda: server.statistics()["connections"] == 1)
        last = await client.request("POST", "/", body=b"after", timeout_s=5)
        assert last.body == b"after"
    stopping.set()
