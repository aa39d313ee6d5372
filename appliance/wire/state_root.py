"""Blocks whose builder leaves the state root to the execution client: finding them, and the order to fill it in.

Some chains' flashblocks carry a zero state root, because computing it for each costs the builder too much time.
Source: rollup-boost 0.7.17, `external_state_root`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import DecodeError
from appliance.wire.engine_answers import Answer, BuiltPayload
from appliance.wire.jsonrpc import MALFORMED, encode_request

_OUR_ID: Final = b"1"
_ZERO: Final = "0x" + "0" * 64


class _Payload(msgspec.Struct, rename="camel"):
    state_root: str = ""


class _Envelope(msgspec.Struct, rename="camel"):
    execution_payload: _Payload


_payload_decoder = msgspec.json.Decoder(_Payload)
_bare_decoder = msgspec.json.Decoder(Answer[_Payload])
_envelope_decoder = msgspec.json.Decoder(Answer[_Envelope])
_params_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_attributes_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def has_zero_state_root(block: BuiltPayload | AssembledPayload) -> bool:
    """Whether the block lacks its state root. One pass over it: 1 ms for 3 MB."""
    return _state_root(block) == _ZERO


def _state_root(block: BuiltPayload | AssembledPayload) -> str:
    try:
        if isinstance(block, AssembledPayload):
            return _payload_decoder.decode(block.execution_payload).state_root
        if block.version == 1:
            bare = _bare_decoder.decode(block.body).result
            return bare.state_root if bare else ""
        envelope = _envelope_decoder.decode(block.body).result
    except MALFORMED:
        return ""
    return envelope.execution_payload.state_root if envelope else ""


def completion_request(params: bytes, version: int, transactions: Sequence[bytes | msgspec.Raw]) -> bytes:
    """forkchoiceUpdated for a block of exactly these transactions (JSON strings); raises DecodeError.

    ``params`` are those of the order to build; everything in its attributes is kept but the transactions, and
    noTxPool is true. ``version`` is getPayload's: V4 and later go with forkchoiceUpdatedV3.
    """
    try:
        state, attributes = _params_decoder.decode(params)[:2]
        fields: dict[str, object] = {**_attributes_decoder.decode(attributes)}
    except (*MALFORMED, ValueError) as error:
        raise DecodeError(f"the order to build: {error}") from None
    fields["transactions"] = [msgspec.Raw(transaction) for transaction in transactions]
    fields["noTxPool"] = True
    body = msgspec.json.encode([state, fields])
    return encode_request(_OUR_ID, f"engine_forkchoiceUpdatedV{min(version, 3)}", body)
