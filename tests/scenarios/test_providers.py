"""A process that is nothing but a provider group: started, asked, looked at, stopped."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.net.errors import ConnectionBroken
from appliance.net.http_client import HttpClient
from appliance.net.websocket_client import conversation
from appliance.providers.service import Providers
from tests.providers.chain import Chain
from tests.providers.endpoint import Endpoint
from tests.support.eventually import eventually
from tests.support.in_process import hosted
from tests.support.process import running

ANY = "127.0.0.77:0"


@asynccontextmanager
async def endpoints() -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    chain = Chain()
    chain.mine_many(3)
    both = Endpoint("main", chain), Endpoint("backup", chain)
    async with trio.open_nursery() as nursery:
        for each in both:
            await each.start(nursery)
        yield both
        nursery.cancel_scope.cancel()


def write(folder: Path, main: Endpoint, backup: Endpoint) -> Path:
    path = folder / "appliance.toml"
    path.write_text(
        f"""
[[providers]]
name = "l1"
listen = "{ANY}"
probe_interval_s = 0.1
return_after_s = 0.2
timeout_ms = 10000
endpoints = [
  {{ name = "main", url = "{main.websocket_url}" }},
  {{ name = "backup", url = "{backup.url}" }},
]

[[providers]]
name = "beacon.2"
listen = "{ANY}"
endpoints = [{{ name = "backup", url = "{backup.url}" }}]

[admin]
listen = "{ANY}"

[log]
format = "json"
level = "debug"
"""
    )
    return path


async def ask(address: str, method: str) -> Any:
    async with HttpClient(f"http://{address}") as client:
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": []})
        return msgspec.json.decode((await client.request("POST", None, (), body, timeout_s=60)).body)


async def get(address: str, path: str) -> tuple[int, str]:
    async with HttpClient(f"http://{address}") as client:
        answer = await client.request("GET", path, timeout_s=60)
        return answer.status, answer.body.decode()


@pytest.mark.slow
async def test_a_process_with_nothing_but_providers_serves_and_stops_with_1001(tmp_path: Path) -> None:
    async with endpoints() as (main, backup), running(lambda: write(tmp_path, main, backup)) as process:
        l1, admin = process.addresses["providers.l1"], process.addresses["admin"]
        assert (await ask(l1, "web3_sha3"))["result"] == "main web3_sha3"
        assert (await ask(process.addresses["providers.beacon.2"], "web3_sha3"))["result"] == "backup web3_sha3"
        shown = await trio.run_process(
            [sys.executable, "-m", "appliance", "status", "--url", f"http://{admin}"], capture_stdout=True
        )
        assert b"L1 l1" in shown.stdout
        assert b"main is active" in shown.stdout
        await main.kill()
        assert (await ask(l1, "web3_sha3"))["result"] == "backup web3_sha3"
        await process.wait_for_event("provider switched")
        assert 'eth_network_errors{provider="main"}' in (await get(admin, "/metrics"))[1]
        opened = conversation(
            f"ws://{l1}", ping_interval_s=9, pong_timeout_s=60, connect_timeout_s=60, max_message_bytes=2**20
        )
        async with opened as (inbox, send):
            await send('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}')
            await anext(inbox)
            process.terminate()
            with pytest.raises(ConnectionBroken, match="1001 going away"):
                await anext(inbox)
        assert await process.process.wait() == 0
        assert "secret" not in "\n".join(process.text)


async def test_health_and_status_say_who_is_active_and_why_nobody_is(tmp_path: Path) -> None:
    async with endpoints() as (main, backup), hosted(write(tmp_path, main, backup)) as appliance:
        admin = appliance.listening["admin"]
        assert (await get(admin, "/healthz"))[0] == 200
        await main.kill()
        await backup.kill()

        def facts() -> dict[str, str]:
            return {fact.name: fact.reason for fact in appliance.health()[1]}

        await eventually(lambda: facts()["providers.l1"].startswith("all providers of l1 unhealthy: main ("))
        status, body = await get(admin, "/healthz")
        assert status == 503
        assert "secret" not in body
        assert "secret" not in (await get(admin, "/api/v1/status"))[1]
        assert "secret" not in (await get(admin, "/metrics"))[1]


async def test_providers_that_crash_restart_alone_and_on_the_same_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash, run = trio.Event(), Providers.run

    async def crashing(plane: Providers, *args: Any, **kwargs: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fall_once)
            await run(plane, *args, **kwargs)
            nursery.cancel_scope.cancel()

    async def fall_once() -> None:
        if crash.is_set():
            await trio.sleep_forever()
        await crash.wait()
        raise RuntimeError("a bug")

    monkeypatch.setattr(Providers, "run", crashing)
    async with endpoints() as (main, backup), hosted(write(tmp_path, main, backup)) as appliance:
        crash.set()

        def planes() -> Any:
            return appliance.statistics()["planes"]

        await eventually(lambda: planes()["providers"]["restarts"] == 1 and planes()["providers"]["state"] == "running")
        assert (await ask(appliance.listening["providers.l1"], "web3_sha3"))["result"] == "main web3_sha3"
        assert planes()["admin"]["restarts"] == 0


def test_check_config_says_that_providers_run(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[[providers]]\nname = "l1"\nlisten = "127.0.0.1:0"\nendpoints = [{ name = "main", url = "http://host" }]\n'
    )
    command = [sys.executable, "-m", "appliance", "check-config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (0, f"{path}: well; it runs providers\n")
