import time

import pytest
import trio

from appliance.devnet.engine_client import HttpEngineClient, open_engine_client
from appliance.devnet.faults import Fault
from appliance.devnet.messages import RpcError
from appliance.domain.errors import UnavailableError
from appliance.net.http_client import HttpClient
from tests.devnet.setting import make_el
from tests.support.ports import lasting_port

SECRET = bytes(range(32))


async def test_results_and_errors_come_as_in_process() -> None:
    async with make_el(secret=SECRET).serving() as el, open_engine_client(el.url, SECRET) as engine:
        assert await engine.call("eth_blockNumber") == await el.call("eth_blockNumber") == "0x0"
        assert await engine.call("eth_getBlockByHash", ["0x00", False]) is None
        for method, params in (("engine_getPayloadV4", ["0x00"]), ("eth_mining", [])):
            with pytest.raises(RpcError) as over_http:
                await engine.call(method, params)
            with pytest.raises(RpcError) as in_process:
                await el.call(method, params)
            assert str(over_http.value) == str(in_process.value)
            assert over_http.value.code == in_process.value.code


async def test_each_request_has_a_token_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_el(secret=SECRET).serving() as el, open_engine_client(el.url, SECRET) as engine:
        real = time.time
        monkeypatch.setattr("appliance.devnet.engine_client.time.time", lambda: real() + 3600)
        monkeypatch.setattr("appliance.devnet.server.time.time", lambda: real() + 3600)
        assert await engine.call("eth_chainId") == "0x385"


async def test_server_that_is_down_is_unavailable_and_later_back() -> None:
    address = f"127.0.0.1:{lasting_port()}"
    async with make_el(secret=SECRET).serving(address) as el, open_engine_client(el.url, SECRET) as engine:
        await engine.call("eth_chainId")
        el.faults.set(Fault.DOWN)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnavailableError):
            await engine.call("eth_chainId")
        el.faults.set(Fault.DOWN, on=False)
        await trio.testing.wait_all_tasks_blocked()
        assert await engine.call("eth_chainId") == "0x385"


async def test_server_that_hangs_is_unavailable_after_the_timeout() -> None:
    async with make_el(secret=SECRET).serving() as el, HttpClient(el.url) as client:
        el.faults.set(Fault.HANGS)
        with pytest.raises(UnavailableError):
            await HttpEngineClient(client, SECRET, timeout_s=0.05).call("eth_chainId")
        el.faults.set(Fault.HANGS, on=False)


async def test_calls_at_the_same_time_get_their_own_answers() -> None:
    results: dict[str, object] = {}

    async with make_el(secret=SECRET).serving() as el, open_engine_client(el.url, SECRET) as engine:

        async def ask(method: str) -> None:
            results[method] = await engine.call(method)

        async with trio.open_nursery() as nursery:
            for method in ("eth_chainId", "eth_blockNumber", "net_version", "eth_syncing", "web3_clientVersion"):
                nursery.start_soon(ask, method)
    assert results == {
        "eth_chainId": "0x385",
        "eth_blockNumber": "0x0",
        "net_version": "901",
        "eth_syncing": False,
        "web3_clientVersion": "appliance-devnet/el",
    }
