"""SIGHUP to a real process: keys and limits change, a bad file changes nothing, and the metric says which it was."""

import signal
from pathlib import Path

import trio

from appliance.net.http_client import HttpClient
from tests.fanout.serving import RawClient, close_of
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
        text = (await client.request("GET", "/metrics", timeout_s=20)).body.decode()
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
