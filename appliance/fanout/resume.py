"""From a request's target to what the subscriber wants. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import parse_qsl

from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.deflate import negotiate
from appliance.fanout.filters import Filter, InvalidFilterError, parse_filter
from appliance.fanout.frames import Variant

MAX_BLOCK_NUMBER = 2**63 - 1  # what the log's column can hold
MAX_INDEX = 2**31 - 1
_ENCODINGS = {variant.value: variant for variant in (Variant.TEXT, Variant.BROTLI)}
_SHORT_QUERY = 128  # characters; what is longer has a filter of some size, which is not worth keeping
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """Where to start, in which encoding, what to leave out, and whether control messages are wanted."""

    resume: Resume
    variant: Variant
    filter: Filter | None = None
    control: bool = False


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A query that names no place in the stream; ``reason`` is one line for the subscriber."""

    reason: str


class _InvalidQueryError(Exception):
    pass


_OWN_NAMES = frozenset(
    {"block_number", "payload_id", "flashblock_index", "encoding", "control", "addresses", "topics", "match"}
)


@dataclass(frozen=True, slots=True)
class Query:
    """What a query says; ``names_encoding`` when it asks for one itself."""

    wanted: SubscribeRequest
    names_encoding: bool


def parse_target(raw_query: str) -> Query | BadRequest:
    """Read a query as it stands in the target. Thousands who come back after an outage all ask for the same few."""
    return _parse_short(raw_query) if len(raw_query) <= _SHORT_QUERY else _parse_target(raw_query)


def _parse_target(raw_query: str) -> Query | BadRequest:
    query = dict(parse_qsl(raw_query, keep_blank_values=True))
    twice = repeated_name(raw_query, query)
    if twice is not None:
        return BadRequest(f"{twice} is given more than once: separate its values by commas, if it takes several")
    wanted = parse_query(query)
    return wanted if isinstance(wanted, BadRequest) else Query(wanted, "encoding" in query)


_parse_short = lru_cache(maxsize=256)(_parse_target)


def repeated_name(raw_query: str, query: Mapping[str, str]) -> str | None:
    """A parameter that is there more than once: only the last would count, and the others be left out silently.

    ``query`` is ``raw_query`` decoded.
    """
    if raw_query.count("&") < len(query):  # as many parts as names: nearly always, and much cheaper to see
        return None
    names = Counter(name for name, _ in parse_qsl(raw_query, keep_blank_values=True))
    return next((name for name, times in names.items() if times > 1 and name in _OWN_NAMES), None)


def parse_query(query: Mapping[str, str]) -> SubscribeRequest | BadRequest:
    """Read `block_number`, `payload_id`, `flashblock_index`, `encoding`, `control` and the filter.

    Other keys are ignored. Numbers are decimal. Without `flashblock_index` the stream starts at index 0 of the
    block or payload that is named, without either at index 0 of the current one (Base's publisher uses the same names).
    """
    try:
        return SubscribeRequest(_resume(query), _variant(query), parse_filter(query), _control(query))
    except (_InvalidQueryError, InvalidFilterError) as error:
        return BadRequest(str(error))


def deflated(query: Query, offers: str) -> tuple[SubscribeRequest, str | None]:
    """The same with permessage-deflate, and the header's answer, where the client offers it and names no encoding.

    `encoding=text` says that it wants the text as it is, and what is brotli would not get smaller.
    """
    answer = None if query.names_encoding else negotiate(offers)
    return (query.wanted, None) if answer is None else (replace(query.wanted, variant=Variant.DEFLATE), answer)


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
    chosen = _ENCODINGS.get(query.get("encoding", Variant.TEXT.value))
    if chosen is None:
        raise _InvalidQueryError(f"encoding must be {' or '.join(_ENCODINGS)}")
    return chosen


def _control(query: Mapping[str, str]) -> bool:
    text = query.get("control", "0")
    if text not in ("0", "1"):
        raise _InvalidQueryError("control must be 0 or 1")
    return text == "1"
