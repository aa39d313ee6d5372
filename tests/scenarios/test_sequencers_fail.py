"""The failure table's rows about several sequencers: leaders, followers, and two that lead at once.

More than fifty slots each, the fault at random moments (seeded), every slot counted.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.devnet import execution_client
from appliance.devnet.builder import SimulatedBuilder
from appliance.devnet.endpoints import Endpoint, secret_in
from appliance.devnet.engine_client import open_engine_client
from appliance.devnet.faults import Fault
from appliance.devnet.messages import forkchoice_json
from appliance.devnet.network import Devnet, DevnetSettings
from appliance.domain.errors import UnavailableError
from appliance.supervisor import Appliance
from appliance.wire.jwt import load_secret
from tests.scenarios.test_builder_load_balancer import BehindPool
from tests.support.conductor import Conductor, Site, another_el
from tests.support.failure_table import SLOT_S, SLOTS, assert_every_slot_has_its_block
from tests.support.hosts import HostFiles, started
from tests.support.in_process import hosted
from tests.support.pool import PoolFiles
from tests.support.pulse import measured

SEED = 5
SETTINGS = DevnetSettings(builders=("alpha", "beta"), block_time_s=SLOT_S, flashblock_interval_s=SLOT_S / 4)


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_client, "SYNC_DELAY_S", 0.02)


@asynccontextmanager
async def two_sites(nursery: trio.Nursery, folder: Path) -> AsyncIterator[tuple[Devnet, Conductor]]:
    """A chain with two hosts' execution clients and shared builders; no appliance yet."""
    devnet = Devnet(folder, SETTINGS)
    async with started(nursery, devnet), another_el(devnet, folder, "el-2").serving() as second:
        second.peers = (devnet.el.ledger,)
        devnet.el.peers = (second.ledger,)
        endpoints = [devnet.el_endpoint, Endpoint("el-2", second.url, secret_in(folder, "el-2")[0])]
        sites = [
            Site(folder / name, devnet.builder_endpoints, endpoint)
            for name, endpoint in zip(("one", "two"), endpoints, strict=True)
        ]
        yield devnet, Conductor(devnet, sites, SLOT_S)


async def outage(site: Site, rng: random.Random) -> None:
    """The host's appliance runs, is gone for about two seconds, and runs again, until cancelled."""
    async with hosted(site.files.write()):
        await trio.sleep(rng.uniform(2.0, 3.0))
    await trio.sleep(rng.uniform(1.5, 2.5))
    async with hosted(site.files.write()):
        await trio.sleep_forever()


async def up(conductor: Conductor, site: Site, status: int = 200) -> None:
    with trio.fail_after(60):
        while await conductor.health(site) != status:  # noqa: ASYNC110 what op-conductor does
            await trio.sleep(0.02)


async def test_leaders_appliance_fails(nursery: trio.Nursery, tmp_path: Path) -> None:
    """The new leader's appliance works at once; the old one rejoins as follower."""
    async with two_sites(nursery, tmp_path) as (devnet, conductor), trio.open_nursery() as hosts:
        one, two = conductor.sites
        async with hosted(two.files.write()):
            hosts.start_soon(outage, one, random.Random(SEED))
            for site in conductor.sites:
                await up(conductor, site)
            await conductor.run(SLOTS)
            await up(conductor, one)
            assert devnet.el.head.number >= conductor.reports[-1].number - 1, "it follows again"
        hosts.cancel_scope.cancel()
    assert_every_slot_has_its_block(conductor.reports, conductor.pulse)
    assert conductor.elections == 1
    moved = conductor.leaders.index(1)
    assert conductor.leaders == [0] * moved + [1] * (SLOTS - moved)
    built = [report.source for report in conductor.reports[moved + 2 :]]
    assert built.count("el") <= len(built) // 5, built


