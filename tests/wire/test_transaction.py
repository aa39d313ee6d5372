"""The hash of raw transactions, against other programs' RLP and keccak."""

import json
from pathlib import Path

import pytest
import rlp
from eth_hash.auto import keccak
from eth_utils.conversions import to_bytes
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.wire.transaction import transaction_hash

MAINNET = Path(__file__).parent.parent / "data" / "bundles" / "mainnet-transactions.json"
BODY = [
    b"\x01",
    b"",
    b"\x02" * 8,
    b"\x03",
    b"\x52\x08",
    b"\x11" * 20,
    b"",
    b"",
    [],
    b"\x05",
    [b"\x01" * 32],
    b"",
    b"\x09",
    b"\x08",
]


def test_it_is_keccak_of_the_bytes() -> None:
    for text in json.loads(MAINNET.read_text()):
        raw = to_bytes(hexstr=text)
        assert transaction_hash(raw) == keccak(raw)


@pytest.mark.parametrize("wrapper", [[], [b"\x01"]], ids=["EIP-4844", "EIP-7594"])
@pytest.mark.parametrize("blob", [b"b", b"b" * 131_072])
def test_blobs_beside_a_transaction_do_not_count(wrapper: list[bytes], blob: bytes) -> None:
    plain = b"\x03" + rlp.encode(BODY)
    carried = b"\x03" + rlp.encode([BODY, *wrapper, [blob], [b"c" * 48], [b"p" * 48]])
    assert transaction_hash(carried) == transaction_hash(plain) == keccak(plain)


@pytest.mark.parametrize("raw", ["03", "0380", "03c3f8", "03c2c8", "03f8", "03c1f9ffff"])
def test_a_broken_blob_transaction_has_none(raw: str) -> None:
    with pytest.raises(DecodeError, match="blob transaction"):
        transaction_hash(bytes.fromhex(raw))


@given(st.binary())
def test_any_bytes_have_a_hash_or_are_a_broken_blob_transaction(raw: bytes) -> None:
    try:
        assert len(transaction_hash(raw)) == 32
    except DecodeError:
        assert raw[:1] == b"\x03"
