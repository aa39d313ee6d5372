from dataclasses import replace
from typing import Any

import pytest
import rlp

from appliance.devnet.chain import EMPTY_BLOOM, Fork
from appliance.devnet.execution import (
    MAX_DEPOSIT_GAS,
    Block,
    Execution,
    difference,
    genesis,
    header_to_build,
)
from appliance.devnet.merkle import EMPTY_LIST_ROOT, list_root
from appliance.devnet.messages import PayloadAttributes, decode_as
from appliance.devnet.transactions import InvalidTransactionError, Transaction
from tests.devnet.setting import DEPOSIT, GENESIS_TIME, attributes, shared_known, shared_traffic, shared_wallet


def execution_on(parent: Block, **changes: Any) -> Execution:
    wanted = decode_as(PayloadAttributes, attributes(parent, **changes))
    return Execution(parent, header_to_build(parent.header, wanted, Fork.ISTHMUS))


def user(sequence: int) -> Transaction:
    transaction = shared_traffic().take(sequence)
    assert transaction is not None
    return transaction


def deposit() -> Transaction:
    return shared_known().decode(DEPOSIT)


def test_genesis_is_an_empty_block_of_its_fork() -> None:
    block = genesis(GENESIS_TIME, number=5)
    assert (block.number, block.header.timestamp, block.transactions) == (5, GENESIS_TIME, ())
    assert block.header.transactions_root == EMPTY_LIST_ROOT
    assert genesis(GENESIS_TIME, fork=Fork.BEDROCK).parent_beacon_block_root is None


def test_sealed_block_holds_roots_gas_and_nonces() -> None:
    parent = genesis(GENESIS_TIME)
    execution = execution_on(parent)
    execution.add_all([deposit(), user(0), user(1)])
    block = execution.seal()
    assert block.number == 1
    assert block.transactions == (DEPOSIT, user(0).raw, user(1).raw)
    assert block.header.transactions_root == list_root(block.transactions)
    assert block.header.gas_used == MAX_DEPOSIT_GAS + user(0).intrinsic_gas + user(1).intrinsic_gas
    assert block.nonces == {user(0).sender: 1, user(1).sender: 1}
    assert block.header.parent_hash == parent.header.hash
    assert block.payload().block_hash == block.hash


def test_tips_are_the_blocks_value() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add(user(0))
    assert execution.tips == user(0).intrinsic_gas * user(0).max_tip


def test_sealing_goes_on_cumulatively() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add(deposit())
    first = execution.seal()
    execution.add(user(0))
    second = execution.seal()
    assert second.transactions[: len(first.transactions)] == first.transactions
    assert len({first.hash, second.hash}) == 2
    assert len({first.header.state_root, second.header.state_root}) == 2
    assert first.nonces == {}, "the first block's state is not touched by what came later"


def test_receipts_root_is_that_of_rlp_receipts() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add_all([deposit(), user(0)])
    gas = MAX_DEPOSIT_GAS
    of_deposit = b"\x7e" + rlp.encode([1, gas, EMPTY_BLOOM, [], 0, 1])
    of_user = b"\x02" + rlp.encode([1, gas + user(0).intrinsic_gas, EMPTY_BLOOM, []])
    assert execution.seal().header.receipts_root == list_root([of_deposit, of_user])


def test_receipts_json_is_tagged_by_type() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add_all([deposit(), user(0)])
    receipts = execution.receipts_json(0)
    assert [next(iter(receipt)) for receipt in receipts.values()] == ["Deposit", "Eip1559"]
    assert list(execution.receipts_json(1)) == ["0x" + user(0).hash.hex()]
    assert receipts["0x" + user(0).hash.hex()]["Eip1559"]["cumulativeGasUsed"] == hex(execution.gas_used)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": 1}, "nonce too high: tx 1 state 0"),
        ({"max_fee": 1}, "max fee per gas less than block base fee"),
        ({"gas_limit": 21_000, "data": b"\x01"}, "intrinsic gas too low: have 21000, want 21016"),
    ],
)
def test_transaction_that_cannot_be_executed(changes: dict[str, Any], reason: str) -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add(deposit())
    before = execution.seal()
    with pytest.raises(InvalidTransactionError, match=reason):
        execution.add(replace(user(0), **changes))
    assert execution.seal() == before, "a refused transaction changes nothing"


def test_same_transaction_twice() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add(user(0))
    with pytest.raises(InvalidTransactionError, match="nonce too low"):
        execution.add(user(0))


def test_gas_limit_of_the_block() -> None:
    execution = execution_on(genesis(GENESIS_TIME), gasLimit=hex(60_000))
    execution.add(deposit())
    with pytest.raises(InvalidTransactionError, match="gas limit reached"):
        execution.add(user(0))
    assert execution.nonces == {}


def test_deposits_come_first() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add_all([deposit(), deposit(), user(0)])
    with pytest.raises(InvalidTransactionError, match="deposit transaction after a user transaction"):
        execution.add(deposit())


def test_difference_names_the_first_field_that_does_not_follow() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add_all([deposit(), user(0)])
    header = execution.seal().header
    assert difference(header, header) is None
    assert "invalid state root" in str(difference(replace(header, state_root=bytes(32)), header))
    assert "invalid receipts root" in str(difference(replace(header, receipts_root=bytes(32)), header))
    assert "invalid logs bloom" in str(difference(replace(header, logs_bloom=b"\x01" * 256), header))
    assert "invalid gas used (remote: 1" in str(difference(replace(header, gas_used=1), header))


def test_header_to_build_takes_what_attributes_say() -> None:
    parent = genesis(GENESIS_TIME)
    wanted = decode_as(PayloadAttributes, attributes(parent, minBaseFee=7, gasLimit=None))
    header = header_to_build(parent.header, wanted, Fork.ISTHMUS)
    assert header.gas_limit == parent.header.gas_limit, "without gasLimit the parent's goes on"
    assert header.extra_data.hex() == "01000000fa000000060000000000000007"
    assert header.timestamp == GENESIS_TIME + 2
    assert (header.miner.hex()[:2], header.prev_randao) == ("42", b"\x07" * 32)
    assert header.base_fee < parent.header.base_fee


def test_fork_decides_the_fields_of_what_is_built() -> None:
    parent = genesis(GENESIS_TIME, fork=Fork.BEDROCK)
    wanted = decode_as(PayloadAttributes, attributes(parent))
    assert header_to_build(parent.header, wanted, Fork.BEDROCK).withdrawals_root is None
    assert header_to_build(parent.header, wanted, Fork.CANYON).parent_beacon_block_root is None
    assert header_to_build(parent.header, wanted, Fork.ECOTONE).parent_beacon_block_root == b"\x0b" * 32


def test_block_may_claim_another_hash_than_its_headers() -> None:
    block = replace(genesis(GENESIS_TIME), claimed_hash="0x" + "ab" * 32)
    assert block.hash == block.payload().block_hash == "0x" + "ab" * 32


def test_wallets_own_transaction_fits_any_block() -> None:
    execution = execution_on(genesis(GENESIS_TIME))
    execution.add(shared_wallet().sign("carol", 0, data=b"hello"))
    assert execution.nonces == {shared_wallet().address("carol"): 1}
