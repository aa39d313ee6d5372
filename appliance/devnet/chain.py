"""Block headers of the OP Stack, from Bedrock to Jovian: hash, base fee and extra data.

A block's hash is keccak(RLP(header)); everything that an `ExecutionPayload` does not carry is fixed by
the fork, so payload and parent beacon block root together give the header (op-geth
`beacon/engine/types.go`; OP specs: Holocene `extraData`, Isthmus `withdrawalsRoot`).
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Final

from appliance.devnet.merkle import EMPTY_LIST_ROOT, Rlp, keccak, list_root, rlp_encode, rlp_integer
from appliance.devnet.messages import ExecutionPayload, hex_data, quantity, unhex

EMPTY_OMMERS_HASH: Final = keccak(rlp_encode([]))
EMPTY_REQUESTS_HASH: Final = sha256(b"").digest()  # EIP-7685 over no requests, which is all that OP has
EMPTY_BLOOM: Final = bytes(256)
ZERO_ROOT: Final = bytes(32)
# Chain defaults when the attributes carry zeros (OP specs, Holocene): OP Mainnet's Canyon values.
DEFAULT_DENOMINATOR: Final = 250
DEFAULT_ELASTICITY: Final = 6


class Fork(IntEnum):
    """The forks that change a payload's shape, by the version of getPayload that serves it first."""

    BEDROCK = 1
    CANYON = 2
    ECOTONE = 3
    ISTHMUS = 4


@dataclass(frozen=True)
class Header:
    """A block header; optional fields are absent before their fork."""

    parent_hash: bytes
    miner: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    logs_bloom: bytes
    number: int
    gas_limit: int
    gas_used: int
    timestamp: int
    extra_data: bytes
    prev_randao: bytes
    base_fee: int
    withdrawals_root: bytes | None = None
    blob_gas_used: int | None = None
    excess_blob_gas: int | None = None
    parent_beacon_block_root: bytes | None = None
    requests_hash: bytes | None = None

    @cached_property
    def hash(self) -> bytes:
        """keccak(RLP(header))."""
        return keccak(rlp_encode(self._fields()))

    def _fields(self) -> list[Rlp]:
        fields: list[Rlp] = [
            self.parent_hash,
            EMPTY_OMMERS_HASH,
            self.miner,
            self.state_root,
            self.transactions_root,
            self.receipts_root,
            self.logs_bloom,
            b"",  # difficulty
            rlp_integer(self.number),
            rlp_integer(self.gas_limit),
            rlp_integer(self.gas_used),
            rlp_integer(self.timestamp),
            self.extra_data,
            self.prev_randao,
            bytes(8),  # nonce
            rlp_integer(self.base_fee),
        ]
        return fields + self._fork_fields()

    def _fork_fields(self) -> list[Rlp]:
        optional: tuple[bytes | int | None, ...] = (
            self.withdrawals_root,
            self.blob_gas_used,
            self.excess_blob_gas,
            self.parent_beacon_block_root,
            self.requests_hash,
        )
        return [rlp_integer(item) if isinstance(item, int) else item for item in optional if item is not None]


def header_of(payload: ExecutionPayload, parent_beacon_block_root: str | None) -> Header:
    """The header that `payload` stands for, its transactions root rebuilt; ValueError on malformed hex.

    `withdrawalsRoot` in the payload means Isthmus: it is the header's own field then, and requests are
    hashed as well. Before that the field is the root of the withdrawals list (Canyon) or absent.
    """
    isthmus = payload.withdrawals_root is not None
    return Header(
        parent_hash=unhex(payload.parent_hash),
        miner=unhex(payload.fee_recipient),
        state_root=unhex(payload.state_root),
        transactions_root=list_root([unhex(transaction) for transaction in payload.transactions]),
        receipts_root=unhex(payload.receipts_root),
        logs_bloom=unhex(payload.logs_bloom),
        number=quantity(payload.block_number),
        gas_limit=quantity(payload.gas_limit),
        gas_used=quantity(payload.gas_used),
        timestamp=quantity(payload.timestamp),
        extra_data=unhex(payload.extra_data),
        prev_randao=unhex(payload.prev_randao),
        base_fee=quantity(payload.base_fee_per_gas),
        withdrawals_root=_withdrawals_root(payload),
        blob_gas_used=_optional_quantity(payload.blob_gas_used),
        excess_blob_gas=_optional_quantity(payload.excess_blob_gas),
        parent_beacon_block_root=unhex(parent_beacon_block_root) if parent_beacon_block_root else None,
        requests_hash=EMPTY_REQUESTS_HASH if isthmus else None,
    )


