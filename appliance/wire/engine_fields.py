"""Fields of Engine API messages that are looked at: checked as they are read. All raise DecodeError."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadId

_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")  # what we look at fits 64 bits
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")


def quantity(field: str, text: str) -> int:
    """``text`` as a number of at most 64 bits; ``field`` names it in the error."""
    if _QUANTITY.fullmatch(text) is None:
        raise DecodeError(f"{field}: {text[:40]!r} is not a quantity of at most 64 bits")
    return int(text, 16)


def optional_quantity(field: str, text: str | None) -> int | None:
    """The same; None where there is none."""
    return None if text is None else quantity(field, text)


def hash32(field: str, text: str) -> str:
    """A hash of 32 bytes, in lower case."""
    if _HASH.fullmatch(text) is None:
        raise DecodeError(f"{field}: {text[:80]!r} is not a 32-byte hash")
    return text.lower()


def payload_id(text: str) -> PayloadId:
    """A payload id, in lower case."""
    # 8 bytes by today's rule; a chain that lengthens it shall not need a new appliance.
    if not 0 < len(text) <= 66:
        raise DecodeError(f"payloadId: {text[:80]!r}")
    return PayloadId(text.lower())


def raw_parts(values: Iterable[msgspec.Raw]) -> tuple[bytes, ...]:
    """JSON values as they came; never raises."""
    return tuple(bytes(value) for value in values)
