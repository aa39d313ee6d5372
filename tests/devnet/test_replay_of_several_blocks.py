"""A capture of three consecutive real OP Sepolia blocks, cut into flashblocks, replayed block after block."""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.devnet.capture import CapturedPayload, read_capture
from appliance.devnet.messages import ExecutionPayload, PayloadAttributes, RpcError, decode_as, forkchoice_json
from appliance.devnet.payload_id import payload_id
from appliance.devnet.replay import ReplayBuilder, ReplayExecutionClient
from appliance.devnet.replay_network import Replay, ReplaySettings
from tests.devnet.setting import DATA, load

REQUESTS = [
    json.loads(line)["params"]
    for line in (DATA / "engine/opsepolia-newPayloadV3-26207960-26207962.jsonl").read_text().splitlines()
]
HASHES = [params[0]["blockHash"] for params in REQUESTS]
PIECES = 4
Clock = trio.testing.MockClock


def attributes_of(number: int) -> PayloadAttributes:
    """The attributes that were recorded beside the block, completed as op-node sends them."""
    recorded = load(f"engine/opsepolia-{number}.json")["executing_payload"]
    deposits = [text for text in recorded["transactions"] if text.startswith("0x7e")]
    return decode_as(PayloadAttributes, {**recorded, "transactions": deposits, "withdrawals": [], "noTxPool": False})


def cut(params: list[Any]) -> list[dict[str, Any]]:
    """One block as flashblocks; the roots before the last one are not known, so they repeat the last one's."""
    payload = decode_as(ExecutionPayload, params[0])
    number = int(payload.block_number, 16)
    name = payload_id(payload.parent_hash, attributes_of(number), 3)
    deposits = sum(text.startswith("0x7e") for text in payload.transactions)
    bounds = [0, deposits, *(len(payload.transactions) * piece // PIECES for piece in range(2, PIECES + 1))]
    return [
        {
            "payload_id": name,
            "index": index,
            "base": base_of(payload, params[2]) if index == 0 else None,
            "diff": {
                "state_root": payload.state_root,
                "receipts_root": payload.receipts_root,
                "logs_bloom": payload.logs_bloom,
                "gas_used": payload.gas_used,
                "block_hash": payload.block_hash,
                "transactions": payload.transactions[start:end],
                "withdrawals": [],
            },
            "metadata": {"block_number": number},
        }
        for index, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def base_of(payload: ExecutionPayload, beacon_root: str) -> dict[str, str]:
    return {
        "parent_beacon_block_root": beacon_root,
        "parent_hash": payload.parent_hash,
        "fee_recipient": payload.fee_recipient,
        "prev_randao": payload.prev_randao,
        "block_number": payload.block_number,
        "gas_limit": payload.gas_limit,
        "timestamp": payload.timestamp,
        "extra_data": payload.extra_data,
        "base_fee_per_gas": payload.base_fee_per_gas,
    }


@pytest.fixture
def capture(tmp_path: Path) -> tuple[CapturedPayload, ...]:
    path = tmp_path / "op-sepolia.jsonl"
    messages = [message for params in REQUESTS for message in cut(params)]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, messages)))
    return read_capture(path)


def test_flashblocks_add_up_to_the_recorded_requests(capture: tuple[CapturedPayload, ...]) -> None:
    assert len(capture) == 3
    for captured, params in zip(capture, REQUESTS, strict=True):
        assert captured.version == 3
        assert msgspec.to_builtins(captured.payload()) == params[0]
        assert captured.attributes() == attributes_of(int(params[0]["blockNumber"], 16))
        assert captured.id_is_computable()
        assert "executionRequests" not in captured.envelope()


async def test_three_blocks_in_a_row(
    capture: tuple[CapturedPayload, ...],
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nobody() -> None:
        await trio.lowlevel.checkpoint()

    replay = Replay(capture, tmp_path, ReplaySettings(interval_s=0.001, settle_s=0))
    monkeypatch.setattr(replay.builder.websocket, "wait_listeners", nobody)

    async def run(*, task_status: trio.TaskStatus[Replay]) -> None:
        await replay.run(task_status=task_status)

    await nursery.start(run)
    endpoint = replay.builder_endpoints[0]
    reports = await replay.drive(endpoint.url, endpoint.secret_file)
    assert [report.block_hash for report in reports] == HASHES
    assert [report.number for report in reports] == [26207960, 26207961, 26207962]
    assert replay.builder.head_hash == HASHES[-1]
    assert [replay.flashblocks_of(block_hash) for block_hash in HASHES] == [1, 1, 1], "all claim the last hash"
    nursery.cancel_scope.cancel()


async def test_el_follows_the_chain_and_falls_back_to_a_recorded_parent(
    capture: tuple[CapturedPayload, ...],
) -> None:
    el = ReplayExecutionClient(capture)
    for params in REQUESTS:
        assert (await el.call("engine_newPayloadV3", params))["status"] == "VALID"
        await el.call("engine_forkchoiceUpdatedV3", [forkchoice_json(params[0]["blockHash"]), None])
        assert await el.call("eth_blockNumber") == params[0]["blockNumber"]
    parent = REQUESTS[1][0]["parentHash"]
    await el.call("engine_forkchoiceUpdatedV3", [forkchoice_json(parent), None])
    assert await el.call("eth_blockNumber") == REQUESTS[0][0]["blockNumber"]


async def test_each_payload_is_streamed_when_its_build_is_asked_for(
    autojump_clock: Clock, capture: tuple[CapturedPayload, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, sent = ReplayBuilder(capture), list[str]()
    monkeypatch.setattr(builder.websocket, "publish", sent.append)
    async with builder.serving(None):
        for count, captured in enumerate(capture, 1):
            with pytest.raises(RpcError, match="Unknown payload"):
                await builder.call("engine_getPayloadV3", [captured.payload_id])
            params = [forkchoice_json(captured.base.parent_hash), msgspec.to_builtins(captured.attributes())]
            await builder.call("engine_forkchoiceUpdatedV3", params)
            await builder.wait_streamed(captured.payload_id)
            assert len(sent) == count * PIECES
    assert [message.encode() for message in sent] == [line for each in capture for line in each.messages]
