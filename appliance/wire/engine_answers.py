"""Answers of execution clients and builders on the Engine API: the few fields that a decision needs.

Source: ethereum/execution-apis (engine), with OP Stack's additions to answers. A payload is judged by a handful of its
fields and handed on as the bytes that came (engine.py).
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import msgspec

from appliance.domain.errors import DecodeError, RemoteError
from appliance.domain.payloads import PayloadId, PayloadStatus
from appliance.wire.engine_fields import hash32, optional_quantity, payload_id, quantity, raw_parts
from appliance.wire.jsonrpc import MALFORMED, NULL_ID, RpcError
from appliance.wire.payload_slices import Skeleton

_SHOWN_CHARACTERS: Final = 300
_MAX_SMALL_ANSWER_BYTES: Final = (
    4 * 1024 * 1024
)  # of all answers but getPayload's; the hashes of a large block are 1 MB
_VALUE: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")


class RefusedError(RemoteError):
    """The other side answered with a JSON-RPC error; the text holds its code and message."""


@dataclass(frozen=True, slots=True)
class ForkchoiceResult:
    """``payload_id`` only when a build was started; ``payload_status`` is the JSON object as it came."""

    status: PayloadStatus
    payload_id: PayloadId | None
    validation_error: str | None
    payload_status: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an execution client said of a block."""

    status: PayloadStatus
    validation_error: str | None


@dataclass(frozen=True, slots=True)
class LatestBlock:
    """An upstream's head; ``timestamp`` in seconds."""

    number: int | None
    timestamp: int


@dataclass(frozen=True, slots=True)
class BuiltPayload:
    """An answer to getPayload: the whole ``body`` as it came, and the fields that it is judged by.

    ``version`` is getPayload's. ``result`` is the part of ``body`` that goes out under any other id.
    ``transactions`` are JSON strings, quotes included; they and ``result`` are views into ``body``.
    ``block_value`` in wei, None where the answer has none that can be read. ``new_payload_parts`` are executionPayload
    and executionRequests, views too, and ``skeleton`` is ``body`` with an empty list of transactions, where decoding
    found them on its way (payload_slices.py).
    """

    version: int
    body: bytes
    identifier: bytes
    result: msgspec.Raw
    block_hash: str
    block_number: int
    parent_hash: str
    timestamp: int
    gas_used: int
    transactions: tuple[msgspec.Raw, ...]
    parent_beacon_block_root: str | None
    fee_recipient: str | None
    prev_randao: str | None
    gas_limit: int | None
    withdrawals: tuple[bytes, ...] | None
    block_value: int | None = None
    names_beacon_root: bool = True
    extra_data: str | None = None
    new_payload_parts: tuple[msgspec.Raw, msgspec.Raw] | None = None
    skeleton: bytes | None = None


Result = TypeVar("Result")

NO_REQUESTS: Final = msgspec.Raw(b"[]")
_NOTHING: Final = msgspec.Raw(NULL_ID)


class Answer(msgspec.Struct, Generic[Result]):
    """An answer whose result is decoded in the same pass."""

    id: msgspec.Raw = msgspec.Raw(NULL_ID)
    result: Result | None = None
    error: RpcError | None = None


class _Unread(msgspec.Struct):
    """An answer whose result stays as it came."""

    id: msgspec.Raw = msgspec.Raw(NULL_ID)
    result: msgspec.Raw = _NOTHING
    error: RpcError | None = None


class _Status(msgspec.Struct, rename="camel"):
    status: PayloadStatus
    validation_error: str | None = None


class _Forkchoice(msgspec.Struct, rename="camel"):
    payload_status: msgspec.Raw
    payload_id: str | None = None


class _Payload(msgspec.Struct, rename="camel"):
    block_hash: str
    block_number: str
    parent_hash: str
    timestamp: str
    gas_used: str
    transactions: list[msgspec.Raw]
    # Held against the attributes, where these have them; the EL's own block is passed on without.
    fee_recipient: str | None = None
    prev_randao: str | None = None
    gas_limit: str | None = None
    withdrawals: list[msgspec.Raw] | None = None
    extra_data: str | None = None


