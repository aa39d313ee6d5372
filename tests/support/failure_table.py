"""Slots under a fault that begins and ends at random moments: what the rows of the failure table have in common."""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.devnet.network import Devnet, DevnetSettings
from appliance.devnet.node import LeaderNode, SlotReport
from appliance.domain.health import Health
from appliance.supervisor import Appliance
from tests.support.hosts import HostFiles, started
from tests.support.in_process import hosted
from tests.support.pulse import Pulse, measured

SLOTS = 52
MOST_SLOTS = 4 * SLOTS
SLOT_S = 0.2
DEADLINE_S = 0.1
BUILDER_TIMEOUT_MS = 1000
SLACK_S = 0.6
"""What a validation that has begun may add to the deadline. Who waited for a builder past its deadline would wait for
its timeout, 1 s. What the machine adds is measured (pulse.py)."""


@dataclass
class Host:
    """A leader on an appliance on a devnet, and what was seen of it. ``healths`` without repetitions."""

    devnet: Devnet
    appliance: Appliance
    node: LeaderNode
    healths: list[Health] = field(default_factory=list)

    async def watch(self) -> None:
        """Note each change of /healthz's answer."""
        while True:
            health = self.appliance.health()[0]
            if not self.healths or self.healths[-1] is not health:
                self.healths.append(health)
            await trio.sleep(0.02)

    async def run_slots(
        self, *faults: Callable[[], Awaitable[None]], until: Callable[[list[SlotReport]], bool] = lambda _: True
    ) -> list[SlotReport]:
        """The reports of all slots, while each fault runs its course; every one has a block in time.

        Slots go on beyond `SLOTS` until what ``until`` waits for is there, or there is no hope of it: how many slots a
        return takes depends on the machine.
        """
        reports: list[SlotReport] = []
        async with measured() as pulse, trio.open_nursery() as nursery:
            nursery.start_soon(self.watch)
            async with trio.open_nursery() as running:
                for fault in faults:
                    running.start_soon(fault)
                reports += await self.node.wait_slots(SLOTS)
            while not until(reports) and len(reports) < MOST_SLOTS:
                await self.node.wait_slots(1)
                reports += [report for report in self.node.reports if report.number > reports[-1].number]
            nursery.cancel_scope.cancel()
        assert_every_slot_has_its_block(reports, pulse)
        return reports

    def fault(self, rng: random.Random, *names: str, seconds: float = 2.5) -> Callable[[], Awaitable[None]]:
        """These are switched on and off, each at a moment of its own; on for about so many seconds."""

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._switch, name, rng.uniform(0.5, 1.5), rng.uniform(0.8, 1.2) * seconds)

        return run

    async def _switch(self, name: str, delay_s: float, seconds: float) -> None:
        await trio.sleep(delay_s)
        self.devnet.set_fault(name)
        await trio.sleep(seconds)
        self.devnet.set_fault(name, on=False)


def assert_every_slot_has_its_block(reports: list[SlotReport], pulse: Pulse) -> None:
    """The promise of every row, counted; all delays together are no longer than the time for which all stood still."""
    assert len(reports) >= 50
    assert [report.error for report in reports if report.error] == []
    assert [report.number for report in reports] == list(range(reports[0].number, reports[0].number + len(reports)))
    late = [(report.number, report.latency_s) for report in reports if report.latency_s > DEADLINE_S + SLACK_S]
    too_late_s = sum(latency_s - DEADLINE_S - SLACK_S for _, latency_s in late)
    assert too_late_s <= pulse.stood_still_s, (
        late,
        pulse.stood_still_s,
    )  # pytest explains asserts in test modules only


@asynccontextmanager
async def leader(
    nursery: trio.Nursery, folder: Path, *builders: str, engine: dict[str, Any] | None = None
) -> AsyncIterator[Host]:
    """A host whose op-node builds, its first slots done."""
    devnet = Devnet(folder, DevnetSettings(builders=builders, block_time_s=SLOT_S, flashblock_interval_s=SLOT_S / 4))
    keys = {"builder_deadline_ms": math.ceil(DEADLINE_S * 1000), **(engine or {})}
    files = HostFiles(folder, devnet, {"engine": keys}, BUILDER_TIMEOUT_MS)
    async with started(nursery, devnet), hosted(files.write()) as appliance:
        node = await devnet.start_node(f"http://{appliance.listening['engine']}", files.secret)
        await node.wait_slots(3)
        yield Host(devnet, appliance, node)
