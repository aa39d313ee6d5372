from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from appliance.devnet import ledger as ledger_module
from appliance.devnet.chain import Fork, Header, header_of
from appliance.devnet.execution import Block, Execution, header_to_build
from appliance.devnet.ledger import Ledger
from appliance.devnet.messages import ForkchoiceState, PayloadAttributes, RpcError, decode_as
from tests.devnet.setting import DEPOSIT, attributes, fresh_ledger, shared_known, shared_traffic


def build_on(parent: Block, users: int = 2, **changes: Any) -> Block:
    wanted = decode_as(PayloadAttributes, attributes(parent, **changes))
    execution = Execution(parent, header_to_build(parent.header, wanted, Fork.ISTHMUS))
    execution.add(shared_known().decode(DEPOSIT))
    for _ in range(users):
        transaction = shared_traffic().take(shared_traffic().next_sequence(execution.nonces))
        assert transaction is not None
        execution.add(transaction)
    return execution.seal()


def offer(ledger: Ledger, block: Block) -> dict[str, Any]:
    return ledger.new_payload(block.payload(), block.parent_beacon_block_root)


def grow(ledger: Ledger, count: int) -> list[Block]:
    blocks = []
    for _ in range(count):
        block = build_on(ledger.head, users=1)
        assert offer(ledger, block)["status"] == "VALID"
        ledger.forkchoice_updated(ForkchoiceState(block.hash))
        blocks.append(block)
    return blocks


def test_honest_block_is_valid_and_its_state_known() -> None:
    ledger = fresh_ledger()
    block = build_on(ledger.head)
    assert offer(ledger, block) == {"status": "VALID", "latestValidHash": block.hash, "validationError": None}
    assert ledger.blocks[block.hash] == block
    assert ledger.head.number == 0, "newPayload does not move the head"


def test_block_on_an_unknown_parent_is_syncing() -> None:
    other = fresh_ledger(number=7)
    block = build_on(other.head)
    assert offer(fresh_ledger(), block)["status"] == "SYNCING"


HEADER_LIES: list[tuple[Callable[[Header], Header], str]] = [
    (lambda header: replace(header, state_root=bytes(32)), "invalid state root"),
    (lambda header: replace(header, receipts_root=bytes(32)), "invalid receipts root"),
    (lambda header: replace(header, gas_used=header.gas_used + 1), "invalid gas used"),
    (lambda header: replace(header, gas_limit=header.gas_used - 1), "invalid gasUsed"),
    (lambda header: replace(header, number=header.number + 1), "invalid block number: have 2, want 1"),
    (lambda header: replace(header, timestamp=1_700_000_000), "invalid timestamp"),
    (lambda header: replace(header, base_fee=header.base_fee + 1), "invalid baseFee"),
    (lambda header: replace(header, withdrawals_root=bytes(32)), "invalid withdrawals root"),
    (lambda header: replace(header, excess_blob_gas=1), "invalid blob gas"),
    (lambda header: replace(header, logs_bloom=b"\x01" * 256), "invalid logs bloom"),
]


@pytest.mark.parametrize(("lie", "reason"), HEADER_LIES, ids=[reason for _lie, reason in HEADER_LIES])
def test_block_that_does_not_add_up_is_invalid(lie: Callable[[Header], Header], reason: str) -> None:
    ledger = fresh_ledger()
    block = build_on(ledger.head)
    status = offer(ledger, replace(block, header=lie(block.header)))
    assert status["status"] == "INVALID"
    assert reason in status["validationError"]
    assert status["latestValidHash"] == ledger.head.hash
    assert list(ledger.blocks) == [ledger.head.hash]


def test_wrong_hash_is_found_before_anything_else() -> None:
    ledger = fresh_ledger()
    block = build_on(ledger.head)
    status = offer(ledger, replace(block, claimed_hash="0x" + "00" * 32))
    assert status["status"] == "INVALID"
    assert "blockhash mismatch" in status["validationError"]
    assert status["latestValidHash"] is None


