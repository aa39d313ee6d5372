from collections.abc import Sequence
from typing import Any

import pytest
import trio

from appliance.devnet.builder import SimulatedBuilder
from appliance.devnet.engine_client import open_engine_client
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.faults import Fault
from appliance.devnet.messages import quantity
from appliance.devnet.node import LeaderNode, NodeSettings, SlotReport
from appliance.domain.errors import UnavailableError
from tests.devnet.setting import GENESIS_TIME, make_builder, make_el

Clock = trio.testing.MockClock


class Relay:
    """An engine that only passes on, with the times of the calls."""

    def __init__(self, client: SimulatedExecutionClient) -> None:
        self._client = client
        self.calls: list[tuple[float, str]] = []

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        self.calls.append((trio.current_time(), method))
        return await self._client.call(method, params)


async def run_slots(nursery: trio.Nursery, node: LeaderNode, count: int) -> list[SlotReport]:
    await nursery.start(node.run)
    return await node.wait_slots(count)


async def test_one_block_each_slot(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        node = LeaderNode(el, source_of=lambda _hash: "el")
        start = trio.current_time()
        reports = await run_slots(nursery, node, 5)
        assert [report.number for report in reports] == [1, 2, 3, 4, 5]
        assert all(report.error is None and report.source == "el" for report in reports)
        assert trio.current_time() - start == pytest.approx(9.95)
        assert el.head.hash == node.head_hash == reports[-1].block_hash
        assert el.head.header.timestamp == GENESIS_TIME + 10
        assert [el.ledger.canonical[number] for number in range(1, 6)] == [each.block_hash for each in reports]


async def test_calls_are_op_nodes_in_their_order_and_time(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        relay = Relay(el)
        await run_slots(nursery, LeaderNode(relay), 1)
    assert [method for _at, method in relay.calls] == [
        "engine_exchangeCapabilities",
        "eth_getBlockByNumber",
        "engine_forkchoiceUpdatedV3",
        "engine_getPayloadV4",
        "engine_newPayloadV4",
        "engine_forkchoiceUpdatedV3",
    ]
    asked = relay.calls[3][0] - relay.calls[2][0]
    assert asked == pytest.approx(1.95), "getPayload is asked 50 ms before the slot ends"


async def test_short_blocks_for_tests(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        start = trio.current_time()
        await run_slots(nursery, LeaderNode(el, settings=NodeSettings(block_time_s=0.2)), 10)
        assert trio.current_time() - start == pytest.approx(1.95)
        assert el.head.number == 10


async def test_drives_a_builder_as_well_as_an_el(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_builder().serving(None) as builder:
        reports = await run_slots(nursery, LeaderNode(builder), 2)
    assert isinstance(builder, SimulatedBuilder)
    assert [report.transactions for report in reports] == [1 + 1 + 9 * 3] * 2
    assert reports[0].gas_used == quantity(reports[0].gas_used) > 500_000


async def test_missed_slots_are_reported_and_made_up_for(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        seen: list[SlotReport] = []
        node = LeaderNode(el, on_slot=seen.append)
        start = trio.current_time()
        await run_slots(nursery, node, 2)
        el.faults.set(Fault.DOWN)
        missed = await node.wait_slots(2)
        assert [(report.number, report.error) for report in missed] == [(3, "el is down")] * 2
        el.faults.set(Fault.DOWN, on=False)
        await trio.sleep_until(start + 40)
        assert el.head.number == 20, "one block for each 2 s, the missed ones included"
        assert [report.number for report in seen if report.error is None] == list(range(1, 21))
        assert list(node.reports) == seen


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.SYNCING, "forkchoiceUpdated answered SYNCING: None"),
        (Fault.ERRORS, "el was told to answer with errors (-32603)"),
    ],
)
async def test_reason_of_a_missed_slot(autojump_clock: Clock, nursery: trio.Nursery, fault: Fault, error: str) -> None:
    async with make_el().serving(None) as el:
        node = LeaderNode(el)
        await nursery.start(node.run)
        await node.wait_slots(1)
        el.faults.set(fault)
        assert (await node.wait_slots(1))[0].error == error
        assert node.head_number == 1


async def test_invalid_block_does_not_become_head(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        el.faults.set(Fault.INVALID)
        reports = await run_slots(nursery, LeaderNode(el), 1)
        assert reports[0].error is not None
        assert reports[0].error.startswith("newPayload answered INVALID: invalid state root")
        assert el.head.number == 0


async def test_waits_for_an_engine_that_is_not_up_yet(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:
        el.faults.set(Fault.DOWN)
        node = LeaderNode(el)
        with trio.move_on_after(9):
            await nursery.start(node.run)
        assert node.head_number == -1
        assert [(report.number, report.error) for report in node.reports] == [
            (0, "no head from the engine: el is down")
        ] * 4
        el.faults.set(Fault.DOWN, on=False)
        await nursery.start(node.run)
        assert node.head_number == 0


async def test_forkchoice_without_payload_id_misses_the_slot(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    async with make_el().serving(None) as el:

        class Forgetful(Relay):
            async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
                answer = await super().call(method, params)
                return {**answer, "payloadId": None} if "forkchoice" in method else answer

        reports = await run_slots(nursery, LeaderNode(Forgetful(el)), 1)
        assert reports[0].error == "forkchoiceUpdated with attributes answered no payload id"


def test_attributes_are_different_in_each_block_and_complete() -> None:
    node = LeaderNode(make_el())
    first, second = node.attributes(1), node.attributes(2)
    assert first.prev_randao != second.prev_randao
    assert first.transactions != second.transactions
    assert first.transactions is not None
    assert first.transactions[0].startswith("0x7e")
    assert (first.gas_limit, first.eip1559_params, first.no_tx_pool) == (hex(60_000_000), "0x000000fa00000006", False)


async def test_over_http_with_jwt(nursery: trio.Nursery) -> None:
    secret = bytes(32)
    async with make_el(secret=secret).serving() as el, open_engine_client(el.url, secret, timeout_s=60) as engine:
        reports = await run_slots(nursery, LeaderNode(engine, settings=NodeSettings(block_time_s=0.1)), 3)
        assert [report.number for report in reports] == [1, 2, 3]
        assert all(0 < report.latency_s < 60 for report in reports)
        nursery.cancel_scope.cancel()


async def test_wrong_secret_is_unavailable() -> None:
    async with make_el(secret=bytes(32)).serving() as el, open_engine_client(el.url, bytes(31) + b"1") as engine:
        with pytest.raises(UnavailableError, match="HTTP 401"):
            await engine.call("eth_chainId")
