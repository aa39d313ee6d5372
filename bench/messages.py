"""Flashblock messages that carry their own number where a receiver finds it without parsing JSON.

Every message begins as `{"payload_id":"0x0000000000000012","index":3,`. There are ten flashblocks a payload,
so that the index is always one digit, and payloads count from 1: that one is message (0x12 - 1) * 10 + 3.
"""

import json
import random

ENCODINGS = ("text", "brotli", "deflate")
INDICES = 10  # flashblocks a payload
PREFIX_BYTES = 44
_HEX = slice(17, 33)
_INDEX = 43
_HASH = "0x" + "11" * 32


def place(sequence: int, indices: int = INDICES) -> tuple[str, int]:
    """(payload id, index) of message ``sequence``; payload ids start at 1, for zero may mean "none"."""
    return f"0x{sequence // indices + 1:016x}", sequence % indices


def flashblock_head(payload_id: str, index: int) -> str:
    """How every message begins; ``PREFIX_BYTES`` of it name the message."""
    return f'{{"payload_id":"{payload_id}","index":{index},'


def sequence_of(prefix: bytes | memoryview, indices: int = INDICES) -> int:
    """The number in the first ``PREFIX_BYTES`` of a message; ValueError when it is not one of ours.

    ``indices`` is how many flashblocks a payload of this stream has.
    """
    payload = int(bytes(prefix[_HEX]), 16) - 1
    return payload * indices + int(bytes(prefix[_INDEX : _INDEX + 1]))


def flashblock(payload_id: str, index: int, block_number: int, size: int) -> bytes:
    """A message of ``size`` bytes (or the smallest possible one) that a builder could have sent.

    It has no `base`: so nothing can be assembled of it, and getPayload goes by what the builder answers.
    Its transaction is random, as most of a real one is: compressed it has little more than half of its size.
    """
    diff = {
        "state_root": _HASH,
        "receipts_root": _HASH,
        "logs_bloom": "0x" + "00" * 256,
        "gas_used": hex(21_000 * (index + 1)),
        "block_hash": f"0x{block_number * INDICES + index:064x}",
        "withdrawals": [],
        "withdrawals_root": _HASH,
        "transactions": [],
    }
    metadata = {"block_number": block_number}
    bare = flashblock_head(payload_id, index) + f'"diff":{_compact(diff)},"metadata":{_compact(metadata)}}}'
    missing = size - len(bare) - len('"0x"')
    digits = max(0, missing) // 2 * 2
    filled = _compact({**diff, "transactions": [_filler(payload_id, index, digits // 2)]}) if digits else _compact(diff)
    odd = " " * (missing - digits) if digits else ""
    return (flashblock_head(payload_id, index) + f'"diff":{filled},"metadata":{_compact(metadata)}{odd}}}').encode()


def _filler(payload_id: str, index: int, size: int) -> str:
    """``size`` bytes in hex, the same for the same message, as a transaction of type 2 begins."""
    drawn = random.Random(f"{payload_id}/{index}").randbytes(size)
    return "0x" + (b"\x02" + drawn)[:size].hex()


def numbered(sequence: int, size: int) -> bytes:
    """Message ``sequence`` of an endless stream, ten flashblocks a block."""
    payload_id, index = place(sequence)
    return flashblock(payload_id, index, sequence // INDICES + 1, size)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
