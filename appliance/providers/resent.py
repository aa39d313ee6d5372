"""What a second endpoint says to a transaction that the first one may have taken. Pure.

The transaction went on to the next endpoint because no answer came from the first; meanwhile the first one may have
passed it on, so that the next one knows it, or has it in a block already. To the sender that is the success that it
would have heard of. Words are those of go-ethereum, reth, erigon, Nethermind, Besu and anvil.
"""

import re
from enum import Enum, auto
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.providers.retry import error_of
from appliance.wire.jsonrpc import MALFORMED, Response
from appliance.wire.transaction import transaction_hash

_ALREADY_KNOWN: Final = re.compile(
    r"already\s?known|already imported|known transaction|already in (the )?mempool", re.IGNORECASE
)
_NONCE_TOO_LOW: Final = re.compile(r"nonce (is )?too low|oldnonce", re.IGNORECASE)


class Heard(Enum):
    """What an error says of the transaction."""

    NOTHING = auto()
    ALREADY_KNOWN = auto()
    """These very bytes are in the pool."""
    NONCE_TOO_LOW = auto()
    """A transaction with this nonce is in a block: these bytes, or others."""


class _Found(msgspec.Struct):
    hash: str


def hear(response: Response) -> Heard:
    """What the answer to a second sending says."""
    error = error_of(response)
    if error is None:
        return Heard.NOTHING
    if _ALREADY_KNOWN.search(error.message):
        return Heard.ALREADY_KNOWN
    return Heard.NONCE_TOO_LOW if _NONCE_TOO_LOW.search(error.message) else Heard.NOTHING


def hash_of(params: bytes) -> str | None:
    """The hash of the transaction in the parameters of eth_sendRawTransaction; None where there is none."""
    try:
        text = msgspec.json.decode(params, type=list[str])[0]
        return "0x" + transaction_hash(bytes.fromhex(text.removeprefix("0x"))).hex()
    except (*MALFORMED, ValueError, IndexError, DecodeError):
        return None


def is_transaction(response: Response | None, wanted: str) -> bool:
    """Whether this answer to eth_getTransactionByHash is the transaction with the hash ``wanted``."""
    if response is None:
        return False
    try:
        found = msgspec.json.decode(response.result, type=_Found | None)
    except MALFORMED:
        return False
    return found is not None and found.hash.lower() == wanted


def success(found: str) -> Response:
    """The answer that the sender waits for."""
    return Response(result=msgspec.Raw(msgspec.json.encode(found)))
