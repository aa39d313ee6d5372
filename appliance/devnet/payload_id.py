"""Payload ids by op-geth's rule: a hash over what is to be built, so that all clients agree on the name."""

from functools import lru_cache
from hashlib import sha256

from appliance.devnet.chain import withdrawal_fields
from appliance.devnet.merkle import keccak, rlp_encode
from appliance.devnet.messages import PayloadAttributes, quantity, unhex
from appliance.domain.payloads import PayloadId


def payload_id(parent_hash: str, attributes: PayloadAttributes, version: int) -> PayloadId:
    """First 8 bytes of SHA-256 over parent and attributes; byte 0 becomes `version`.

    Rule: op-geth `BuildPayloadArgs.Id`, REFERENCE 1. `version` is that of forkchoiceUpdated in op-geth,
    and always 4 in op-reth. ValueError when a field is not hex.
    """
    digest = sha256(
        b"".join(
            (
                unhex(parent_hash),
                quantity(attributes.timestamp).to_bytes(8, "big"),
                unhex(attributes.prev_randao),
                unhex(attributes.suggested_fee_recipient),
                rlp_encode([withdrawal_fields(item) for item in attributes.withdrawals or ()]),
                unhex(attributes.parent_beacon_block_root or "0x"),
                _optimism_fields(attributes),
            )
        )
    ).digest()
    return PayloadId(f"0x{version:02x}{digest[1:8].hex()}")


def _optimism_fields(attributes: PayloadAttributes) -> bytes:
    """The part of the OP Stack; nothing at all when the attributes carry none of its fields."""
    transactions = attributes.transactions or ()
    if not (attributes.no_tx_pool or transactions or attributes.gas_limit or attributes.eip1559_params):
        return b""
    parts = [bytes((bool(attributes.no_tx_pool),)), len(transactions).to_bytes(8, "big")]
    parts += map(_transaction_hash, transactions)
    if attributes.gas_limit is not None:
        parts.append(quantity(attributes.gas_limit).to_bytes(8, "big"))
    parts.append(unhex(attributes.eip1559_params or "0x"))
    if attributes.min_base_fee is not None:
        parts.append(quantity(attributes.min_base_fee).to_bytes(8, "big"))
    return b"".join(parts)


@lru_cache(maxsize=256)  # every upstream hashes the same deposits
def _transaction_hash(transaction: str) -> bytes:
    return keccak(unhex(transaction))
