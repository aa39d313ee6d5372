"""Flashblock messages as builders send them: one JSON object per websocket message, or brotli of it.

Only what decisions need is decoded. The message itself stays as it came: it is what is logged and what
subscribers get, so fields that are unknown here (`target_index`, receipts in any of their shapes) survive.
Field rules: flashblocks specification of rollup-boost; variants: base/base, op-rbuilder, X Layer.
"""

import re
from typing import Final

import brotli
import msgspec

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding, EndOfPayload, Flashblock, FlashblockBase, FlashblockDiff
from appliance.domain.payloads import PayloadId

MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Bound of a message, as it came and decompressed. The largest seen in production has 200 KB; this much takes a
few ms to decode, and the interpreter's lock is held for it, so a thread does not help against more."""

MAX_INDEX: Final = 65_535
"""Bound of `index`. A 12 s block with a flashblock every 50 ms has 240."""

# The shortest transaction has about 110 bytes, 220 hex digits. A million empty ones would take 0.2 s to look at.
_MAX_TRANSACTIONS: Final = MAX_MESSAGE_BYTES // 200
# What a message costs to decode goes by its values, not its bytes: 2 MiB of empty strings take 50 ms. Real messages
# have 66 bytes or more for each comma.
_FREE_COMMAS: Final = 1024
_MIN_BYTES_PER_COMMA: Final = 20
_MAX_BLOCK_NUMBER: Final = 2**63 - 1  # the log keeps it in a signed 64-bit column
_BROTLI_STEP_BYTES: Final = 128 * 1024
_SHOWN_CHARACTERS: Final = 60  # of a bad value, in an error's text

