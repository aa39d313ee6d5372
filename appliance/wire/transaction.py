"""The hash of a raw transaction, without decoding what is in it."""

from typing import Final

from Crypto.Hash import keccak

from appliance.domain.errors import DecodeError

_BLOB_TYPE: Final = 3
_LIST: Final = 0xC0
_LONG_LIST: Final = 0xF7


def transaction_hash(raw: bytes) -> bytes:
    """keccak256 of the envelope; of a blob transaction that carries its blobs, of the envelope without them.

    Such a one is 0x03 before a list whose first item, a list too, is the transaction (EIP-4844, EIP-7594). Raises
    DecodeError for a blob transaction whose lists are broken; of all others every byte counts, whatever they are.
    """
    if raw[:1] == bytes([_BLOB_TYPE]):
        body = raw[1 + _list_head(raw, 1)[0] :]
        if body[:1] >= bytes([_LIST]):
            head, size = _list_head(body, 0)
            if head + size > len(body):
                raise DecodeError("a blob transaction that ends in the middle of a list")
            raw = raw[:1] + body[: head + size]
    return keccak.new(digest_bits=256, data=raw).digest()


def _list_head(data: bytes, at: int) -> tuple[int, int]:
    """How many bytes the head of the RLP list at ``at`` takes, and how many its items."""
    first = data[at] if at < len(data) else 0
    if first < _LIST:
        raise DecodeError("a blob transaction that is no list")
    if first <= _LONG_LIST:
        return 1, first - _LIST
    width = first - _LONG_LIST
    if at + 1 + width > len(data):
        raise DecodeError("a blob transaction that ends in the middle of a list")
    return 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big")
