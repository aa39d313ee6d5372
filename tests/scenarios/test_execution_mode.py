"""The emergency switch on a running host: thrown in the middle of slots, kept across a kill, explained afterwards."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from appliance.devnet.network import Devnet, DevnetSettings
from appliance.net.http_client import HttpClient
from tests.support.hosts import HostFiles, started
from tests.support.process import ApplianceProcess, running

SETTINGS = DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1)
JSON = {"content-type": "application/json"}


class Host:
    """A running appliance, asked over its own doors."""

    def __init__(self, process: ApplianceProcess) -> None:
        self.process = process
        self.admin = f"http://{process.addresses['admin']}"

    async def get(self, path: str) -> Any:
        async with HttpClient(self.admin) as client:
            return json.loads((await client.request("GET", path, timeout_s=60)).body)

    async def metrics(self) -> str:
        async with HttpClient(self.admin) as client:
            return (await client.request("GET", "/metrics", timeout_s=60)).body.decode()

    async def debug(self, method: str, *params: object) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        async with HttpClient(f"http://{self.process.addresses['debug']}") as client:
            return json.loads((await client.request("POST", "/", JSON, body, timeout_s=60)).body)["result"]

    async def health(self) -> int:
        async with HttpClient(f"http://{self.process.addresses['engine']}") as client:
            return (await client.request("GET", "/healthz", timeout_s=60)).status

    async def command(self, *arguments: str) -> str:
        line = [sys.executable, "-m", "appliance", "mode", *arguments, "--url", self.admin]
        done = await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    async def rehearsed_by(self, builders: set[str]) -> dict[str, Any]:
        """The first dry run that a builder would have won: the chain went on without them, so they catch up first."""
        count = 0
        while True:
            count += 1
            line = await self.process.wait_for_event("dry run: would have returned", count)
            if line["source"] in builders:
                return line

    @property
    def returned(self) -> list[dict[str, Any]]:
        return self.process.events("returning block")

    async def next_blocks(self, count: int) -> list[dict[str, Any]]:
        """The blocks of whole builds from now on: the one that is being built is passed over."""
        before = len(self.returned) + 1
        await self.process.wait_for_event("returning block", before + count)
        return self.returned[before : before + count]


async def test_the_switch_turns_builders_off_and_on_and_no_slot_is_missed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    # Slots longer than the half second that a simulated builder takes to fetch what it has missed.
    devnet = Devnet(tmp_path, DevnetSettings(block_time_s=0.8, flashblock_interval_s=0.2))
    files = HostFiles(tmp_path, devnet)
    async with started(nursery, devnet), running(files.write) as process:
        host = Host(process)
        await devnet.start_node(f"http://{process.addresses['engine']}", files.secret)
        await process.wait_for_event("returning block", 3)
        assert await host.debug("debug_getExecutionMode") == {"execution_mode": "enabled"}
        assert {block["context"] for block in await host.next_blocks(2)} == {"builder"}

        shown = await host.command("disabled")
        assert shown.startswith("disabled (switch, since 20")
        assert "cli 127.0.0.1" in shown
        assert {block["context"] for block in await host.next_blocks(3)} == {"l2"}
        assert "rollup_boost_execution_mode 1.0" in await host.metrics()
        assert await host.health() == 200
        asked = _engine_calls(devnet)
        await host.next_blocks(2)
        assert _engine_calls(devnet) == asked, "nothing reaches a builder"

        assert await host.debug("debug_setExecutionMode", {"execution_mode": "dry_run"}) == {
            "execution_mode": "dry_run"
        }
        assert {block["context"] for block in await host.next_blocks(3)} == {"l2"}
        would = await host.rehearsed_by({endpoint.name for endpoint in devnet.builder_endpoints})
        assert would["gas_used"] > 0
        assert would["transactions"] > 0

        before = len(host.returned)
        assert (await host.command("enabled")).startswith("enabled (switch")
        assert {block["context"] for block in await host.next_blocks(3)} == {"builder"}
        assert {block["context"] for block in host.returned[:before]} == {"builder", "l2"}
    numbers = [block["number"] for block in host.returned]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a block in every slot"
    throws = [(line["before"], line["mode"], line["who"].split()[0]) for line in process.events("execution mode")]
    assert throws == [("enabled", "disabled", "cli"), ("disabled", "dry_run", "debug"), ("dry_run", "enabled", "cli")]


async def test_the_switch_outlives_a_kill_and_wins_over_the_file(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    files = HostFiles(tmp_path, devnet, {"engine": {"execution_mode": "dry_run"}})
    async with started(nursery, devnet):
        async with running(files.write) as process:
            host = Host(process)
            assert (await host.command()).startswith("dry_run (file, since 20")
            assert (await host.command("disabled")).startswith("disabled (switch, since 20")
            process.kill()
            await process.process.wait()
        async with running(files.write) as process:
            host = Host(process)
            mode = (await host.get("/api/v1/status"))["planes"]["engine"]["mode"]
            assert (mode["execution_mode"], mode["source"]) == ("disabled", "switch")
            assert mode["who"].startswith("cli 127.0.0.1")
            warning = process.events("the switch wins over the file")[0]
            assert (warning["mode"], warning["configured"]) == ("disabled", "dry_run")


async def test_a_state_file_that_is_damaged_costs_builders_not_blocks(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    files = HostFiles(tmp_path, devnet)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state.db").write_bytes(b"rubbish" * 1000)
    async with started(nursery, devnet), running(files.write) as process:
        host = Host(process)
        await devnet.start_node(f"http://{process.addresses['engine']}", files.secret)
        assert {block["context"] for block in await host.next_blocks(2)} == {"l2"}
        mode = await host.get("/api/v1/mode")
        assert (mode["execution_mode"], mode["source"], mode["kept"]) == ("disabled", "unreadable", False)


async def test_every_decision_can_be_asked_for_afterwards(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    files = HostFiles(tmp_path, devnet)
    async with started(nursery, devnet), running(files.write) as process:
        host = Host(process)
        await devnet.start_node(f"http://{process.addresses['engine']}", files.secret)
        await process.wait_for_event("payload landed")
        line = next(block for block in reversed(host.returned) if block["context"] == "builder")
        await host.next_blocks(3)  # what came too late for a block is told by then
        listed = (await host.get("/api/v1/payloads?limit=3"))["payloads"]
        assert len(listed) == 3
        entry = await host.get(f"/api/v1/payloads/{line['payload_id']}")
        assert await host.get(f"/api/v1/payloads/{line['hash']}") == entry
        metrics = await host.metrics()
    assert (entry["block_hash"], entry["block_number"], entry["returned"]) == (
        line["hash"],
        line["number"],
        line["source"],
    )
    won = _one(entry["candidates"], lambda each: each["result"] == "returned")
    assert won["gas_used"] > 0
    assert won["validation"] == "VALID"
    local = _one(entry["candidates"], lambda each: each["source"] == "l2")
    assert local["gas_used"] is not None, "it came late, and is told all the same"
    assert local["value_wei"] is not None
    assert 'engine_candidate_gas_used_count{source="l2"}' in metrics


def _engine_calls(devnet: Devnet) -> list[dict[str, int]]:
    """What builders were asked, health probes aside."""
    counts = [dict(builder.calls.counts) for builder in devnet.builders]
    return [{name: count for name, count in each.items() if name != "eth_getBlockByNumber"} for each in counts]


def _one(items: list[Any], wanted: Callable[[Any], bool]) -> Any:
    (found,) = [item for item in items if wanted(item)]
    return found


def test_the_switch_without_an_appliance_is_one_clear_line() -> None:
    line = [sys.executable, "-m", "appliance", "mode", "disabled", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    [text] = done.stderr.splitlines()
    assert text.startswith("appliance: no appliance answers at http://127.0.0.1:9: ")
