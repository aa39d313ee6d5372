"""Whole slots on a virtual clock: a leader, an EL and builders, with a plain engine between them.

The engine here is the simplest that can work: first builder that is VALID, else the EL. It shows that the
simulated programs give an engine everything that it needs, whatever is wrong with one of them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from appliance.devnet.builder import SimulatedBuilder
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.faults import Fault
from appliance.devnet.ledger import Ledger
from appliance.devnet.messages import RpcError
from appliance.devnet.node import LeaderNode, SlotReport
from appliance.domain.errors import UnavailableError
from tests.devnet.setting import make_builder, make_el, new_payload_params

Clock = trio.testing.MockClock
DEADLINE_S = 0.5


class PlainEngine:
    """Sends everything to all, and prefers builders' blocks that the EL calls VALID."""

    def __init__(self, el: SimulatedExecutionClient, builders: Sequence[SimulatedBuilder]) -> None:
        self._el = el
        self._builders = builders
        self._ids: dict[str, list[tuple[SimulatedBuilder, str]]] = {}

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        if method.startswith("engine_getPayload"):
            return await self._get_payload(method, str(params[0]))
        answer = await self._el.call(method, params)
        answers = [await self._try(builder, method, params) for builder in self._builders]
        if isinstance(answer, dict) and answer.get("payloadId"):
            pairs = zip(self._builders, answers, strict=True)
            self._ids[answer["payloadId"]] = [
                (builder, reply["payloadId"]) for builder, reply in pairs if reply and reply.get("payloadId")
            ]
        return answer

    async def _get_payload(self, method: str, name: str) -> Any:
        for builder, payload_id in self._ids.get(name, []):
            envelope = await self._try(builder, method, [payload_id])
            if envelope and await self._is_valid(envelope):
                return envelope
        return await self._el.call(method, [name])

    async def _is_valid(self, envelope: dict[str, Any]) -> bool:
        status = await self._el.call("engine_newPayloadV4", new_payload_params(envelope))
        return bool(status["status"] == "VALID")

    @staticmethod
    async def _try(builder: SimulatedBuilder, method: str, params: Sequence[Any]) -> Any:
        try:
            with trio.move_on_after(DEADLINE_S):
                return await builder.call(method, params)
        except (RpcError, UnavailableError):
            return None
        return None


class Slots:
    """A running chain: the leader and what it drives."""

    def __init__(self, el: SimulatedExecutionClient, builders: list[SimulatedBuilder]) -> None:
        self.el = el
        self.builders = builders
        self.node = LeaderNode(PlainEngine(el, builders), source_of=self.source_of)

    def source_of(self, block_hash: str) -> str | None:
        clients = [self.el, *self.builders]
        return next((client.name for client in clients if block_hash in client.api.built), None)

    async def sources(self, count: int) -> list[str]:
        """Who built the next blocks; every slot has one."""
        reports: list[SlotReport] = await self.node.wait_slots(count)
        assert [report.error for report in reports] == [None] * count
        return [report.source for report in reports]


@asynccontextmanager
async def running(nursery: trio.Nursery) -> AsyncIterator[Slots]:
    async with AsyncExitStack() as stack:
        el = await stack.enter_async_context(make_el(transactions_per_block=2).serving(None))
        peers: list[Ledger] = [el.ledger]
        builders = [
            await stack.enter_async_context(make_builder(name=name, peers=peers).serving(None))
            for name in ("one", "two")
        ]
        slots = Slots(el, builders)
        await nursery.start(slots.node.run)
        yield slots
        nursery.cancel_scope.cancel()


async def test_builders_blocks_are_used_and_the_chain_has_one_a_slot(
    autojump_clock: Clock, nursery: trio.Nursery
) -> None:
    async with running(nursery) as slots:
        assert await slots.sources(4) == ["one"] * 4
        assert slots.el.head.number == 4
        assert {client.head.hash for client in (slots.el, *slots.builders)} == {slots.el.head.hash}


@pytest.mark.parametrize(
    "fault", [Fault.DOWN, Fault.SLOW, Fault.HANGS, Fault.ERRORS, Fault.SYNCING, Fault.INVALID, Fault.BAD_HASH]
)
async def test_one_faulty_builder_is_passed_over_and_used_again_when_it_is_well(
    autojump_clock: Clock, nursery: trio.Nursery, fault: Fault
) -> None:
    async with running(nursery) as slots:
        await slots.sources(1)
        slots.builders[0].faults.set(fault)
        assert await slots.sources(3) == ["two"] * 3
        slots.builders[0].faults.set(fault, on=False)
        assert "one" in await slots.sources(4), "synced from its peer and chosen again"


async def test_all_builders_down_leaves_the_els_blocks(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with running(nursery) as slots:
        await slots.sources(1)
        for builder in slots.builders:
            builder.faults.set(Fault.DOWN)
        assert await slots.sources(3) == ["el"] * 3


async def test_slow_el_still_makes_blocks(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with running(nursery) as slots:
        await slots.sources(1)
        slots.el.faults.set(Fault.SLOW)
        assert len(await slots.sources(3)) == 3


async def test_el_down_stops_the_chain_until_it_is_back(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with running(nursery) as slots:
        await slots.sources(2)
        slots.el.faults.set(Fault.DOWN)
        reports = await slots.node.wait_slots(3)
        assert {report.error for report in reports} == {"el is down"}
        assert slots.el.head.number == 2
        slots.el.faults.set(Fault.DOWN, on=False)
        await slots.sources(3)
        assert slots.el.head.number == 5


async def test_users_transaction_is_in_a_block_once(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with running(nursery) as slots:
        await slots.sources(6)
        chain = [slots.el.blocks[slots.el.ledger.canonical[number]] for number in range(1, 7)]
        users = [raw for block in chain for raw in block.transactions[1:]]
        assert len(users) == len(set(users)) > 60
