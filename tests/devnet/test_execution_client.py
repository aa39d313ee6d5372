from typing import Any

import pytest
import trio

from appliance.devnet.execution_client import SYNC_DELAY_S, SimulatedExecutionClient
from appliance.devnet.faults import Fault
from appliance.devnet.messages import RpcError, hex_data
from tests.devnet.setting import (
    attributes,
    forkchoice,
    inline,
    insert,
    make_el,
    new_payload_params,
    shared_wallet,
    start_build,
)

Clock = trio.testing.MockClock


async def build(client: SimulatedExecutionClient, **changes: Any) -> dict[str, Any]:
    """A block of the client's own, after time for it to fill."""
    name = await start_build(client, **changes)
    await trio.sleep(1)
    envelope = await client.call("engine_getPayloadV4", [name])
    assert isinstance(envelope, dict)
    return envelope


async def test_own_block_holds_deposit_and_traffic(autojump_clock: Clock) -> None:
    async with make_el(transactions_per_block=10).serving(None) as el:
        envelope = await build(el)
        assert len(envelope["executionPayload"]["transactions"]) == 11
        assert int(envelope["blockValue"], 16) > 0


async def test_chain_grows_and_transactions_are_not_repeated(autojump_clock: Clock) -> None:
    async with make_el(transactions_per_block=5).serving(None) as el:
        seen: list[str] = []
        for number in range(1, 5):
            envelope = await build(el)
            await insert(el, envelope)
            assert el.head.number == number
            seen += envelope["executionPayload"]["transactions"][1:]
        assert len(set(seen)) == len(seen) == 20


async def test_getpayload_at_once_answers_what_there_is(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as el:
        name = await start_build(el)
        envelope = await el.call("engine_getPayloadV4", [name])
        assert len(envelope["executionPayload"]["transactions"]) == 1
        await trio.sleep(1)
        assert await el.call("engine_getPayloadV4", [name]) == envelope, "nothing is added after getPayload"


async def test_no_tx_pool_means_the_given_transactions_alone(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as el:
        envelope = await build(el, noTxPool=True)
        assert len(envelope["executionPayload"]["transactions"]) == 1


async def test_two_clients_agree_on_each_others_blocks(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as one, make_el(transactions_per_block=3).serving(None) as other:
        envelope = await build(one)
        await insert(one, envelope)
        await insert(other, envelope)
        assert one.head.hash == other.head.hash
        back = await build(other)
        await insert(one, back)


async def test_invalid_blocks_of_a_faulty_client_are_seen_through(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as honest, make_el().serving(None) as faulty:
        faulty.faults.set(Fault.INVALID)
        envelope = await build(faulty)
        status = await honest.call("engine_newPayloadV4", new_payload_params(envelope))
        assert status["status"] == "INVALID"
        assert "invalid state root" in status["validationError"]


async def test_wrong_hash_of_a_faulty_client_is_seen_through(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as honest, make_el().serving(None) as faulty:
        faulty.faults.set(Fault.BAD_HASH)
        status = await honest.call("engine_newPayloadV4", new_payload_params(await build(faulty)))
        assert status["status"] == "INVALID"
        assert "blockhash mismatch" in status["validationError"]


async def test_empty_blocks(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as el:
        el.faults.set(Fault.EMPTY)
        assert len((await build(el))["executionPayload"]["transactions"]) == 1


async def test_sent_transaction_is_in_the_next_block_first(autojump_clock: Clock) -> None:
    async with make_el(transactions_per_block=4).serving(None) as el:
        signed = shared_wallet().sign("erin", 0)
        assert await el.call("eth_sendRawTransaction", [hex_data(signed.raw)]) == hex_data(signed.hash)
        envelope = await build(el)
        assert envelope["executionPayload"]["transactions"][1] == hex_data(signed.raw)
        assert len(envelope["executionPayload"]["transactions"]) == 5
        await insert(el, envelope)
        assert await el.call("eth_getTransactionCount", [hex_data(signed.sender), "latest"]) == "0x1"
        await build(el)
        assert len(el.api.mempool) == 0
        with pytest.raises(RpcError, match="nonce too low"):
            await el.call("eth_sendRawTransaction", [hex_data(signed.raw)])


@pytest.mark.parametrize("params", [[], ["0x"], [5], ["0x02c0"]])
async def test_sent_garbage_is_an_error(autojump_clock: Clock, params: list[Any]) -> None:
    with pytest.raises(RpcError):
        await make_el().call("eth_sendRawTransaction", params)


async def test_client_that_missed_blocks_syncs_from_its_peer(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as ahead:
        for _ in range(3):
            await insert(ahead, await build(ahead))
        async with make_el(peers=[ahead.ledger]).serving(None) as behind:
            update = [forkchoice(ahead.head.hash), None]
            answer = await behind.call("engine_forkchoiceUpdatedV3", update)
            assert answer["payloadStatus"]["status"] == "SYNCING"
            await trio.sleep(SYNC_DELAY_S * 2)
            answer = await behind.call("engine_forkchoiceUpdatedV3", update)
            assert answer["payloadStatus"]["status"] == "VALID"
            assert behind.head == ahead.head


async def test_new_payload_on_an_unknown_parent_fetches_the_parent(autojump_clock: Clock) -> None:
    async with make_el().serving(None) as ahead:
        await insert(ahead, await build(ahead))
        envelope = await build(ahead)
        async with make_el(peers=[ahead.ledger]).serving(None) as behind:
            params = new_payload_params(envelope)
            assert (await behind.call("engine_newPayloadV4", params))["status"] == "SYNCING"
            await trio.sleep(SYNC_DELAY_S * 2)
            assert (await behind.call("engine_newPayloadV4", params))["status"] == "VALID"


async def test_without_run_nothing_is_built(autojump_clock: Clock) -> None:
    el = make_el()
    with pytest.raises(RuntimeError, match="builds only while `run` is running"):
        await el.call("engine_forkchoiceUpdatedV3", [forkchoice(el.head.hash), attributes(el.head)])


async def test_statistics_and_repr(autojump_clock: Clock) -> None:
    async with make_el(name="geth", run_sync=inline).serving(None) as el:
        await insert(el, await build(el))
        assert el.statistics()["head"] == 1
        assert el.statistics()["head_hash"] == el.head.hash
        assert repr(el) == "<SimulatedExecutionClient geth at None>"
        assert el.head.hash in el.blocks