async def test_leaders_el_fails(nursery: trio.Nursery, tmp_path: Path) -> None:
    """op-conductor sees 503; the new leader's appliance works at once."""
    async with two_sites(nursery, tmp_path) as (devnet, conductor):
        one, two = conductor.sites
        rng = random.Random(SEED)

        async def fail() -> None:
            await trio.sleep(rng.uniform(1.0, 3.0))
            devnet.el.faults.set(Fault.DOWN)
            await up(conductor, one, 503)
            await trio.sleep(rng.uniform(1.0, 2.0))
            devnet.el.faults.set(Fault.DOWN, on=False)
            await up(conductor, one)

        async with hosted(one.files.write()), hosted(two.files.write()):
            for site in conductor.sites:
                await up(conductor, site)
            async with trio.open_nursery() as running:
                running.start_soon(fail)
                await conductor.run(SLOTS)
    assert_every_slot_has_its_block(conductor.reports, conductor.pulse)
    assert conductor.leaders[-1] == 1
    assert conductor.elections == 1


async def test_followers_appliance_fails(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Leader unaffected."""
    async with two_sites(nursery, tmp_path) as (_, conductor), trio.open_nursery() as hosts:
        one, two = conductor.sites
        async with hosted(one.files.write()):
            hosts.start_soon(outage, two, random.Random(SEED))
            for site in conductor.sites:
                await up(conductor, site)
            await conductor.run(SLOTS)
            await up(conductor, two)
        hosts.cancel_scope.cancel()
    assert_every_slot_has_its_block(conductor.reports, conductor.pulse)
    assert conductor.leaders == [0] * SLOTS
    assert [report.source for report in conductor.reports].count("el") <= SLOTS // 5


def assert_one_order_at_a_time(builder: SimulatedBuilder) -> None:
    """Never a second order on a parent while the first is being built: until its getPayload."""
    building, orders = "", 0
    for call in builder.calls.calls:
        if call.method.startswith("engine_getPayload"):
            building = ""
        elif call.method.startswith("engine_forkchoiceUpdated") and call.params[1] is not None:
            parent = call.params[0]["headBlockHash"]
            assert parent != building, "two orders on one parent"
            building, orders = parent, orders + 1
    assert orders >= 50


async def test_two_sequencers_send_fcu_with_attributes(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Builders get one. A second sequencer orders other blocks on the leader's parents, from one moment to another."""
    devnet, rng = Devnet(tmp_path, SETTINGS), random.Random(SEED)
    pool_files = PoolFiles(tmp_path / "pool", devnet)
    (tmp_path / "one").mkdir()

    ills: set[str] = set()

    async def watch(host: Appliance) -> None:
        while True:
            ills.update(fact.reason for fact in host.health()[1] if not fact.healthy)
            await trio.sleep(0.02)

    async def intrude(url: str) -> None:
        last = ""
        async with open_engine_client(url, load_secret(pool_files.secret)) as client:
            await trio.sleep(rng.uniform(1.0, 2.0))
            with trio.move_on_after(rng.uniform(4.0, 6.0)):
                while True:
                    await trio.sleep(rng.uniform(0.0, 0.05))
                    if devnet.node is None or devnet.node.head_hash == last:
                        continue
                    last = devnet.node.head_hash
                    attributes = msgspec.to_builtins(devnet.node.attributes(devnet.node.head_number + 1))
                    attributes["suggestedFeeRecipient"] = "0x" + "66" * 20
                    try:
                        await client.call("engine_forkchoiceUpdatedV3", [forkchoice_json(last), attributes])
                    except UnavailableError:
                        continue

    async with started(nursery, devnet), hosted(pool_files.write()) as pool:
        files = HostFiles(tmp_path / "one", BehindPool(devnet, pool_files.endpoint(pool)))
        files.sections["engine"] = {"builder_deadline_ms": 100}
        async with hosted(files.write()) as host:
            node = await devnet.start_node(f"http://{host.listening['engine']}", files.secret)
            await node.wait_slots(3)
            async with trio.open_nursery() as watching:
                watching.start_soon(watch, host)
                async with measured() as pulse, trio.open_nursery() as running:
                    running.start_soon(intrude, f"http://{pool.listening['builder_listen']}")
                    reports = await node.wait_slots(SLOTS)
                watching.cancel_scope.cancel()
    assert_every_slot_has_its_block(reports, pulse)
    # Whichever came second, the leader or the intruder.
    turned_away = pool.registry.get_sample_value("builder_listen_orders_turned_away_total")
    assert turned_away is not None
    assert turned_away >= 5
    assert [ill for ill in ills if "no payload id" in ill] == [], "that another one was first is no fault of builders"
    for builder in devnet.builders:
        assert_one_order_at_a_time(builder)
