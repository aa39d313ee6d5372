"""The failure table, as far as engine and builders are concerned: every row in its own words.

Each runs more than fifty slots of 0.2 s, with the fault beginning and ending at random moments (seeded), and counts
that each slot had its block in time, whoever made it.
"""

import random
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.devnet import execution_client
from appliance.devnet.node import SlotReport
from appliance.domain.health import STREAM, Health, HealthFact
from appliance.flashblocks import service
from appliance.flashblocks.stream_health import StreamHealth
from appliance.net.http_client import HttpClient
from tests.support.failure_table import leader

SEED = 3


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching missed blocks takes less than a slot here too; else a builder would stay behind for ever."""
    monkeypatch.setattr(execution_client, "SYNC_DELAY_S", 0.02)


def are_few(reports: list[SlotReport]) -> bool:
    """Whether the EL's blocks are the exception. On a machine that is shared a builder's block may come late."""
    return sources(reports).count("el") <= len(reports) // 5


def sources(reports: list[SlotReport]) -> list[str]:
    return [report.source for report in reports]


@pytest.mark.parametrize("fault", ["builder-down", "builder-hangs", "builder-invalid"])
async def test_leaders_builder_fails(nursery: trio.Nursery, tmp_path: Path, fault: str) -> None:
    """EL's blocks, every block in time; builder used again when it is back and synced."""
    async with leader(nursery, tmp_path, "alpha") as host:

        def used_again(reports: list[SlotReport]) -> bool:
            return (
                host.healths[1:] != [] and host.healths[-1] is Health.OK and sources(reports)[-10:].count("alpha") >= 5
            )

        reports = await host.run_slots(host.fault(random.Random(SEED), fault), until=used_again)
    assert "el" in sources(reports)
    assert sources(reports)[-10:].count("alpha") >= 5, "used again"
    assert Health.UNAVAILABLE not in host.healths
    assert host.healths == [Health.OK, Health.PARTIAL, Health.OK], "it changes twice, and never flaps"


@pytest.mark.parametrize("fault", ["builder-down", "builder-hangs"])
async def test_n_minus_1_builders_fail(nursery: trio.Nursery, tmp_path: Path, fault: str) -> None:
    """External blocks go on."""
    async with leader(nursery, tmp_path, "alpha", "beta", "gamma") as host:
        faults = host.fault(random.Random(SEED), f"{fault}:alpha", f"{fault}:gamma", seconds=4)
        reports = await host.run_slots(faults)
    assert are_few(reports), sources(reports)
    assert sources(reports).count("beta") >= 10
    assert host.healths == [Health.OK]


async def test_all_builders_fail(nursery: trio.Nursery, tmp_path: Path) -> None:
    """EL's blocks, no failover."""
    async with leader(nursery, tmp_path, "alpha", "beta") as host:
        faults = host.fault(random.Random(SEED), "builder-down:alpha", "builder-hangs:beta", seconds=4)
        reports = await host.run_slots(faults)
    assert sources(reports).count("el") >= 5
    assert Health.UNAVAILABLE not in host.healths
    assert Health.PARTIAL in host.healths


@pytest.mark.parametrize("policy", ["max_gas_used", "max_transactions"])
async def test_builder_makes_bad_empty_blocks(nursery: trio.Nursery, tmp_path: Path, policy: str) -> None:
    """Policy prefers the better block."""
    async with leader(nursery, tmp_path, "alpha", "beta", engine={"policy": policy}) as host:
        fault = host.fault(random.Random(SEED), "builder-empty:alpha", seconds=4)
        reports = await host.run_slots(fault, until=lambda reports: {"alpha", "beta"} <= set(sources(reports)))
    # When all else comes too late, the EL's own block is taken, whatever is in it.
    assert [report for report in reports if report.transactions <= 1 and report.source != "el"] == []
    assert set(sources(reports)) >= {"alpha", "beta"}
    assert host.healths == [Health.OK], "an empty block is no fault"


async def test_builder_makes_bad_empty_blocks_and_the_switch_turns_builders_off(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Under the policy that believes builders: from the throw on no empty block, and builders again after the next."""
    rng, thrown_at = random.Random(SEED), list[int]()
    async with leader(nursery, tmp_path, "alpha", "beta") as host:

        async def throw() -> None:
            host.devnet.set_fault("builder-empty")
            for mode in ("disabled", "enabled"):
                await trio.sleep(rng.uniform(2.0, 3.0))
                if mode == "enabled":
                    host.devnet.set_fault("builder-empty", on=False)
                async with HttpClient(f"http://{host.appliance.listening['admin']}") as client:
                    body = msgspec.json.encode({"execution_mode": mode})
                    assert (await client.request("PUT", "/api/v1/mode", body=body, timeout_s=60)).status == 200
                thrown_at.append(host.node.head_number)

        reports = await host.run_slots(throw, until=lambda reports: sources(reports)[-10:].count("el") <= 5)
    off, on = thrown_at
    assert [report for report in reports if report.number <= off and report.transactions <= 1], "they were believed"
    # The first one may be the slot that was being answered.
    while_off = [report for report in reports if off + 1 < report.number <= on]
    assert sources(while_off) == ["el"] * len(while_off)
    # Not each of them: the devnet signs its transactions no faster than the machine's threads run.
    assert any(report.transactions > 1 for report in while_off)
    assert len(while_off) >= 5
    assert sources(reports)[-10:].count("el") <= 5, "builders again"
    assert Health.UNAVAILABLE not in host.healths


async def test_the_builders_streams_fail(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builders' blocks go on, op-conductor sees 200, and the fact says that subscribers see nothing."""
    monkeypatch.setattr(service, "StreamHealth", lambda names, _seconds: StreamHealth(names, min_building_s=0.0))
    facts: list[HealthFact] = []
    async with leader(nursery, tmp_path, "alpha", "beta") as host, trio.open_nursery() as watching:

        async def watch() -> None:
            while True:
                (found,) = [fact for fact in host.appliance.health()[1] if fact.name == STREAM]
                if not facts or facts[-1].healthy is not found.healthy:
                    facts.append(found)
                    async with HttpClient(f"http://{host.appliance.listening['engine']}") as client:
                        assert (await client.request("GET", "/healthz", timeout_s=60)).status == 200
                await trio.sleep(0.02)

        watching.start_soon(watch)
        reports = await host.run_slots(
            host.fault(random.Random(SEED), "builder-mute", seconds=3),
            until=lambda _: facts[1:] != [] and facts[-1].healthy and host.healths[-1] is Health.OK,
        )
        watching.cancel_scope.cancel()
    assert are_few(reports), sources(reports)
    assert [fact.healthy for fact in facts] == [True, False, True]
    assert facts[1].reason == "of the last block that builders built nothing was shown: no flashblock came"
    assert host.healths == [Health.OK, Health.PARTIAL, Health.OK], "the admin port's, which operators watch"


@pytest.mark.parametrize("fault", ["el-slow", "el-syncing"])
async def test_faults_of_the_el_are_not_blamed_on_builders(nursery: trio.Nursery, tmp_path: Path, fault: str) -> None:
    """Without its EL no slot need have a block; but no builder is called ill for it."""
    async with leader(nursery, tmp_path, "alpha", "beta") as host:
        host.devnet.set_fault(fault)
        await host.node.wait_slots(10)
        facts = {fact.name: fact.healthy for fact in host.appliance.health()[1]}
        assert facts["alpha"]
        assert facts["beta"]
        host.devnet.set_fault(fault, on=False)
        reports = await host.node.wait_slots(10)
        assert reports[-1].error is None