_PAYLOAD_ID = re.compile(r"0x[0-9a-fA-F]{16}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_BLOOM = re.compile(r"0x[0-9a-fA-F]{512}")
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_QUANTITY_64 = re.compile(r"0x[0-9a-fA-F]{1,16}")

_BASE_RULES: Final = {
    "parent_beacon_block_root": _HASH,
    "parent_hash": _HASH,
    "fee_recipient": _ADDRESS,
    "prev_randao": _HASH,
    "block_number": _QUANTITY_64,
    "gas_limit": _QUANTITY_64,
    "timestamp": _QUANTITY_64,
    "extra_data": _DATA,
    "base_fee_per_gas": _QUANTITY,
}
_DIFF_RULES: Final = {
    "state_root": _HASH,
    "receipts_root": _HASH,
    "logs_bloom": _BLOOM,
    "gas_used": _QUANTITY_64,
    "block_hash": _HASH,
    "withdrawals_root": _HASH,
    "blob_gas_used": _QUANTITY_64,
}


class MessageTooLarge(DecodeError):
    """The message, or what it unfolds to, is over the bound that was asked for."""


class _Diff(msgspec.Struct):
    """`diff` with everything optional: messages for subscribers that only filter leave most of it out."""

    state_root: str | None = None
    receipts_root: str | None = None
    logs_bloom: str | None = None
    gas_used: str | None = None
    block_hash: str | None = None
    transactions: list[msgspec.Raw] | None = None
    withdrawals: list[msgspec.Raw] | None = None
    withdrawals_root: str | None = None
    blob_gas_used: str | None = None


class _Metadata(msgspec.Struct):
    block_number: int | str | None = None


class _Message(msgspec.Struct):
    payload_id: str
    index: int | None = None
    base: FlashblockBase | None = None
    diff: _Diff | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_message_decoder = msgspec.json.Decoder(_Message)
_metadata_decoder = msgspec.json.Decoder(_Metadata)


def encoding_of(message: bytes, *, is_binary: bool) -> Encoding:
    """How a websocket message is encoded: brotli in binary frames, except JSON that came in one.

    The two cannot be mistaken: a brotli stream whose first byte is `{` is empty and malformed (RFC 7932,
    9.1 and 9.2: window bits 22, last, empty, then padding that is not zero).
    """
    return Encoding.BROTLI if is_binary and not message.startswith(b"{") else Encoding.TEXT


def decode(message: bytes, encoding: Encoding) -> Flashblock | EndOfPayload:
    """What a builder's message says.

    `diff` is None when the message has none or only a part of it: such a flashblock can be passed on but
    not assembled. Raises DecodeError, and nothing else, whatever the bytes are; its text names the field.
    """
    return decode_text(plain_text(message, encoding), message, encoding)


def decode_text(text: bytes, message: bytes, encoding: Encoding) -> Flashblock | EndOfPayload:
    """`decode` where the `plain_text` of ``message`` is known."""
    parsed = _parse(text)
    payload_id = _payload_id(parsed.payload_id)
    if parsed.index is None:
        if parsed.base is not None or parsed.diff is not None:
            raise DecodeError("flashblock index: missing")
        return EndOfPayload(payload_id)
    return Flashblock(
        payload_id=payload_id,
        index=_in_range("index", parsed.index, MAX_INDEX),
        block_number=_block_number(parsed),
        base=_checked_base(parsed.base),
        diff=_checked_diff(parsed.diff),
        body=message,
        encoding=encoding,
    )


def plain_text(body: bytes, encoding: Encoding, *, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """The JSON text of a message, UTF-8, for subscribers who asked for text; DecodeError as `decode`.

    MessageTooLarge, after not much more work than ``max_bytes`` take, when the message or its text has more.
    """
    if len(body) > max_bytes:
        raise MessageTooLarge(f"flashblock message: {len(body)} bytes, at most {max_bytes} are taken")
    text = body if encoding is Encoding.TEXT else _decompress(body, max_bytes)
    # Text frames must be UTF-8 (RFC 6455, 8.1); what came compressed has not been looked at yet.
    if not text.isascii():
        _check_utf8(text)
    return text


def _decompress(body: bytes, max_bytes: int) -> bytes:
    """Step by step, so that a small message that unfolds to gigabytes is refused at the bound."""
    decompressor = brotli.Decompressor()
    parts: list[bytes] = []
    size, data = 0, body
    while not decompressor.is_finished():
        try:
            part: bytes = decompressor.process(data, output_buffer_limit=_BROTLI_STEP_BYTES)
        except brotli.error as error:
            raise DecodeError("flashblock message: not brotli") from error
        wants_more = not part and decompressor.can_accept_more_data()
        if wants_more and not decompressor.is_finished():
            raise DecodeError("flashblock message: brotli stream is cut short")
        size, data = size + len(part), b""
        if size > max_bytes:
            raise MessageTooLarge(f"flashblock message: more than {max_bytes} bytes when decompressed")
        parts.append(part)
    return b"".join(parts)


def _check_utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"flashblock message: not UTF-8 at byte {error.start}") from error


def _parse(text: bytes) -> _Message:
    if text.count(b",") > _FREE_COMMAS + len(text) // _MIN_BYTES_PER_COMMA:
        raise DecodeError(f"flashblock message: too many values for {len(text)} bytes")
    try:
        return _message_decoder.decode(text)
    except RecursionError as error:
        raise DecodeError("flashblock message: nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"flashblock message: {error}") from error


def _payload_id(found: str) -> PayloadId:
    _check("payload_id", found, _PAYLOAD_ID)
    return PayloadId(found.lower())


def _block_number(parsed: _Message) -> int | None:
    """From `metadata`, which production always has; from `base` where it is absent or opaque."""
    number = _metadata(parsed.metadata).block_number
    if number is None:
        number = parsed.base.block_number if parsed.base else None
    if isinstance(number, str):
        _check("block_number", number, _QUANTITY_64)
        number = int(number, 16)
    return None if number is None else _in_range("block_number", number, _MAX_BLOCK_NUMBER)


def _metadata(raw: msgspec.Raw) -> _Metadata:
    if not bytes(raw).startswith(b"{"):
        return _Metadata()
    try:
        return _metadata_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"flashblock metadata: {error}") from error


def _checked_base(base: FlashblockBase | None) -> FlashblockBase | None:
    if base is not None:
        for name, rule in _BASE_RULES.items():
            _check(f"base.{name}", getattr(base, name), rule)
    return base


def _checked_diff(diff: _Diff | None) -> FlashblockDiff | None:
    if diff is None:
        return None
    for name, rule in _DIFF_RULES.items():
        value = getattr(diff, name)
        if value is not None:
            _check(f"diff.{name}", value, rule)
    if len(diff.transactions or ()) > _MAX_TRANSACTIONS:
        raise DecodeError(f"flashblock diff.transactions: more than {_MAX_TRANSACTIONS}")
    for number, transaction in enumerate(diff.transactions or ()):
        if not bytes(transaction).startswith(b'"'):
            raise DecodeError(f"flashblock diff.transactions[{number}]: expected a hex string")
    return _whole_diff(diff)


def _whole_diff(diff: _Diff) -> FlashblockDiff | None:
    if (
        diff.state_root is None
        or diff.receipts_root is None
        or diff.logs_bloom is None
        or diff.gas_used is None
        or diff.block_hash is None
        or diff.transactions is None
    ):
        return None
    return FlashblockDiff(
        state_root=diff.state_root,
        receipts_root=diff.receipts_root,
        logs_bloom=diff.logs_bloom,
        gas_used=diff.gas_used,
        block_hash=diff.block_hash,
        transactions=diff.transactions,
        withdrawals=diff.withdrawals or [],
        withdrawals_root=diff.withdrawals_root,
        blob_gas_used=diff.blob_gas_used,
    )


def _check(field: str, value: str, rule: re.Pattern[str]) -> None:
    if not rule.fullmatch(value):
        shown = value[:_SHOWN_CHARACTERS]
        raise DecodeError(f"flashblock {field}: expected hex as {rule.pattern}, found {shown!r}")


def _in_range(field: str, number: int, highest: int) -> int:
    if not 0 <= number <= highest:
        raise DecodeError(f"flashblock {field}: expected 0 to {highest}, found {number}")
    return number
