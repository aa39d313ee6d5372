"""Flashblocks as op-rbuilder writes them: the JSON of one message, from a block in the making. Pure."""

from typing import Any

import brotli
import msgspec

from appliance.devnet.engine_api import BuildJob
from appliance.devnet.execution import Block
from appliance.devnet.messages import ExecutionPayload, hex_data
from appliance.domain.flashblocks import Encoding


def flashblock(job: BuildJob, index: int, start: int, *, repeat_base: bool = False) -> dict[str, Any]:
    """Flashblock `index`: the transactions of the block from number `start` on, all else cumulative.

    `repeat_base` puts `base` into each one, as Unichain's builder has been seen to do.
    """
    block = job.block()
    payload = block.payload()
    message: dict[str, Any] = {"payload_id": job.payload_id, "index": index}
    if index == 0 or repeat_base:
        message["base"] = base_of(block, payload)
    message["diff"] = _diff(payload, start)
    message["metadata"] = {
        "block_number": block.number,
        "new_account_balances": {},
        "receipts": job.execution.receipts_json(start),
    }
    return message


def base_of(block: Block, payload: ExecutionPayload) -> dict[str, str]:
    """What holds for the whole block."""
    return {
        "parent_beacon_block_root": block.parent_beacon_block_root or hex_data(bytes(32)),
        "parent_hash": payload.parent_hash,
        "fee_recipient": payload.fee_recipient,
        "prev_randao": payload.prev_randao,
        "block_number": payload.block_number,
        "gas_limit": payload.gas_limit,
        "timestamp": payload.timestamp,
        "extra_data": payload.extra_data,
        "base_fee_per_gas": payload.base_fee_per_gas,
    }


def _diff(payload: ExecutionPayload, start: int) -> dict[str, Any]:
    diff: dict[str, Any] = {
        "state_root": payload.state_root,
        "receipts_root": payload.receipts_root,
        "logs_bloom": payload.logs_bloom,
        "gas_used": payload.gas_used,
        "block_hash": payload.block_hash,
        "transactions": payload.transactions[start:],
        "withdrawals": [],
    }
    if payload.withdrawals_root is not None:
        diff["withdrawals_root"] = payload.withdrawals_root
    return diff


def encode(message: dict[str, Any], encoding: Encoding) -> str | bytes:
    """The websocket message: text, or brotli for a binary frame (quality 5, as Base's endpoint has it)."""
    text = msgspec.json.encode(message)
    if encoding is Encoding.TEXT:
        return text.decode()
    return bytes(brotli.compress(text, quality=5))
