"""From a request's target to what the subscriber wants. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.frames import Variant

STREAM_PATHS = frozenset({"/", "/ws", "/ws/"})

MAX_BLOCK_NUMBER = 2**63 - 1  # what the log's column can hold
MAX_INDEX = 2**31 - 1
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """Where to start and in which encoding."""

    resume: Resume
    variant: Variant


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A query that names no place in the stream; ``reason`` is one line for the subscriber."""

    reason: str


class _InvalidQueryError(Exception):
    pass


def parse_query(query: Mapping[str, str]) -> SubscribeRequest | BadRequest:
    """Read `block_number`, `payload_id`, `flashblock_index` and `encoding`; other keys are ignored.

    Numbers are decimal. Without `flashblock_index` the stream starts at index 0 of the block or payload
    that is named, without either at index 0 of the current one (Base's publisher uses the same names).
    """
    try:
        return SubscribeRequest(_resume(query), _variant(query))
    except _InvalidQueryError as error:
        return BadRequest(str(error))


def _resume(query: Mapping[str, str]) -> Resume:
    index = _number(query, "flashblock_index", MAX_INDEX)
    block_number = _number(query, "block_number", MAX_BLOCK_NUMBER)
    payload_id = _payload_id(query)
    after = -1 if index is None else index
    if payload_id is not None:
        return AfterPayload(payload_id, after, block_number)
    if block_number is not None:
        return AfterBlock(block_number, after)
    if index is not None:
        raise _InvalidQueryError("flashblock_index needs block_number or payload_id beside it")
    return CurrentPayload()


def _number(query: Mapping[str, str], name: str, maximum: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    # int() alone would also take signs, spaces, underscores and other scripts' digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= maximum):
        raise _InvalidQueryError(f"{name} must be a whole number from 0 to {maximum}")
    return int(text)


def _payload_id(query: Mapping[str, str]) -> PayloadId | None:
    text = query.get("payload_id")
    if text is None:
        return None
    digits = text[2:]
    if text[:2] not in ("0x", "0X") or len(digits) != 16 or not _HEX_DIGITS.issuperset(digits):
        raise _InvalidQueryError("payload_id must be 0x and 16 hex digits")
    return PayloadId("0x" + digits.lower())


def _variant(query: Mapping[str, str]) -> Variant:
    text = query.get("encoding", Variant.TEXT.value)
    try:
        return Variant(text)
    except ValueError:
        choices = " or ".join(variant.value for variant in Variant)
        raise _InvalidQueryError(f"encoding must be {choices}") from None
