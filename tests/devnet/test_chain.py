import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from appliance.devnet.chain import (
    EMPTY_OMMERS_HASH,
    EMPTY_REQUESTS_HASH,
    Fork,
    Header,
    extra_data_of,
    header_of,
    next_base_fee,
    payload_of,
    with_fork_fields,
)
from appliance.devnet.merkle import list_root
from appliance.devnet.messages import ExecutionPayload, decode_as, hex_data, quantity, unhex
from tests.devnet.setting import DATA, load

OP_SEPOLIA = [f"engine/opsepolia-{number}.json" for number in range(26207960, 26207964)]


def header_from_json(fields: dict[str, Any]) -> Header:
    """A header as eth_getBlockByNumber has it, Ecotone fields included."""
    return Header(
        parent_hash=unhex(fields["parentHash"]),
        miner=unhex(fields["miner"]),
        state_root=unhex(fields["stateRoot"]),
        transactions_root=unhex(fields["transactionsRoot"]),
        receipts_root=unhex(fields["receiptsRoot"]),
        logs_bloom=unhex(fields["logsBloom"]),
        number=quantity(fields["number"]),
        gas_limit=quantity(fields["gasLimit"]),
        gas_used=quantity(fields["gasUsed"]),
        timestamp=quantity(fields["timestamp"]),
        extra_data=unhex(fields["extraData"]),
        prev_randao=unhex(fields["mixHash"]),
        base_fee=quantity(fields["baseFeePerGas"]),
        withdrawals_root=unhex(fields["withdrawalsRoot"]),
        blob_gas_used=quantity(fields["blobGasUsed"]),
        excess_blob_gas=quantity(fields["excessBlobGas"]),
        parent_beacon_block_root=unhex(fields["parentBeaconBlockRoot"]),
    )


def new_payloads() -> Iterator[tuple[ExecutionPayload, str]]:
    """The recorded newPayload requests: payload and parent beacon block root."""
    lines = (DATA / "engine/opsepolia-newPayloadV3-26207960-26207962.jsonl").read_text().splitlines()
    lines.append((DATA / "engine/unichain-sepolia-35535698-newPayloadV4.json").read_text())
    for line in lines:
        params = json.loads(line)["params"]
        yield decode_as(ExecutionPayload, params[0]), params[2]


def test_headers_of_real_blocks_hash_to_what_the_next_block_calls_its_parent() -> None:
    blocks = [load(name) for name in OP_SEPOLIA]
    hashes = [hex_data(header_from_json(block["parent_header"]).hash) for block in blocks]
    assert hashes[1:] == [block["expected_block_hash"] for block in blocks[:-1]]


def test_real_payloads_hash_to_the_block_hash_that_they_carry() -> None:
    checked = 0
    for payload, beacon_root in new_payloads():
        assert hex_data(header_of(payload, beacon_root).hash) == payload.block_hash
        checked += 1
    assert checked == 4


@pytest.mark.parametrize("name", OP_SEPOLIA[1:])
def test_transactions_root_of_real_blocks(name: str) -> None:
    previous = load(OP_SEPOLIA[OP_SEPOLIA.index(name) - 1])["executing_payload"]["transactions"]
    root = list_root([unhex(transaction) for transaction in previous])
    assert hex_data(root) == load(name)["parent_header"]["transactionsRoot"]


def test_base_fee_of_real_blocks_follows_from_their_parents() -> None:
    headers = [header_from_json(load(name)["parent_header"]) for name in OP_SEPOLIA]
    assert [next_base_fee(header) for header in headers[:-1]] == [header.base_fee for header in headers[1:]]


def test_header_and_payload_are_two_forms_of_one_block() -> None:
    for payload, beacon_root in new_payloads():
        header = header_of(payload, beacon_root)
        again = payload_of(header, tuple(map(unhex, payload.transactions)))
        assert msgspec.to_builtins(again) == msgspec.to_builtins(payload)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state_root", "0x" + "11" * 32),
        ("gas_used", "0x1"),
        ("extra_data", "0x"),
        ("transactions", []),
        ("withdrawals", [{"index": "0x0", "validatorIndex": "0x1", "address": "0x" + "00" * 20, "amount": "0x5"}]),
    ],
)
def test_any_other_field_gives_another_hash(field: str, value: Any) -> None:
    payload, beacon_root = next(new_payloads())
    changed = msgspec.structs.replace(payload, **{field: value})
    assert hex_data(header_of(changed, beacon_root).hash) != payload.block_hash


def test_malformed_hex_is_a_value_error() -> None:
    payload, beacon_root = next(new_payloads())
    with pytest.raises(ValueError, match="not 0x-prefixed hex"):
        header_of(msgspec.structs.replace(payload, state_root="beef"), beacon_root)


@pytest.mark.parametrize(
    ("fork", "fields"), [(Fork.BEDROCK, 16), (Fork.CANYON, 17), (Fork.ECOTONE, 20), (Fork.ISTHMUS, 21)]
)
def test_each_fork_adds_its_header_fields(fork: Fork, fields: int) -> None:
    bare = replace(
        header_from_json(load(OP_SEPOLIA[0])["parent_header"]),
        withdrawals_root=None,
        blob_gas_used=None,
        excess_blob_gas=None,
        parent_beacon_block_root=None,
    )
    header = with_fork_fields(bare, fork, bytes(32))
    assert len(header._fields()) == fields
    payload = payload_of(header, ())
    assert (payload.withdrawals is None, payload.blob_gas_used is None, payload.withdrawals_root is None) == (
        fork < Fork.CANYON,
        fork < Fork.ECOTONE,
        fork < Fork.ISTHMUS,
    )


def test_constants_are_the_well_known_hashes() -> None:
    assert EMPTY_OMMERS_HASH.hex() == "1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"
    assert EMPTY_REQUESTS_HASH.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_extra_data_by_fork() -> None:
    params = bytes.fromhex("000000320000000c")
    assert extra_data_of(None, None) == b""
    assert extra_data_of(params, None).hex() == "00000000320000000c"
    assert extra_data_of(params, 100).hex() == "01000000320000000c0000000000000064"
    assert extra_data_of(bytes(8), None).hex() == "00000000fa00000006", "zeros stand for the chain's defaults"


def test_base_fee_moves_towards_the_target_and_not_below_jovians_minimum() -> None:
    header = replace(
        header_from_json(load(OP_SEPOLIA[0])["parent_header"]),
        gas_limit=60_000_000,
        base_fee=1_000_000,
        extra_data=extra_data_of(None, None),
    )
    at_target = replace(header, gas_used=10_000_000)
    assert next_base_fee(at_target) == 1_000_000
    assert next_base_fee(replace(header, gas_used=60_000_000)) == 1_000_000 + 1_000_000 * 5 // 250
    assert next_base_fee(replace(header, gas_used=0)) == 1_000_000 - 1_000_000 // 250
    jovian = replace(header, gas_used=0, extra_data=extra_data_of(bytes(8), 2_000_000))
    assert next_base_fee(jovian) == 2_000_000
    assert next_base_fee(replace(at_target, gas_used=10_000_001, base_fee=1)) == 2, "at least one wei up"