class _Envelope(msgspec.Struct, rename="camel"):
    execution_payload: _Payload
    parent_beacon_block_root: str | msgspec.UnsetType | None = msgspec.UNSET
    block_value: str | None = None


class _Parts(msgspec.Struct, rename="camel"):
    """An envelope whose payload stays as it came."""

    execution_payload: msgspec.Raw
    parent_beacon_block_root: str | msgspec.UnsetType | None = msgspec.UNSET
    block_value: str | None = None
    execution_requests: msgspec.Raw = NO_REQUESTS


class _Block(msgspec.Struct):
    timestamp: str
    number: str | None = None


_verdict_decoder = msgspec.json.Decoder(Answer[_Status])
_forkchoice_decoder = msgspec.json.Decoder(Answer[_Forkchoice])
_status_decoder = msgspec.json.Decoder(_Status)
_unread_decoder = msgspec.json.Decoder(_Unread)
_bare_decoder = msgspec.json.Decoder(_Payload)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_parts_decoder = msgspec.json.Decoder(_Parts)
_any_decoder = msgspec.json.Decoder(Answer[object])
_block_decoder = msgspec.json.Decoder(Answer[_Block])


def decode_forkchoice(body: bytes) -> ForkchoiceResult:
    """Raises DecodeError, or RefusedError for an error answer."""
    _, result = read_answer(_forkchoice_decoder, body, "forkchoiceUpdated")
    status = decode_part(_status_decoder, result.payload_status, "payloadStatus")
    build = payload_id(result.payload_id) if result.payload_id is not None else None
    return ForkchoiceResult(status.status, build, _shown(status.validation_error), bytes(result.payload_status))


def decode_verdict(body: bytes) -> Verdict:
    """The answer to newPayload; raises DecodeError (an unknown status too), or RefusedError."""
    _, result = read_answer(_verdict_decoder, body, "newPayload")
    return Verdict(result.status, _shown(result.validation_error))


def _shown(text: str | None) -> str | None:
    """Words of the other side that are logged and kept: it may have sent megabytes of them."""
    return text and text[:_SHOWN_CHARACTERS]


def decode_payload(body: bytes, version: int) -> BuiltPayload:
    """The answer to getPayload; raises DecodeError, or RefusedError. Two passes, one if large: some 2 ms for 3 MB.

    The first pass finds the result, so that answering with it reads nothing again and cannot fail: a builder
    may nest a body to just below the recursion limit here, and beyond it where the stack is a little deeper.
    """
    skeleton = Skeleton.find(body) if version > 1 else None
    if skeleton is not None:
        try:
            return _decode_large(skeleton, version)
        except (DecodeError, RefusedError):
            pass  # said again below, of the whole body
    identifier, result = _find_result(body)
    if version == 1:
        payload = decode_part(_bare_decoder, result, "getPayload answer")
        return _built(version, body, identifier, result, payload, None)
    envelope = decode_part(_envelope_decoder, result, "getPayload answer")
    root, value = envelope.parent_beacon_block_root, _block_value(envelope.block_value)
    payload = envelope.execution_payload
    if isinstance(root, msgspec.UnsetType):
        # Ethereum's own answer has no such key, it is OP Stack's; `payload_answer` can put it in.
        return replace(_built(version, body, identifier, result, payload, None, value), names_beacon_root=False)
    return _built(version, body, identifier, result, payload, root, value)


