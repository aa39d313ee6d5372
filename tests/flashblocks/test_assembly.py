"""Assembly against real blocks, whose hashes are recomputed from the assembled bytes."""

import json

import pytest

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.flashblocks.assembly import assemble
from appliance.wire.flashblock import decode
from tests.flashblocks.making import make_base, make_flashblock, payload_id
from tests.support.blocks import (
    DATA,
    Json,
    block_hash,
    compressed,
    op_sepolia_blocks,
    slice_into_flashblocks,
    unichain_messages,
    unichain_new_payload,
)


def decoded(message: bytes, encoding: Encoding = Encoding.TEXT) -> Flashblock:
    found = decode(message, encoding)
    assert isinstance(found, Flashblock)
    return found


@pytest.mark.parametrize("encoding", Encoding)
def test_the_unichain_capture_assembles_to_the_sealed_block(encoding: Encoding) -> None:
    bodies = [body if encoding is Encoding.TEXT else compressed(body) for body in unichain_messages()]
    assembled = assemble([decoded(body, encoding) for body in bodies], builder="uni")
    payload, _versioned_hashes, parent_beacon_block_root, _requests = unichain_new_payload()["params"]
    assert assembled is not None
    assert json.loads(assembled.execution_payload) == payload
    assert assembled.block_hash == payload["blockHash"] == block_hash(payload, parent_beacon_block_root)
    assert assembled.parent_beacon_block_root == parent_beacon_block_root
    assert assembled.has_withdrawals_root


def test_what_decisions_need_is_beside_the_assembled_payload() -> None:
    assembled = assemble([decoded(body) for body in unichain_messages()], builder="uni", validated=True)
    payload = unichain_new_payload()["params"][0]
    assert assembled is not None
    assert (assembled.builder, assembled.payload_id) == ("uni", "0x03c446f063e3735a")
    assert (assembled.block_number, assembled.flashblocks, assembled.validated) == (35535698, 5, True)
    assert assembled.parent_hash == payload["parentHash"]
    assert assembled.gas_used == int(payload["gasUsed"], 16)
    assert assembled.timestamp == int(payload["timestamp"], 16)
    assert (assembled.fee_recipient, assembled.prev_randao) == (payload["feeRecipient"], payload["prevRandao"])
    assert (assembled.gas_limit, assembled.withdrawals) == (int(payload["gasLimit"], 16), ())
    assert [json.loads(transaction) for transaction in assembled.transactions] == payload["transactions"]


@pytest.mark.parametrize("count", range(1, 6))
def test_each_real_flashblock_with_its_predecessors_is_a_whole_block(count: int) -> None:
    assembled = assemble([decoded(body) for body in unichain_messages()[:count]], builder="uni")
    assert assembled is not None
    payload = json.loads(assembled.execution_payload)
    assert block_hash(payload, assembled.parent_beacon_block_root) == assembled.block_hash


@pytest.mark.parametrize("pieces", [1, 2, 7, 11])
@pytest.mark.parametrize("block", range(3))
def test_op_sepolia_blocks_sliced_into_flashblocks_assemble_to_the_real_payload(block: int, pieces: int) -> None:
    payload, root = list(op_sepolia_blocks())[block]
    sliced = slice_into_flashblocks(payload, root, "0x0000000000000001", pieces)
    assembled = assemble([decoded(json.dumps(message).encode()) for message in sliced], builder="op")
    assert assembled is not None
    assert json.loads(assembled.execution_payload) == payload
    assert block_hash(payload, root) == assembled.block_hash == real_hash(payload)
    assert not assembled.has_withdrawals_root


def real_hash(payload: Json) -> str:
    """The hash that the chain gave the block, from the fixture of the chain's own program."""
    number = int(payload["blockNumber"], 16)
    fixture = json.loads((DATA / "engine" / f"opsepolia-{number}.json").read_text())
    expected: str = fixture["expected_block_hash"]
    return expected


def test_the_base_repeated_on_every_index_changes_nothing() -> None:
    plain = [decoded(body) for body in unichain_messages()]
    messages = [json.loads(body) for body in unichain_messages()]
    repeated = [message | {"base": messages[0]["base"]} for message in messages]
    again = [decoded(json.dumps(message).encode()) for message in repeated]
    one, two = assemble(plain, builder="uni"), assemble(again, builder="uni")
    assert one is not None
    assert one == two


def test_blob_gas_comes_from_the_last_diff() -> None:
    messages = [json.loads(body) for body in unichain_messages()]
    messages[3]["diff"]["blob_gas_used"] = "0x1"
    messages[4]["diff"]["blob_gas_used"] = "0x2c"
    assembled = assemble([decoded(json.dumps(message).encode()) for message in messages], builder="uni")
    assert assembled is not None
    assert json.loads(assembled.execution_payload)["blobGasUsed"] == "0x2c"


def test_withdrawals_of_all_flashblocks_are_there_in_order() -> None:
    messages = [json.loads(body) for body in unichain_messages()]
    for number, message in enumerate(messages):
        message["diff"]["withdrawals"] = [{"index": hex(number)}]
    assembled = assemble([decoded(json.dumps(message).encode()) for message in messages], builder="uni")
    assert assembled is not None
    withdrawals = json.loads(assembled.execution_payload)["withdrawals"]
    assert withdrawals == [{"index": hex(number)} for number in range(5)]


def test_transactions_are_not_re_encoded() -> None:
    body = unichain_messages()[0].replace(b'"0x02f87e', b'"\\u0030x02f87e')
    assembled = assemble([decoded(body)], builder="uni")
    assert assembled is not None
    assert assembled.transactions[1].startswith(b'"\\u0030x02f87e')
    assert assembled.transactions[1] in assembled.execution_payload


def test_what_is_no_block_is_not_assembled() -> None:
    first, second = (decoded(body) for body in unichain_messages()[:2])
    no_diff = decoded((DATA / "flashblocks" / "schema" / "base-wsproxy-filter-1.json").read_bytes())
    assert assemble([], builder="uni") is None
    assert assemble([second], builder="uni") is None
    assert assemble([no_diff], builder="uni") is None
    assert assemble([first, no_diff], builder="uni") is None


def test_an_empty_flashblock_leaves_the_block_as_it_was() -> None:
    lines = (DATA / "flashblocks" / "base-sepolia-33439826.jsonl").read_bytes().splitlines()
    flashblocks = [decoded(line) for line in lines]
    third, fourth = assemble(flashblocks[:3], builder="base"), assemble(flashblocks[:4], builder="base")
    assert third is not None
    assert fourth is not None
    assert third.execution_payload == fourth.execution_payload


def test_synthetic_flashblocks_of_the_other_tests_assemble_too() -> None:
    flashblocks = [make_flashblock(payload_id(1), index, base=make_base()) for index in range(3)]
    assembled = assemble(flashblocks, builder="alpha")
    assert assembled is not None
    assert len(assembled.transactions) == 3
