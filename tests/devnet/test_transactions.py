from typing import Any

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st

from appliance.devnet.accounts import Account
from appliance.devnet.messages import hex_data, unhex
from appliance.devnet.transactions import (
    InvalidTransactionError,
    KnownTransactions,
    L1Origin,
    Transaction,
    Wallet,
    l1_attributes_deposit,
)
from tests.devnet.setting import CHAIN_ID, DEPOSIT, load, shared_known, shared_traffic, shared_wallet


def test_deposit_is_byte_for_byte_what_unichain_had() -> None:
    origin = L1Origin(
        number=0x92042E,
        timestamp=0x690BE848,
        hash=bytes.fromhex("0ffd7e2fb2c36e5f27c015872ce733a7b4f3fc0f4ee668d7469c557c48f8250f"),
        base_fee=9,
        blob_base_fee=1,
        batcher_hash=bytes.fromhex("0000000000000000000000004ab3387810ef500bfe05a49dc53a44c222cbab3e"),
        base_fee_scalar=0x7D0,
        blob_base_fee_scalar=0xDBBA0,
    )
    vector = load("engine/payload-id-vectors.json")[2]
    assert hex_data(l1_attributes_deposit(origin, 8)) == vector["attributes"]["transactions"][0]


def test_signed_transaction_is_recovered_by_who_did_not_sign_it() -> None:
    signed = shared_wallet().sign("alice", 7, data=b"\x00\x01hello", value=5, tip=3)
    decoded = KnownTransactions(CHAIN_ID).decode(signed.raw)
    assert decoded == signed
    assert decoded.sender == shared_wallet().address("alice")
    assert Account.recover_transaction(signed.raw) == Account.from_key(shared_wallet()._account("alice").key).address


def test_known_transaction_is_not_recovered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_raw: bytes) -> str:
        raise AssertionError("recovered again")

    signed = shared_traffic().take(0)
    assert signed is not None
    monkeypatch.setattr(Account, "recover_transaction", forbidden)
    assert shared_known().decode(signed.raw) == signed


def test_known_transactions_forget_the_oldest() -> None:
    known = KnownTransactions(CHAIN_ID, limit=2)
    transactions = [Transaction(bytes((n,)), b"", b"", n, 0, 0, 0, b"") for n in range(3)]
    for transaction in transactions:
        known.add(transaction)
    assert known.decode(transactions[2].raw) is transactions[2]
    with pytest.raises(InvalidTransactionError):
        known.decode(transactions[0].raw)


def test_real_deposit_is_decoded() -> None:
    raw = unhex(load("engine/opsepolia-26207960.json")["executing_payload"]["transactions"][0])
    decoded = KnownTransactions(CHAIN_ID).decode(raw)
    assert decoded.is_deposit
    assert decoded.sender.hex() == "deaddeaddeaddeaddeaddeaddeaddeaddead0001"
    assert decoded.gas_limit == 1_000_000


def test_another_chains_transaction_is_refused() -> None:
    raw = Wallet(KnownTransactions(1)).sign("alice", 0).raw
    with pytest.raises(InvalidTransactionError, match="invalid chain id for signer: have 1 want 901"):
        KnownTransactions(CHAIN_ID).decode(raw)


def test_legacy_transaction_is_refused() -> None:
    raw = unhex(load("engine/opsepolia-26207960.json")["executing_payload"]["transactions"][1])
    with pytest.raises(InvalidTransactionError, match="type not supported"):
        KnownTransactions(CHAIN_ID).decode(raw)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (9, b"\x23", "y parity is neither 0 nor 1"),  # eth-account alone takes 35 for 0
        (10, b"", "invalid transaction v, r, s values"),
        (11, b"\xff" * 32, "invalid transaction v, r, s values"),
    ],
)
def test_malformed_signature_is_refused(field: int, value: bytes, reason: str) -> None:
    fields = rlp.decode(shared_wallet().sign("alice", 0).raw[1:])
    fields[field] = value
    with pytest.raises(InvalidTransactionError, match=reason):
        KnownTransactions(CHAIN_ID).decode(b"\x02" + rlp.encode(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (1, []),  # a nonce of zero, whose signature would hold
        (4, []),
        (7, []),
        (8, b""),
        (slice(12, 12), [b""]),
        (slice(11, 12), []),
    ],
)
def test_fields_of_another_kind_are_refused(field: int | slice, value: Any) -> None:
    fields = rlp.decode(shared_wallet().sign("alice", 0).raw[1:])
    fields[field] = value
    with pytest.raises(InvalidTransactionError, match="its fields are not those of its type"):
        KnownTransactions(CHAIN_ID).decode(b"\x02" + rlp.encode(fields))


def test_fields_of_a_deposit_are_strings() -> None:
    fields = rlp.decode(DEPOSIT[1:])
    fields[1] = [b""] * 20
    with pytest.raises(InvalidTransactionError, match="its fields are not those of its type"):
        KnownTransactions(CHAIN_ID).decode(b"\x7e" + rlp.encode(fields))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x02", b"\x7e", b"\x02\xf8", b"\x7e\xf8"]))
def test_garbage_is_an_invalid_transaction_and_nothing_else(garbage: bytes, prefix: bytes) -> None:
    with pytest.raises(InvalidTransactionError):
        KnownTransactions(CHAIN_ID).decode(prefix + garbage)


@given(st.data())
def test_damaged_transaction_is_invalid_or_someone_elses(data: st.DataObject) -> None:
    signed = shared_traffic().take(3)
    assert signed is not None
    position = data.draw(st.integers(min_value=0, max_value=len(signed.raw) - 1))
    damaged = bytearray(signed.raw)
    damaged[position] ^= data.draw(st.integers(min_value=1, max_value=255))
    try:
        decoded = KnownTransactions(CHAIN_ID).decode(bytes(damaged))
    except InvalidTransactionError:
        return
    assert decoded.sender != signed.sender


def test_intrinsic_gas_counts_zeros_apart() -> None:
    transaction = Transaction(b"", b"", b"", 0, 0, 0, 0, data=b"\x00\x00\x01")
    assert transaction.intrinsic_gas == 21_000 + 4 + 4 + 16


def test_wallet_is_the_same_in_each_run_and_accounts_differ() -> None:
    again = Wallet(KnownTransactions(CHAIN_ID))
    assert again.address("alice") == shared_wallet().address("alice")
    assert again.address("alice") != again.address("bob")
    assert Wallet(KnownTransactions(CHAIN_ID), seed="other").address("alice") != again.address("alice")


def test_sequence_number_makes_another_deposit() -> None:
    origin = L1Origin(1, 2, bytes(32))
    assert l1_attributes_deposit(origin, 0) != l1_attributes_deposit(origin, 1)
    assert DEPOSIT[0] == 0x7E