def payload_of(header: Header, transactions: tuple[bytes, ...]) -> ExecutionPayload:
    """The payload that newPayload takes for a block without withdrawals."""
    cancun = header.blob_gas_used is not None
    isthmus = header.requests_hash is not None
    return ExecutionPayload(
        parent_hash=hex_data(header.parent_hash),
        fee_recipient=hex_data(header.miner),
        state_root=hex_data(header.state_root),
        receipts_root=hex_data(header.receipts_root),
        logs_bloom=hex_data(header.logs_bloom),
        prev_randao=hex_data(header.prev_randao),
        block_number=hex(header.number),
        gas_limit=hex(header.gas_limit),
        gas_used=hex(header.gas_used),
        timestamp=hex(header.timestamp),
        extra_data=hex_data(header.extra_data),
        base_fee_per_gas=hex(header.base_fee),
        block_hash=hex_data(header.hash),
        transactions=list(map(hex_data, transactions)),
        withdrawals=None if header.withdrawals_root is None else [],
        blob_gas_used=hex(header.blob_gas_used or 0) if cancun else None,
        excess_blob_gas=hex(header.excess_blob_gas or 0) if cancun else None,
        withdrawals_root=hex_data(header.withdrawals_root or b"") if isthmus else None,
    )


def with_fork_fields(header: Header, fork: Fork, parent_beacon_block_root: bytes | None) -> Header:
    """`header` with the optional fields that a block of `fork` without withdrawals and blobs carries."""
    return replace(
        header,
        withdrawals_root=EMPTY_LIST_ROOT if fork >= Fork.CANYON else None,
        blob_gas_used=0 if fork >= Fork.ECOTONE else None,
        excess_blob_gas=0 if fork >= Fork.ECOTONE else None,
        parent_beacon_block_root=(parent_beacon_block_root or ZERO_ROOT) if fork >= Fork.ECOTONE else None,
        requests_hash=EMPTY_REQUESTS_HASH if fork >= Fork.ISTHMUS else None,
    )


def extra_data_of(eip1559_params: bytes | None, min_base_fee: int | None) -> bytes:
    """Header extra data: Holocene's version 0 with denominator and elasticity, Jovian's 1 with a minimum.

    Eight zero bytes stand for the chain's defaults; no parameters at all is a chain before Holocene.
    """
    if eip1559_params is None:
        return b""
    if eip1559_params == bytes(8):
        eip1559_params = DEFAULT_DENOMINATOR.to_bytes(4, "big") + DEFAULT_ELASTICITY.to_bytes(4, "big")
    if min_base_fee is None:
        return b"\x00" + eip1559_params
    return b"\x01" + eip1559_params + min_base_fee.to_bytes(8, "big")


def next_base_fee(parent: Header) -> int:
    """Base fee in wei of the block after `parent`, by EIP-1559 with the parameters in its extra data."""
    denominator, elasticity, minimum = _fee_parameters(parent.extra_data)
    target = parent.gas_limit // elasticity
    change = parent.base_fee * abs(parent.gas_used - target) // target // denominator
    if parent.gas_used > target:
        fee = parent.base_fee + max(1, change)
    elif parent.gas_used < target:
        fee = max(0, parent.base_fee - change)
    else:
        fee = parent.base_fee
    return max(fee, minimum)


def _fee_parameters(extra_data: bytes) -> tuple[int, int, int]:
    """(denominator, elasticity, minimum base fee) that a parent's extra data sets for its child."""
    if len(extra_data) < 9:
        return DEFAULT_DENOMINATOR, DEFAULT_ELASTICITY, 0
    denominator = int.from_bytes(extra_data[1:5], "big")
    elasticity = int.from_bytes(extra_data[5:9], "big")
    return denominator, elasticity, int.from_bytes(extra_data[9:17], "big")


def _withdrawals_root(payload: ExecutionPayload) -> bytes | None:
    if payload.withdrawals_root is not None:
        return unhex(payload.withdrawals_root)
    if payload.withdrawals is None:
        return None
    return list_root([rlp_encode(withdrawal_fields(item)) for item in payload.withdrawals])


def withdrawal_fields(item: dict[str, str]) -> list[Rlp]:
    """A withdrawal's RLP fields: index, validator index, address, amount (EIP-4895)."""
    numbers = [rlp_integer(quantity(item[name])) for name in ("index", "validatorIndex")]
    return [*numbers, unhex(item["address"]), rlp_integer(quantity(item["amount"]))]


def _optional_quantity(text: str | None) -> int | None:
    return None if text is None else quantity(text)
