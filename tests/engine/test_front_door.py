"""The token is asked for before a body is read, and who says nothing keeps nobody out."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.engine.service import EngineSettings
from appliance.net.http_server import HttpLimits
from appliance.wire import jwt
from tests.engine import messages as m
from tests.engine.fakes import SOON_S
from tests.engine.rig import SECRET, Rig, rig
from tests.net.serving import Peer


@asynccontextmanager
async def connected(it: Rig) -> AsyncIterator[Peer]:
    host, _, port = it.client.origin.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield Peer(stream)


def head(size: int, token: str | None) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: x", "Expect: 100-continue", f"Content-Length: {size}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def server_of(it: Rig) -> dict[str, object]:
    server = it.engine.statistics()["server"]
    assert isinstance(server, dict)
    return server


@pytest.mark.parametrize(
    "token",
    [None, "x", jwt.sign(b"other" * 8, time.time()), jwt.sign(SECRET, 1)],
    ids=["none", "no token", "another secret", "old"],
)
async def test_without_a_good_token_no_body_is_read(token: str | None) -> None:
    async with rig() as it, connected(it) as peer:
        with trio.fail_after(SOON_S):
            answer = await peer.ask(head(60_000_000, token))
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert it.metric("engine_unauthorized_total") == 1
        assert (server_of(it)["answered_at_head"], server_of(it)["requests"]) == (1, 0)


async def test_with_a_good_token_the_body_is_read_and_the_call_made() -> None:
    call = m.forkchoice()
    async with rig() as it, connected(it) as peer:
        await peer.send(head(len(call), jwt.sign(SECRET, time.time())))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        with trio.fail_after(SOON_S):
            assert await peer.read_exactly(len(interim)) == interim
            assert (await peer.ask(call)).status == 200
        assert it.el.bodies("engine_forkchoiceUpdatedV3") == [call]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez"])
async def test_probes_need_no_token_and_keep_no_place(path: str) -> None:
    """Else anyone could take all places with a probe on each, and keep them for the idle timeout."""
    async with rig() as it, connected(it) as peer:
        answer = await peer.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.status in {200, 206, 503}
        assert answer.headers["connection"] == "close"
        assert await peer.rest() == b""


async def test_op_node_comes_in_while_silent_connections_hold_every_place(mock_clock: MockClock) -> None:
    limits = HttpLimits(max_connections=16, idle_timeout_s=600)
    async with rig(settings=EngineSettings(SECRET, limits=limits)) as it, trio.open_nursery() as nursery:
        for _ in range(16):
            await nursery.start(hold, it)
        while server_of(it)["accepted"] != 16:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        mock_clock.jump(2)

        await it.ask(m.forkchoice())
        assert (server_of(it)["replaced"], server_of(it)["refused"]) == (1, 0)
        nursery.cancel_scope.cancel()


async def hold(it: Rig, *, task_status: trio.TaskStatus[None]) -> None:
    async with connected(it):
        task_status.started()
        await trio.sleep_forever()
