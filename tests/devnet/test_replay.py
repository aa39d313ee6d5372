from typing import Any

import msgspec
import pytest
import trio

from appliance.devnet.capture import CapturedPayload, read_capture
from appliance.devnet.messages import RpcError, forkchoice_json
from appliance.devnet.replay import ReplayBuilder, ReplayExecutionClient
from appliance.domain.payloads import PayloadId
from tests.devnet.setting import DATA, load, new_payload_params

UNICHAIN = DATA / "flashblocks/unichain-sepolia-35535698.jsonl"
BASE_SEPOLIA = DATA / "flashblocks/base-sepolia-33439826.jsonl"
Clock = trio.testing.MockClock


@pytest.fixture
def unichain() -> tuple[CapturedPayload, ...]:
    return read_capture(UNICHAIN)


async def start(client: ReplayExecutionClient, captured: CapturedPayload) -> Any:
    params = [forkchoice_json(captured.base.parent_hash), msgspec.to_builtins(captured.attributes())]
    return (await client.call("engine_forkchoiceUpdatedV3", params))["payloadId"]


async def test_el_calls_the_real_block_valid_and_makes_it_head(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    params = load("engine/unichain-sepolia-35535698-newPayloadV4.json")["params"]
    assert await el.call("eth_blockNumber") == hex(35535697)
    assert (await el.call("engine_newPayloadV4", params))["status"] == "VALID"
    answer = await el.call("engine_forkchoiceUpdatedV3", [forkchoice_json(params[0]["blockHash"]), None])
    assert answer["payloadStatus"]["status"] == "VALID"
    assert await el.call("eth_blockNumber") == hex(35535698)
    assert (await el.call("eth_getBlockByNumber", ["latest", False]))["hash"] == params[0]["blockHash"]


async def test_el_calls_every_recorded_prefix_valid(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    for count in range(1, 6):
        part = CapturedPayload(unichain[0].payload_id, (), unichain[0].flashblocks[:count])
        assert (await el.call("engine_newPayloadV4", new_payload_params(part.envelope())))["status"] == "VALID"


@pytest.mark.parametrize(
    ("field", "value"),
    [("stateRoot", "0x" + "00" * 32), ("gasUsed", "0x1"), ("transactions", []), ("blockHash", "0x" + "00" * 32)],
)
async def test_el_calls_anything_else_invalid(unichain: tuple[CapturedPayload, ...], field: str, value: Any) -> None:
    params = load("engine/unichain-sepolia-35535698-newPayloadV4.json")["params"]
    changed = [{**params[0], field: value}, *params[1:]]
    status = await ReplayExecutionClient(unichain).call("engine_newPayloadV4", changed)
    assert status["status"] == "INVALID"
    assert "blockhash mismatch" in status["validationError"]


async def test_malformed_fields_are_invalid(unichain: tuple[CapturedPayload, ...]) -> None:
    params = load("engine/unichain-sepolia-35535698-newPayloadV4.json")["params"]
    changed = [{**params[0], "stateRoot": "state"}, *params[1:]]
    status = await ReplayExecutionClient(unichain).call("engine_newPayloadV4", changed)
    assert status["status"] == "INVALID"


async def test_el_knows_no_other_parents(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    answer = await el.call("engine_forkchoiceUpdatedV3", [forkchoice_json("0x" + "01" * 32), None])
    assert answer["payloadStatus"]["status"] == "SYNCING"
    line = (DATA / "engine/opsepolia-newPayloadV3-26207960-26207962.jsonl").read_text().splitlines()[0]
    params = msgspec.json.decode(line)["params"]
    assert (await el.call("engine_newPayloadV3", params))["status"] == "SYNCING"


async def test_payload_id_is_the_recorded_one(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    assert await start(el, unichain[0]) == "0x03c446f063e3735a"
    assert el.started == ["0x03c446f063e3735a"]


async def test_attributes_of_another_slot_are_refused(unichain: tuple[CapturedPayload, ...]) -> None:
    attributes = msgspec.structs.replace(unichain[0].attributes(), timestamp="0x1")
    params = [forkchoice_json(unichain[0].base.parent_hash), msgspec.to_builtins(attributes)]
    with pytest.raises(RpcError, match="nothing was captured on"):
        await ReplayExecutionClient(unichain).call("engine_forkchoiceUpdatedV3", params)


async def test_els_own_block_holds_the_deposit_and_is_valid(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    with pytest.raises(RpcError, match="Unknown payload"):
        await el.call("engine_getPayloadV4", [unichain[0].payload_id])
    envelope = await el.call("engine_getPayloadV4", [await start(el, unichain[0])])
    assert len(envelope["executionPayload"]["transactions"]) == 1
    assert (await el.call("engine_newPayloadV4", new_payload_params(envelope)))["status"] == "VALID"


async def test_small_methods(unichain: tuple[CapturedPayload, ...]) -> None:
    el = ReplayExecutionClient(unichain)
    assert "engine_getPayloadV4" in await el.call("engine_exchangeCapabilities", [[]])
    assert await el.call("eth_chainId") == "0x515"
    with pytest.raises(RpcError, match="not available"):
        await el.call("eth_mining")


async def test_builder_streams_the_recorded_bytes_at_their_pace(
    autojump_clock: Clock, unichain: tuple[CapturedPayload, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = ReplayBuilder(unichain)
    sent: list[tuple[float, str]] = []
    async with builder.serving(None):
        start_time = trio.current_time()

        def record(message: str) -> None:
            sent.append((round(trio.current_time() - start_time, 3), message))

        monkeypatch.setattr(builder.websocket, "publish", record)
        name = await start(builder, unichain[0])
        assert await start(builder, unichain[0]) == name, "asked twice, streamed once"
        await builder.wait_streamed(PayloadId(name))
        envelope = await builder.call("engine_getPayloadV4", [name])
    assert [at for at, _message in sent] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert "\n".join(message for _at, message in sent) == UNICHAIN.read_text().strip()
    assert envelope["executionPayload"]["blockHash"] == unichain[0].payload().block_hash


async def test_builder_streams_as_fast_as_asked(autojump_clock: Clock, unichain: tuple[CapturedPayload, ...]) -> None:
    builder = ReplayBuilder(unichain, interval_s=0)
    async with builder.serving(None):
        start_time = trio.current_time()
        await builder.wait_streamed(PayloadId(await start(builder, unichain[0])))
        assert trio.current_time() == start_time


async def test_capture_that_does_not_add_up_is_streamed_and_called_invalid(autojump_clock: Clock) -> None:
    capture = read_capture(BASE_SEPOLIA)
    el = ReplayExecutionClient(capture)
    status = await el.call("engine_newPayloadV4", new_payload_params(capture[0].envelope()))
    assert status["status"] == "INVALID"
