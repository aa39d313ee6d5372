import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.devnet.faults import Fault
from appliance.devnet.network import FIRST_BLOCK_AT, Devnet, DevnetSettings
from appliance.devnet.node import SlotReport
from appliance.domain.errors import ConfigError
from appliance.wire import jwt
from tests.support.ports import lasting_port

QUICK = DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1, transactions_per_flashblock=1, genesis_number=100)


async def test_leader_on_a_builder_makes_blocks_that_are_that_builders(nursery: trio.Nursery, tmp_path: Path) -> None:
    seen: list[SlotReport] = []
    devnet: Devnet = await nursery.start(_run, Devnet(tmp_path, QUICK, on_slot=seen.append))
    endpoint = devnet.builder_endpoints[0]
    node = await devnet.start_node(endpoint.url, endpoint.secret_file)
    reports = await node.wait_slots(3)
    assert [report.number for report in reports] == [101, 102, 103]
    assert {report.source for report in reports} == {"builder-1"}
    assert seen == reports
    block_hash = reports[0].block_hash
    assert block_hash is not None
    builder = devnet.builders[0]
    published = [item.block_hash for item in builder.flashblocks_of(builder.api.built[block_hash])]
    assert published[-1] == block_hash
    assert devnet.flashblocks_of(block_hash) == len(published)
    assert 1 <= len(published) <= builder.settings.flashblocks == 4  # how many there is time for depends on the machine
    assert devnet.node is node
    nursery.cancel_scope.cancel()


async def test_leader_on_the_el(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet: Devnet = await nursery.start(_run, Devnet(tmp_path, QUICK))
    node = await devnet.start_node(devnet.el_endpoint.url, devnet.el_endpoint.secret_file)
    report = (await node.wait_slots(1))[0]
    assert (report.source, report.error) == ("el", None)
    assert report.block_hash is not None
    assert devnet.flashblocks_of(report.block_hash) is None
    assert devnet.built_by("0x" + "00" * 32) is None
    nursery.cancel_scope.cancel()


async def _run(devnet: Devnet, *, task_status: trio.TaskStatus[Devnet]) -> None:
    await devnet.run(task_status=task_status)


async def test_all_clients_begin_on_one_genesis_with_secrets_of_their_own(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    devnet: Devnet = await nursery.start(_run, Devnet(tmp_path, QUICK))
    assert len({client.head.hash for client in (devnet.el, *devnet.builders)}) == 1
    endpoints = (devnet.el_endpoint, *devnet.builder_endpoints)
    assert len({jwt.load_secret(endpoint.secret_file) for endpoint in endpoints}) == 3
    assert len({endpoint.url for endpoint in endpoints}) == 3
    assert [endpoint.name for endpoint in endpoints] == ["el", "builder-1", "builder-2"]
    assert all(str(endpoint.flashblocks_url).startswith("ws://127.0.0.1:") for endpoint in endpoints[1:])
    assert set(devnet.statistics()) == {"el", "builder-1", "builder-2"}
    nursery.cancel_scope.cancel()


async def test_stopping_ends_everything(tmp_path: Path) -> None:
    stopping, port = trio.Event(), lasting_port()
    devnet = Devnet(tmp_path, replace(QUICK, el_address=f"127.0.0.1:{port}"))
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Devnet]) -> None:
            await devnet.run(stopping=stopping, task_status=task_status)

        await nursery.start(run)
        stopping.set()
    with pytest.raises(OSError, match=r"(?i)connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


def test_faults_from_the_start_and_at_run_time(tmp_path: Path) -> None:
    settings = DevnetSettings(faults=("builder-gaps:builder-2", "el-slow"))
    devnet = Devnet(tmp_path, settings)
    assert devnet.faults() == ["builder-gaps:builder-2", "el-slow"]
    devnet.set_fault("builder-down")
    assert all(Fault.DOWN in builder.faults for builder in devnet.builders)
    devnet.set_fault("builder-down:builder-1", on=False)
    devnet.set_fault("el-slow", on=False)
    assert devnet.faults() == ["builder-down:builder-2", "builder-gaps:builder-2"]


@pytest.mark.parametrize("fault", ["nonsense", "builder-down:builder-3"])
def test_wrong_fault_is_refused_before_anything_starts(tmp_path: Path, fault: str) -> None:
    with pytest.raises(ConfigError):
        Devnet(tmp_path, DevnetSettings(faults=(fault,)))
    assert not list(tmp_path.iterdir())


def test_block_numbers_of_a_devnet_that_starts_again_go_on(tmp_path: Path) -> None:
    before = int((int(time.time()) - FIRST_BLOCK_AT) / 2)
    assert before <= Devnet(tmp_path).el.head.number <= (time.time() - FIRST_BLOCK_AT) / 2


async def test_node_needs_a_running_devnet(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path)
    with pytest.raises(RuntimeError, match="not running"):
        await devnet.start_node("http://127.0.0.1:1", tmp_path / "el.jwt")


def test_upstreams_name_payloads_differently(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path)
    assert [builder.api._id_version for builder in devnet.builders] == [None, 4]
