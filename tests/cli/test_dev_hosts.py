import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.cli.dev_files import LocalHost, plan
from appliance.cli.dev_hosts import HostProcess, LocalHosts
from appliance.domain.errors import ApplianceError, ConfigError

REPORT: dict[str, Any] = {
    "health": {"status": "partial", "facts": []},
    "flashlog": {"head": 40},
    "planes": {
        "replication": {"held": 2, "peers": {"host-1": {"following": True}, "host-2": {"following": False}}},
        "fanout": {"admitted": 3},
    },
}


def edge_file(host: LocalHost, listen: str = "") -> None:
    """A host that needs nobody else: fan-out and admin."""
    host.folder.mkdir(parents=True, exist_ok=True)
    fanout = listen or f"{host.address}:{host.fanout}"
    host.config.write_text(
        f'[store]\nfolder = "data"\n[fanout]\nlisten = "{fanout}"\n[admin]\nlisten = "{host.address}:{host.admin}"\n'
    )


def planned(folder: Path, count: int = 1) -> tuple[LocalHost, ...]:
    return plan(folder, count, any_port=True)


def test_a_host_that_is_away_says_so(tmp_path: Path) -> None:
    [host] = planned(tmp_path)
    process = HostProcess(host, print)
    assert process.line() == "host-0  away"
    assert process.pid is None
    assert repr(process) == "<HostProcess host-0 away>"


def test_numbers_are_of_all_hosts_that_answer(tmp_path: Path) -> None:
    hosts = LocalHosts(planned(tmp_path, 3), print)
    assert (hosts.subscribers, hosts.shown, hosts.health) == (0, 0, None)
    hosts.processes[0].report = REPORT
    hosts.processes[2].report = REPORT | {"flashlog": {"head": 41}}
    assert (hosts.subscribers, hosts.shown, hosts.health) == (6, 41, 206)


async def test_a_host_that_cannot_start_is_one_clear_line_with_its_own_words(tmp_path: Path) -> None:
    [host] = planned(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        edge_file(host, f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ApplianceError, match=r"host-0 does not start: .*in use.*appliance\.log"):
            await HostProcess(host, print).run()


async def test_an_address_that_somebody_has_is_said_before_a_host_is_started(tmp_path: Path) -> None:
    hosts = planned(tmp_path, 2)
    with socket.socket() as taken:
        taken.bind((hosts[1].address, hosts[1].admin))
        taken.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on .*in use; is there another `appliance dev`"):
            await LocalHosts(hosts, print).run()
    assert not hosts[0].folder.exists()


async def test_a_host_that_is_killed_comes_back_and_a_stop_ends_it_in_order(tmp_path: Path) -> None:
    [host] = planned(tmp_path)
    edge_file(host)
    said: list[str] = []
    process = HostProcess(host, said.append, away_s=0.05)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            first = process.pid
            assert first is not None
            os.kill(first, 9)
            while process.pid in (None, first) or not await process.look():  # noqa: ASYNC110 a process
                await trio.sleep(0.02)
            process.stop()
    assert said == [
        "host-0 was ended by SIGKILL; it is started again in 0.05 s",
        said[1],
    ]
    assert said[1].startswith("host-0 is started again, process ")
    assert host.log_file.read_text().count("ready") == 2
    assert "stopped" in host.log_file.read_text().splitlines()[-1]


async def test_nothing_is_left_running_when_the_session_is_cancelled(tmp_path: Path) -> None:
    [host] = planned(tmp_path)
    edge_file(host)
    hosts = LocalHosts([host], print)
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(hosts.run)
        assert listening["fanout"] == f"{host.address}:{host.fanout}"
        pid = hosts.processes[0].pid
        assert pid is not None
        nursery.cancel_scope.cancel()
    assert hosts.processes[0].pid is None
    with trio.fail_after(60):
        await hosts.wait_stopped()
