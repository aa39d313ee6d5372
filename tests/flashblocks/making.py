"""Small flashblocks for tests of the sequence: right in form, made up in content."""

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from appliance.domain.flashblocks import Encoding, Flashblock, FlashblockBase, FlashblockDiff
from appliance.domain.payloads import BuildId, PayloadId

PARENT = "0x" + "aa" * 32
OTHER_PARENT = "0x" + "bb" * 32
TIMESTAMP = 1_700_000_002
NUMBER = 100


@dataclass(frozen=True)
class StartedBuild:
    """What the engine says of a build, of its own type."""

    build_id: BuildId
    parent_hash: str = PARENT
    timestamp: int = TIMESTAMP
    builders: tuple[str, ...] = ("alpha", "beta")


def payload_id(number: int) -> PayloadId:
    """A payload id that is easy to read in a failure."""
    return PayloadId(f"0x{number:016x}")


def hash_of(text: str) -> str:
    """32 bytes that depend on ``text``."""
    return "0x" + sha256(text.encode()).hexdigest()


def make_base(parent_hash: str = PARENT, timestamp: int = TIMESTAMP, number: int = NUMBER) -> FlashblockBase:
    """A base for a block on ``parent_hash``."""
    return FlashblockBase(
        parent_beacon_block_root="0x" + "01" * 32,
        parent_hash=parent_hash,
        fee_recipient="0x" + "02" * 20,
        prev_randao="0x" + "03" * 32,
        block_number=hex(number),
        gas_limit="0x3938700",
        timestamp=hex(timestamp),
        extra_data="0x",
        base_fee_per_gas="0x1",
    )


def make_diff(content: str, transactions: int = 1) -> FlashblockDiff:
    """A diff whose block hash and transactions depend on ``content``."""
    raw = [msgspec.Raw(f'"{hash_of(content + str(number))}"'.encode()) for number in range(transactions)]
    return FlashblockDiff(
        state_root="0x" + "00" * 32,
        receipts_root="0x" + "00" * 32,
        logs_bloom="0x" + "00" * 256,
        gas_used="0x5208",
        block_hash=hash_of(content),
        transactions=raw,
        withdrawals=[],
        withdrawals_root="0x" + "04" * 32,
    )


def make_flashblock(
    payload: PayloadId,
    index: int,
    content: str = "",
    *,
    base: FlashblockBase | None = None,
    number: int | None = NUMBER,
) -> Flashblock:
    """A flashblock; ``content`` stands for the builder's choice, so that bodies and hashes differ by it."""
    name = f"{payload}/{index}/{content}"
    return Flashblock(
        payload_id=payload,
        index=index,
        block_number=number,
        base=base or (make_base() if index == 0 else None),
        diff=make_diff(name),
        body=name.encode(),
        encoding=Encoding.TEXT,
    )