def test_missing_transaction_changes_the_hash() -> None:
    ledger = fresh_ledger()
    payload = build_on(ledger.head).payload()
    shorter = msgspec.structs.replace(payload, transactions=payload.transactions[:-1])
    assert "blockhash mismatch" in ledger.new_payload(shorter, "0x" + "0b" * 32)["validationError"]


def test_transaction_that_cannot_be_executed_makes_the_block_invalid() -> None:
    ledger = fresh_ledger()
    block = build_on(ledger.head)
    repeated = Block(block.header, (*block.transactions, block.transactions[-1]), {})
    header = replace(block.header, transactions_root=header_of(repeated.payload(), None).transactions_root)
    status = offer(ledger, Block(header, repeated.transactions, {}))
    assert status["status"] == "INVALID"
    assert "could not apply tx 3: nonce too low" in status["validationError"]


def test_malformed_payload_is_an_error_and_not_a_verdict() -> None:
    ledger = fresh_ledger()
    payload = msgspec.structs.replace(build_on(ledger.head).payload(), state_root="0xzz")
    with pytest.raises(RpcError) as caught:
        ledger.new_payload(payload, None)
    assert caught.value.code == -32602


def test_head_moves_only_to_known_blocks() -> None:
    ledger = fresh_ledger()
    block = build_on(ledger.head)
    assert ledger.forkchoice_updated(ForkchoiceState(block.hash))["status"] == "SYNCING"
    offer(ledger, block)
    assert ledger.forkchoice_updated(ForkchoiceState(block.hash))["status"] == "VALID"
    assert ledger.head == block


def test_unknown_safe_or_finalized_block_is_minus_38002() -> None:
    ledger = fresh_ledger()
    for state in (
        ForkchoiceState(ledger.head.hash, safe_block_hash="0x" + "01" * 32),
        ForkchoiceState(ledger.head.hash, finalized_block_hash="0x" + "01" * 32),
    ):
        with pytest.raises(RpcError) as caught:
            ledger.forkchoice_updated(state)
        assert caught.value.code == -38002


def test_canonical_chain_follows_the_head_through_a_reorganisation() -> None:
    ledger = fresh_ledger()
    first, second = grow(ledger, 2)
    side = build_on(ledger.blocks[ledger.canonical[0]], users=0)
    offer(ledger, side)
    ledger.forkchoice_updated(ForkchoiceState(side.hash))
    assert ledger.canonical[1] == side.hash
    assert 2 not in ledger.canonical
    ledger.forkchoice_updated(ForkchoiceState(second.hash))
    assert [ledger.canonical[number] for number in (1, 2)] == [first.hash, second.hash]


def test_blocks_by_name_and_number() -> None:
    ledger = fresh_ledger(number=100)
    start = ledger.head
    blocks = grow(ledger, 2)
    ledger.forkchoice_updated(ForkchoiceState(blocks[1].hash, blocks[0].hash, start.hash))
    assert ledger.by_number("latest") == ledger.by_number("pending") == blocks[1]
    assert ledger.by_number("safe") == blocks[0]
    assert ledger.by_number("finalized") == ledger.by_number("earliest") == start
    assert ledger.by_number(hex(101)) == blocks[0]
    assert ledger.by_number("0x999") is None
    with pytest.raises(ValueError, match="invalid literal"):
        ledger.by_number("newest")


def test_client_that_missed_blocks_adopts_them_from_a_peer() -> None:
    ahead, behind = fresh_ledger(), fresh_ledger()
    blocks = grow(ahead, 5)
    assert offer(behind, blocks[-1])["status"] == "SYNCING"
    assert behind.adopt(blocks[-1].hash, ahead.blocks.get)
    assert behind.forkchoice_updated(ForkchoiceState(blocks[-1].hash))["status"] == "VALID"
    assert behind.canonical == ahead.canonical
    assert not behind.adopt("0x" + "01" * 32, ahead.blocks.get), "nobody knows that one"


def test_only_the_newest_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BLOCKS_KEPT", 3)
    ledger = fresh_ledger()
    blocks = grow(ledger, 5)
    assert list(ledger.blocks) == [block.hash for block in blocks[-3:]]
    assert len(ledger.canonical) <= 4
    assert ledger.by_number("latest") == blocks[-1]
