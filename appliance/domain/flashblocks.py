"""Flashblocks: the pieces of a block that a builder publishes while it builds.

Field names are the wire's (REFERENCE: flashblocks specification of rollup-boost). Quantities and hashes
stay the hex strings that they came as: nothing here computes with them, and re-encoding must not alter
them. ``body`` is the message exactly as it was received; it is what is logged and what subscribers get.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from appliance.domain.payloads import PayloadId


class Encoding(StrEnum):
    """How a flashblock travels in a websocket message."""

    TEXT = "text"  # JSON in a text frame
    BROTLI = "brotli"  # brotli-compressed JSON in a binary frame


class FlashblockBase(msgspec.Struct, frozen=True):
    """What holds for the whole block; on index 0, on some chains repeated on every index."""

    parent_beacon_block_root: str
    parent_hash: str
    fee_recipient: str
    prev_randao: str
    block_number: str
    gas_limit: str
    timestamp: str
    extra_data: str
    base_fee_per_gas: str


class FlashblockDiff(msgspec.Struct, frozen=True):
    """What one flashblock adds. Roots, bloom, gas_used and block_hash are cumulative for the block so far."""

    state_root: str
    receipts_root: str
    logs_bloom: str
    gas_used: str
    block_hash: str
    transactions: list[msgspec.Raw]  # only the new ones, each a JSON string as it came
    withdrawals: list[msgspec.Raw]
    withdrawals_root: str | None = None
    blob_gas_used: str | None = None


@dataclass(frozen=True, slots=True)
class Flashblock:
    """One flashblock. ``block_number`` comes from `metadata.block_number`, or from `base` where that is absent."""

    payload_id: PayloadId
    index: int
    block_number: int | None
    base: FlashblockBase | None
    diff: FlashblockDiff | None
    body: bytes
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class EndOfPayload:
    """X Layer's builder ends a block with a message that has only `payload_id`."""

    payload_id: PayloadId


@dataclass(frozen=True, slots=True)
class Entry:
    """One flashblock in the log. ``position`` is this host's append order, from 1, never reused."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    body: bytes
    encoding: Encoding

    @property
    def key(self) -> tuple[int, int]:
        """(block_number, index): how subscribers name a place in the stream."""
        return self.block_number, self.index
