import json
import time
from typing import Any

import pytest
import trio

from appliance.devnet.faults import Fault
from appliance.devnet.messages import RpcError
from appliance.devnet.server import SimulatedServer
from appliance.domain.errors import UnavailableError
from appliance.net.errors import ConnectFailed, ConnectionBroken
from appliance.net.http import HttpResponse
from appliance.net.http_client import HttpClient
from appliance.wire import jwt
from tests.support.ports import lasting_port

SECRET = bytes(range(32))


class EchoServer(SimulatedServer):
    """Answers with what it was asked."""

    def __init__(self, secret: bytes | None = None) -> None:
        super().__init__(name="echo", secret=secret, slow_s=2.0)

    async def answer(self, method: str, params: list[Any]) -> Any:
        if method == "fail":
            raise RpcError(-38001, "Unknown payload")
        return [method, *params]


async def post(client: HttpClient, token: str | None = None, method: str = "POST") -> HttpResponse:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    body = b'{"jsonrpc":"2.0","id":7,"method":"eth_chainId","params":[1]}'
    return await client.request(method, None, headers, body, timeout_s=60)


async def test_answers_over_http() -> None:
    async with EchoServer().serving() as server, HttpClient(server.url) as client:
        response = await post(client)
        assert response.status == 200
        assert json.loads(response.body) == {"jsonrpc": "2.0", "id": 7, "result": ["eth_chainId", 1]}
        assert response.headers["content-type"] == "application/json"
        assert repr(server) == f"<EchoServer echo at {server.url.removeprefix('http://')}>"


async def test_only_who_has_the_secret_is_answered() -> None:
    async with EchoServer(SECRET).serving() as server, HttpClient(server.url) as client:
        assert (await post(client)).status == 401
        assert (await post(client, jwt.sign(bytes(32), time.time()))).status == 401
        assert (await post(client, jwt.sign(SECRET, time.time() - 120))).status == 401
        assert len(server.calls) == 0
        assert (await post(client, jwt.sign(SECRET, time.time()))).status == 200
        assert (await post(client, jwt.sign(SECRET, time.time()), method="PUT")).status == 405


async def test_down_refuses_connections_and_up_again_is_on_the_same_port() -> None:
    address = f"127.0.0.1:{lasting_port()}"
    async with EchoServer().serving(address) as server, HttpClient(server.url) as client:
        url = server.url
        assert (await post(client)).status == 200
        server.faults.set(Fault.DOWN)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises((ConnectFailed, ConnectionBroken)):
            await post(client)
        server.faults.set(Fault.DOWN, on=False)
        await trio.testing.wait_all_tasks_blocked()
        assert server.url == url
        assert (await post(client)).status == 200


async def test_server_that_begins_down_comes_up_later() -> None:
    server = EchoServer()
    server.faults.set(Fault.DOWN)
    async with server.serving(f"127.0.0.1:{lasting_port()}"):
        await trio.testing.wait_all_tasks_blocked()
        async with HttpClient(server.url) as client:
            with pytest.raises(ConnectFailed):
                await post(client)
        server.faults.set(Fault.DOWN, on=False)
        await trio.testing.wait_all_tasks_blocked()
        async with HttpClient(server.url) as client:
            assert (await post(client)).status == 200


async def test_stopping_ends_the_server_also_while_it_is_down() -> None:
    for down in (False, True):
        server, stopping = EchoServer(), trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.run(stopping=stopping, task_status=task_status))  # noqa: B023
            server.faults.set(Fault.DOWN, on=down)
            await trio.testing.wait_all_tasks_blocked()
            stopping.set()


async def test_calls_in_process_are_recorded_and_fail_as_on_the_wire() -> None:
    server = EchoServer()
    assert await server.call("a", [1]) == ["a", 1]
    with pytest.raises(RpcError) as caught:
        await server.call("fail")
    assert caught.value.code == -38001
    server.faults.set(Fault.DOWN)
    with pytest.raises(UnavailableError, match="echo is down"):
        await server.call("a")
    assert [call.method for call in server.calls.calls] == ["a", "fail"]
    assert server.statistics() == {"calls": {"a": 1, "fail": 1}, "faults": [Fault.DOWN]}
    with pytest.raises(RuntimeError, match="echo has no port"):
        _ = server.url


async def test_slow_delays_engine_calls_only(autojump_clock: trio.testing.MockClock) -> None:
    server = EchoServer()
    server.faults.set(Fault.SLOW)
    before = trio.current_time()
    await server.call("eth_chainId")
    assert trio.current_time() == before
    await server.call("engine_getPayloadV4")
    assert trio.current_time() == pytest.approx(before + 2.0)


async def test_hanging_call_is_answered_when_the_fault_ends(autojump_clock: trio.testing.MockClock) -> None:
    server = EchoServer()
    server.faults.set(Fault.HANGS)
    with trio.move_on_after(3600) as scope:
        await server.call("engine_getPayloadV4")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.call, "engine_getPayloadV4")
        await trio.testing.wait_all_tasks_blocked()
        server.faults.set(Fault.HANGS, on=False)


async def test_errors_and_syncing() -> None:
    server = EchoServer()
    server.faults.set(Fault.SYNCING)
    assert (await server.call("engine_newPayloadV4"))["status"] == "SYNCING"
    answer = await server.call("engine_forkchoiceUpdatedV3")
    assert (answer["payloadStatus"]["status"], answer["payloadId"]) == ("SYNCING", None)
    assert await server.call("eth_chainId") == ["eth_chainId"]
    server.faults.set(Fault.ERRORS)
    with pytest.raises(RpcError, match="was told to answer with errors"):
        await server.call("eth_chainId")
