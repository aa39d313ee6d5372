"""What op-node asks for on the Engine API: the few fields that a decision needs. engine_answers.py has the answers.

Source: ethereum/execution-apis (engine), with OP Stack's additions to payload attributes and answers.
Bodies are never re-encoded. A payload is judged by a handful of its fields and handed on as the bytes that
came, so fields and method versions that this module has never heard of pass through. What cannot be
decoded in a request is `Other`: the execution client is the one to refuse it.
"""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadId
from appliance.wire.engine_fields import hash32, optional_quantity, payload_id, quantity, raw_parts
from appliance.wire.extra_data import FeeRules, fee_rules
from appliance.wire.jsonrpc import MALFORMED, NULL_ID, Request

MIRRORED_METHODS: Final = frozenset(
    {
        "eth_sendRawTransaction",
        "eth_sendRawTransactionConditional",
        "miner_setExtra",
        "miner_setGasPrice",
        "miner_setGasLimit",
        "miner_setMaxDASize",
    }
)
"""Answered by the EL and copied to the builders (rollup-boost 0.7.17)."""

NEW_PAYLOAD_VERSIONS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4}
"""getPayload version -> the newPayload version that takes its block. Other versions go to the EL alone."""


_ENGINE_METHOD: Final = re.compile(r"engine_(forkchoiceUpdated|getPayload|newPayload)V([1-9][0-9]?)")
_NO_RULES: Final = FeeRules()


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of `PayloadAttributes`: ``timestamp`` in seconds; ``transactions`` as JSON strings, quotes included.

    ``withdrawals`` are JSON objects. None is what this version of the attributes does not have.
    """

    timestamp: int
    no_tx_pool: bool
    parent_beacon_block_root: str | None
    transactions: tuple[bytes, ...]
    fee_recipient: str | None = None
    prev_randao: str | None = None
    gas_limit: int | None = None
    withdrawals: tuple[bytes, ...] | None = None
    fees: FeeRules = _NO_RULES


@dataclass(frozen=True, slots=True)
class ForkchoiceUpdated:
    """``params`` is the whole parameter list as it came: equal params are the same order to build."""

    head: str
    attributes: Attributes | None
    params: bytes


@dataclass(frozen=True, slots=True)
class GetPayload:
    """``version`` is the number behind the V."""

    version: int
    payload_id: PayloadId


@dataclass(frozen=True, slots=True)
class NewPayload:
    """Any version. Hash and number name the block for when it becomes head; None where they cannot be read."""

    block_hash: str | None = None
    block_number: int | None = None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One of MIRRORED_METHODS."""

    method: str


@dataclass(frozen=True, slots=True)
class Other:
    """Everything else: the EL's business alone."""


Call = ForkchoiceUpdated | GetPayload | NewPayload | Mirrored | Other


class _State(msgspec.Struct):
    headBlockHash: str  # noqa: N815 (the wire's name; a rename table would only hide it)


class _Attributes(msgspec.Struct, rename="camel"):
    timestamp: str
    no_tx_pool: bool | None = None
    parent_beacon_block_root: str | None = None
    transactions: list[msgspec.Raw] | None = None
    suggested_fee_recipient: str | None = None
    prev_randao: str | None = None
    gas_limit: str | None = None
    withdrawals: list[msgspec.Raw] | None = None
    eip1559_params: msgspec.Raw = msgspec.field(default=msgspec.Raw(NULL_ID), name="eip1559Params")
    min_base_fee: msgspec.Raw = msgspec.Raw(NULL_ID)


class _Named(msgspec.Struct, rename="camel"):
    block_hash: str
    block_number: str


class _NewPayloadParams(msgspec.Struct, array_like=True):
    payload: _Named  # what comes after it differs by version


_params_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_new_payload_decoder = msgspec.json.Decoder(_NewPayloadParams)
_state_decoder = msgspec.json.Decoder(_State)
_attributes_decoder = msgspec.json.Decoder(_Attributes | None)
_payload_id_decoder = msgspec.json.Decoder(tuple[str])


def decode_call(request: Request) -> Call:
    """What a request asks for; never raises: a parameter list that we cannot read makes it `Other`."""
    if request.method in MIRRORED_METHODS:
        return Mirrored(request.method)
    match = _ENGINE_METHOD.fullmatch(request.method)
    if match is None:
        return Other()
    try:
        return _decode_engine_call(match[1], int(match[2]), request.params)
    except (*MALFORMED, DecodeError):
        return Other()


def _decode_engine_call(name: str, version: int, params: msgspec.Raw) -> Call:
    if name == "newPayload":
        return _decode_new_payload(params)
    if name == "getPayload":
        return GetPayload(version, payload_id(_payload_id_decoder.decode(params)[0]))
    return _decode_forkchoice_call(params)


def _decode_new_payload(params: msgspec.Raw) -> NewPayload:
    """One pass over the payload without keeping it. A shape that we do not know is the EL's business alone."""
    try:
        named = _new_payload_decoder.decode(params).payload
        return NewPayload(hash32("blockHash", named.block_hash), quantity("blockNumber", named.block_number))
    except (*MALFORMED, DecodeError):
        return NewPayload()


def _decode_forkchoice_call(params: msgspec.Raw) -> ForkchoiceUpdated:
    elements = _params_decoder.decode(params)
    if not elements:
        raise DecodeError("forkchoiceUpdated without parameters")
    head = hash32("headBlockHash", _state_decoder.decode(elements[0]).headBlockHash)
    attributes = _attributes_decoder.decode(elements[1]) if len(elements) > 1 else None
    return ForkchoiceUpdated(head, attributes and _checked(attributes), bytes(params))


def _checked(attributes: _Attributes) -> Attributes:
    return Attributes(
        timestamp=quantity("timestamp", attributes.timestamp),
        no_tx_pool=bool(attributes.no_tx_pool),
        parent_beacon_block_root=attributes.parent_beacon_block_root,
        transactions=raw_parts(attributes.transactions or ()),
        fee_recipient=attributes.suggested_fee_recipient,
        prev_randao=attributes.prev_randao,
        gas_limit=optional_quantity("gasLimit", attributes.gas_limit),
        withdrawals=None if attributes.withdrawals is None else raw_parts(attributes.withdrawals),
        fees=fee_rules(attributes.eip1559_params, attributes.min_base_fee),
    )
