"""Numbers in an endpoint's answers. Pure."""

import re
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.wire.jsonrpc import MALFORMED

# What is larger fits into no metric and no date, and has no meaning as a block number, a time or a nonce.
_QUANTITY: Final = re.compile(r"0x[0-9A-Fa-f]{1,16}")


def decode_quantity(text: str) -> int:
    """A number of at most 64 bits, as hex with 0x before it (execution-apis, QUANTITY). Raises DecodeError."""
    if not _QUANTITY.fullmatch(text):
        raise DecodeError(f"expected a number of at most 64 bits as 0x…, found {text[:40]!r}")
    return int(text, 16)


def decode_number(method: str, result: msgspec.Raw) -> int:
    """The number that is the whole result of ``method``. Raises DecodeError, which names the method."""
    try:
        return decode_quantity(msgspec.json.decode(result, type=str))
    except (*MALFORMED, DecodeError) as error:
        raise DecodeError(f"{method}: {error}") from None
