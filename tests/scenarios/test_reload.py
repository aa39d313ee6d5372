"""SIGHUP to a real process: keys, limits, nodes change; a bad file changes nothing; the metric says which it was."""

import signal
from pathlib import Path

import msgspec
import trio

from appliance.net.http_client import HttpClient
from tests.fanout.serving import RawClient, close_of
from tests.lb.world import CALL, COOL, FakeNode, Gate, fake_node
from tests.support.eventually import eventually
from tests.support.process import ApplianceProcess, running

FILE = """
[store]
folder = "data"
[fanout]
listen = "127.0.0.1:0"
max_lag = {max_lag}
[[fanout.api_keys]]
app = "searcher"
key_file = "searcher.keys"
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
"""
FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


async def connect(host: ApplianceProcess) -> RawClient:
    return await RawClient.connect(int(host.addresses["fanout"].rpartition(":")[2]), None)


async def status(host: ApplianceProcess, key: str) -> int:
    client = await connect(host)
    async with client.stream:
        return (await client.request(f"/ws/{key}"))[0]


async def metric(host: ApplianceProcess) -> str:
    async with HttpClient(f"http://{host.addresses['admin']}") as client:
        text = (await client.request("GET", "/metrics", timeout_s=60)).body.decode()
    return next(line for line in text.splitlines() if line.startswith("appliance_config_last_reload_successful "))


async def test_a_key_is_added_and_removed_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    keys, file = tmp_path / "searcher.keys", tmp_path / "a.toml"

    def write() -> Path:
        keys.write_text(FIRST)
        file.write_text(FILE.format(max_lag=100))
        return file

    async with running(write) as host:
        first = await connect(host)
        assert (await first.request(f"/ws/{FIRST}"))[0] == 101
        assert await status(host, SECOND) == 401
        file.write_text("[fanout]\nmax_lag = 0\n")
        host.process.send_signal(signal.SIGHUP)
        line = await host.wait_for_event("configuration not reloaded, the old one holds")
        assert line["errors"] == ["fanout.max_lag: found 0, expected a whole number from 1 to 10000000"]
        assert await metric(host) == "appliance_config_last_reload_successful 0.0"
        assert await status(host, FIRST) == 101

        file.write_text(FILE.format(max_lag=200))
        keys.write_text(SECOND)
        host.process.send_signal(signal.SIGHUP)
        await host.wait_for_event("configuration reloaded")
        [waiting] = host.events("some changes hold only after a restart")
        assert waiting["keys"] == ["fanout.max_lag"]
        assert close_of((await first.frames(1))[0]) == (1008, "API key removed")
        await first.stream.aclose()
        assert await status(host, FIRST) == 401
        assert await status(host, SECOND) == 101
        assert await metric(host) == "appliance_config_last_reload_successful 1.0"
        assert not any(key in text for key in (FIRST, SECOND) for text in host.text)
        host.terminate()
        with trio.fail_after(60):
            assert await host.process.wait() == 0


LB_FILE = """
[store]
folder = "data"
[lb]
listen = "127.0.0.1:0"
tries = {tries}
proxy_timeout_ms = 60000
{nodes}
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
"""


async def test_nodes_of_the_load_balancer_come_and_go_while_requests_run(tmp_path: Path) -> None:
    file, gate = tmp_path / "a.toml", Gate()

    def write(tries: int, *nodes: FakeNode) -> Path:
        named = "".join(f'[[lb.nodes]]\nurl = "{node.url}"\n' for node in nodes)
        file.write_text(LB_FILE.format(tries=tries, nodes=named))
        return file

    async with (
        fake_node() as stays,
        fake_node(FakeNode(gate)) as goes,
        fake_node() as comes,
        running(lambda: write(3, goes)) as host,
    ):
        async with HttpClient(f"http://{host.addresses['lb']}") as client:
            running_there = []

            async def ask() -> None:
                running_there.append(await client.request("POST", "/", (), CALL, timeout_s=60))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await eventually(lambda: goes.running == 1)
                write(4, stays, comes)
                host.process.send_signal(signal.SIGHUP)
                line = await host.wait_for_event("configuration reloaded")
                assert line["changed"] == ["lb.nodes"]
                assert host.events("some changes hold only after a restart")[0]["keys"] == ["lb.tries"]
                for _ in range(4):
                    assert (await client.request("POST", "/", (), CALL, timeout_s=60)).body == COOL
                assert (len(stays.requests), len(comes.requests), len(goes.requests)) == (2, 2, 1)
                gate.open_all()
            assert [(answer.status, answer.body) for answer in running_there] == [(200, COOL)]
            assert goes.cancelled == 0
            listed = await client.request("GET", "/nodes", timeout_s=60)
            assert msgspec.json.decode(listed.body) == [stays.url, comes.url]
        host.terminate()
        with trio.fail_after(60):
            assert await host.process.wait() == 0