def _decode_large(skeleton: Skeleton, version: int) -> BuiltPayload:
    """From the skeleton, in which the list of transactions is empty; raises DecodeError, or RefusedError."""
    identifier, short_result = _find_result(skeleton.text)
    parts = decode_part(_parts_decoder, short_result, "getPayload answer")
    result, whole = skeleton.whole(short_result), skeleton.whole(parts.execution_payload)
    payload = decode_part(_bare_decoder, parts.execution_payload, "getPayload answer")
    if result is None or whole is None or payload.transactions:
        raise DecodeError("getPayload answer: the transactions stand elsewhere")
    root, value = parts.parent_beacon_block_root, _block_value(parts.block_value)
    names_root = not isinstance(root, msgspec.UnsetType)
    own_root = None if isinstance(root, msgspec.UnsetType) else root
    return replace(
        _built(version, skeleton.body, identifier, result, payload, own_root, value),
        transactions=skeleton.transactions,
        names_beacon_root=names_root,
        new_payload_parts=(whole, parts.execution_requests),
        skeleton=skeleton.text,
    )


def refuse_error(body: bytes) -> None:
    """Raises RefusedError for an error answer and DecodeError for none at all; else does nothing."""
    read_answer(_any_decoder, body, "getPayload")


def decode_latest_block(body: bytes) -> LatestBlock:
    """The answer to `latest_block_request`; raises DecodeError, or RefusedError."""
    _, block = read_answer(_block_decoder, body, "eth_getBlockByNumber")
    number = quantity("number", block.number) if block.number is not None else None
    return LatestBlock(number, quantity("timestamp", block.timestamp))


def _find_result(body: bytes) -> tuple[bytes, msgspec.Raw]:
    try:
        answer = _unread_decoder.decode(body)
    except MALFORMED as error:
        raise DecodeError(f"getPayload answer: {error}") from None
    if answer.error is not None:
        raise _refusal("getPayload", answer.error)
    if answer.result == _NOTHING:
        raise DecodeError("getPayload answer: no result")
    return bytes(answer.id), answer.result


def _built(
    version: int,
    body: bytes,
    identifier: bytes,
    result: msgspec.Raw,
    payload: _Payload,
    root: str | None,
    value: int | None = None,
) -> BuiltPayload:
    return BuiltPayload(
        version=version,
        body=body,
        identifier=identifier,
        result=result,
        block_hash=hash32("blockHash", payload.block_hash),
        block_number=quantity("blockNumber", payload.block_number),
        parent_hash=hash32("parentHash", payload.parent_hash),
        timestamp=quantity("timestamp", payload.timestamp),
        gas_used=quantity("gasUsed", payload.gas_used),
        transactions=tuple(payload.transactions),
        parent_beacon_block_root=root,
        fee_recipient=payload.fee_recipient,
        prev_randao=payload.prev_randao,
        gas_limit=optional_quantity("gasLimit", payload.gas_limit),
        withdrawals=None if payload.withdrawals is None else raw_parts(payload.withdrawals),
        block_value=value,
        extra_data=payload.extra_data,
    )


def _block_value(text: str | None) -> int | None:
    """A uint256; a block is not refused for a value that cannot be read, it just claims none."""
    return int(text, 16) if text is not None and _VALUE.fullmatch(text) else None


def read_answer(decoder: msgspec.json.Decoder[Answer[Result]], body: bytes, what: str) -> tuple[bytes, Result]:
    """(id, result) of an answer to ``what``; raises DecodeError, or RefusedError."""
    if len(body) > _MAX_SMALL_ANSWER_BYTES:
        raise DecodeError(f"{what} answer: {len(body)} bytes")
    try:
        answer = decoder.decode(body)
    except MALFORMED as error:
        raise DecodeError(f"{what} answer: {error}") from None
    if answer.error is not None:
        raise _refusal(what, answer.error)
    if answer.result is None:
        raise DecodeError(f"{what} answer: no result")
    return bytes(answer.id), answer.result


def _refusal(what: str, error: RpcError) -> RefusedError:
    return RefusedError(f"{what} refused: {error.code} {error.message[:200]}")


def decode_part(decoder: msgspec.json.Decoder[Result], part: msgspec.Raw, what: str) -> Result:
    """A part of a message that was left as it came; raises DecodeError."""
    try:
        return decoder.decode(part)
    except MALFORMED as error:
        raise DecodeError(f"{what}: {error}") from None
