"""Two appliances use a third as their builder: one order to build, its blocks, and its flashblocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.devnet.endpoints import Endpoint
from appliance.devnet.faults import Fault
from appliance.devnet.network import Devnet, DevnetSettings
from tests.support.eventually import eventually
from tests.support.hosts import PATIENCE_MS, HostFiles, started, subscribe, take
from tests.support.in_process import hosted
from tests.support.pool import PoolFiles

SETTINGS = DevnetSettings(block_time_s=0.4, flashblock_interval_s=0.1)


@dataclass
class BehindPool:
    """What a host is put in front of: the devnet's EL, and the pool as the only builder."""

    devnet: Devnet
    pool: Endpoint

    @property
    def el_endpoint(self) -> Endpoint:
        return self.devnet.el_endpoint

    @property
    def builder_endpoints(self) -> Sequence[Endpoint]:
        return [self.pool]


def orders(devnet: Devnet, name: str) -> int:
    """Builds that a builder was ordered to begin."""
    [builder] = [each for each in devnet.builders if each.name == name]
    return len([call for call in builder.calls.of("engine_forkchoiceUpdatedV3") if call.params[1] is not None])


async def test_two_appliances_can_use_a_third_as_their_builder(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    pool_files = PoolFiles(tmp_path / "pool", devnet, deadline_ms=PATIENCE_MS)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with started(nursery, devnet), hosted(pool_files.write()) as pool:
        behind = BehindPool(devnet, pool_files.endpoint(pool))
        files = [HostFiles(tmp_path / name, behind) for name in ("one", "two")]
        async with hosted(files[0].write()) as one:
            node = await devnet.start_node(f"http://{one.listening['engine']}", files[0].secret)
            await node.wait_slots(2)
            async with subscribe(one.listening["fanout"]) as inbox:
                reports = await node.wait_slots(6)
                assert [report.error for report in reports] == [None] * 6
                assert {report.source for report in reports} <= {"builder-1", "builder-2"}
                assert len(await take(inbox, 8)) == 8, "the pool's stream is the host's stream"
        # The leader is gone: the second appliance's op-node goes on at once.
        async with hosted(files[1].write()) as two:
            second = await devnet.start_node(f"http://{two.listening['engine']}", files[1].secret)
            reports = await second.wait_slots(3)
            assert any(report.source.startswith("builder-") for report in reports)
            await eventually(lambda: pool.health()[0] == 200)
            status = pool.statistics()
            assert isinstance(status["planes"], dict)
            assert set(status["planes"]) == {"builder_listen", "flashblocks", "fanout", "admin"}
            blocks = status["planes"]["builder_listen"]["blocks"]
            assert blocks["by_context"].keys() == {"builder"}


async def test_n_minus_1_builders_of_the_pool_fail_and_its_blocks_go_on(nursery: trio.Nursery, tmp_path: Path) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    pool_files = PoolFiles(tmp_path / "pool", devnet, deadline_ms=PATIENCE_MS)
    (tmp_path / "one").mkdir()
    async with started(nursery, devnet), hosted(pool_files.write()) as pool:
        files = HostFiles(tmp_path / "one", BehindPool(devnet, pool_files.endpoint(pool)))
        async with hosted(files.write()) as host:
            node = await devnet.start_node(f"http://{host.listening['engine']}", files.secret)
            await node.wait_slots(2)
            devnet.builders[0].faults.set(Fault.DOWN)
            reports = await node.wait_slots(8)
            assert [report.error for report in reports] == [None] * 8
            assert {report.source for report in reports[2:]} == {"builder-2"}
            await eventually(lambda: pool.health()[0] == 206)
            await eventually(lambda: host.health()[0] == 200)  # the pool as a whole is well
