"""A builder's answer to getPayload before it is believed: one reading of it, and not too much to read.

What a builder wrote goes to op-node as it came, and op-node reads it with another decoder than ours. Go's takes a key
in any spelling of upper and lower case, and of two equal keys the last one (encoding/json, "Unmarshal"); ours takes
the exact spelling. A builder that writes a field twice could have us judge one block and op-node take another. So an
answer is refused in which an object has a key twice, or in which a field that is known here is spelled otherwise.

The transactions, nearly all of the bytes, are left out of that second look: a list cannot hold a field of the answer.
For 3 MB it takes 0.5 ms.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from appliance.domain.errors import DecodeError

MAX_VALUES: Final = 100_000
"""Values in one answer, counted by commas. A block of 60 million gas has under 3,000 transactions; to slice a million
empty ones would hold the loop for 60 ms and take 90 MB."""

_SMALL_BYTES: Final = 2 * MAX_VALUES  # so many bytes cannot hold more

MAX_OTHER_BYTES: Final = 1024 * 1024
"""Bytes of an answer beside its transactions: some 4 KB on OP Stack. They are read a second time, 2 ms for so many."""

_ANSWER: Final = ("jsonrpc", "id", "result", "error")
_ENVELOPE: Final = (
    "executionPayload",
    "blockValue",
    "blobsBundle",
    "shouldOverrideBuilder",
    "parentBeaconBlockRoot",
    "executionRequests",
)
_PAYLOAD: Final = (
    "parentHash",
    "feeRecipient",
    "stateRoot",
    "receiptsRoot",
    "logsBloom",
    "prevRandao",
    "blockNumber",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "baseFeePerGas",
    "blockHash",
    "transactions",
    "withdrawals",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
)
_SPELLINGS: Final = {field.casefold(): field for field in (*_ANSWER, *_ENVELOPE, *_PAYLOAD)}
_TRANSACTIONS: Final = b'"transactions":'


def check_size(body: bytes) -> None:
    """Raises DecodeError for an answer of so many values that to decode it would hold up everybody."""
    if len(body) <= _SMALL_BYTES:
        return
    values, at = 0, body.find(b",")  # hops by memchr: for a block that is one, less time than `count` takes
    while at >= 0:
        values, at = values + 1, body.find(b",", at + 1)
        if values > MAX_VALUES:
            raise DecodeError(f"getPayload answer: more than {MAX_VALUES} values")


def check_fields(body: bytes, transactions: Sequence[bytes | msgspec.Raw]) -> None:
    """Raises DecodeError for an answer that another decoder could read otherwise; ``body`` is valid JSON.

    ``transactions`` are those that were found in it. Where they cannot be cut out again (unusual white space, or two
    lists) all of it is read, as far as it is within the bound.
    """
    other = _without(body, transactions)
    if len(other) > MAX_OTHER_BYTES:
        raise DecodeError(f"getPayload answer: {len(other)} bytes beside the transactions, or these are not plain")
    try:
        _reader.decode(other.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"getPayload answer: {str(error)[:200]}") from None


def _without(body: bytes, transactions: Sequence[bytes | msgspec.Raw]) -> bytes:
    """The answer with an empty list in the place of its transactions.

    What is cut out is the inside of the list behind the key, byte for byte what the decoder found there; and a quote
    before `transactions` in valid JSON begins or ends a string, so that key is a key wherever it stands.
    """
    start = body.find(_TRANSACTIONS) + len(_TRANSACTIONS)
    start += 1 if body[start : start + 1] == b" " else 0
    if not transactions or body[start : start + 1] != b"[":
        return body
    after_first = start + 1 + len(bytes(transactions[0]))
    inside = (b", " if body[after_first : after_first + 2] == b", " else b",").join(transactions)
    end = start + 1 + len(inside)
    is_list = body.startswith(inside, start + 1) and body[end : end + 1] == b"]"
    return body[: start + 1] + body[end:] if is_list else body


def _check_object(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        folded = key.casefold()
        if folded in seen:
            raise ValueError(f"the key {key[:40]!r} twice, or in two spellings")
        if _SPELLINGS.get(folded, key) != key:
            raise ValueError(f"the key {key[:40]!r} instead of {_SPELLINGS[folded]!r}")
        seen.add(folded)


# Numbers stay text: what they are does not matter here, and to read one of a million digits takes seconds.
_reader: Final = json.JSONDecoder(object_pairs_hook=_check_object, parse_int=str, parse_float=str)
