"""Engine API bodies that we make, around payloads as they came: copied once, never re-encoded."""

from typing import Final

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import PayloadId
from appliance.wire.engine import NEW_PAYLOAD_VERSIONS
from appliance.wire.engine_answers import NO_REQUESTS, BuiltPayload, decode_part
from appliance.wire.jsonrpc import encode_request, encode_result

_OUR_ID: Final = b"1"  # of calls that are ours alone: each has its own HTTP exchange, so none is confused


class _Slices(msgspec.Struct, rename="camel"):
    """The parts of an envelope that newPayload takes, as they came."""

    execution_payload: msgspec.Raw
    execution_requests: msgspec.Raw = NO_REQUESTS


_slices_decoder = msgspec.json.Decoder(_Slices)


def get_payload_request(identifier: bytes, version: int, payload_id: PayloadId) -> bytes:
    """getPayload under the client's ``identifier``, so that the answer can be passed on as it is."""
    params = msgspec.json.encode([payload_id])
    return encode_request(identifier or _OUR_ID, f"engine_getPayloadV{version}", params)


def latest_block_request() -> bytes:
    """The health question (rollup-boost's): the latest block without its transactions."""
    return encode_request(_OUR_ID, "eth_getBlockByNumber", b'["latest",false]')


def forkchoice_without_build(identifier: bytes, head: str) -> bytes:
    """forkchoiceUpdated's answer of who agrees with the head and builds nothing."""
    status = {"status": "VALID", "latestValidHash": head, "validationError": None}
    return encode_result(identifier, msgspec.json.encode({"payloadStatus": status, "payloadId": None}))


def new_payload_request(payload: BuiltPayload, parent_beacon_block_root: str | None) -> bytes:
    """newPayload for a block that getPayload answered; one copy, and a pass where decoding did not find its parts.

    ``parent_beacon_block_root`` is the attributes'; the answer's own counts where there is none. OP blocks
    have no blobs, so versionedHashes is `[]`. Raises DecodeError: the body is read again, on another stack.
    """
    version = NEW_PAYLOAD_VERSIONS[payload.version]
    if payload.version == 1:
        return _new_payload(version, payload.result, None, b"[]")
    root = parent_beacon_block_root or payload.parent_beacon_block_root
    if payload.new_payload_parts is not None:
        execution_payload, requests = payload.new_payload_parts
    else:
        slices = decode_part(_slices_decoder, payload.result, "getPayload answer")
        execution_payload, requests = slices.execution_payload, slices.execution_requests
    return _new_payload(version, execution_payload, root, requests)


def new_payload_request_of_assembled(assembled: AssembledPayload) -> bytes:
    """newPayload for a block made of flashblocks: V4 where it has a withdrawals root, else V3."""
    version = 4 if assembled.has_withdrawals_root else 3
    return _new_payload(version, assembled.execution_payload, assembled.parent_beacon_block_root, b"[]")


def _new_payload(version: int, payload: bytes | msgspec.Raw, root: str | None, requests: bytes | msgspec.Raw) -> bytes:
    head = b'{"jsonrpc":"2.0","id":%b,"method":"engine_newPayloadV%d","params":[' % (_OUR_ID, version)
    parts: list[bytes | msgspec.Raw] = [head, payload]
    if version >= 3:
        parts += [b",[],", msgspec.json.encode(root)]
    if version >= 4:
        parts += [b",", b"[]" if bytes(requests) == b"null" else requests]
    return b"".join((*parts, b"]}"))


def payload_answer(payload: BuiltPayload, identifier: bytes, root: str | None = None) -> bytes:
    """The answer under ``identifier``: the very bytes that came where that is their id already. Never fails.

    With ``root``, the attributes' parent beacon block root, it is put into an answer of V3 or later that has none:
    op-node takes it from there, and an answer of a client that follows Ethereum's specification lacks it.
    """
    if root is not None and payload.version >= 3 and not payload.names_beacon_root:
        _, _, rest = bytes(payload.result).partition(b"{")
        return encode_result(identifier, b'{"parentBeaconBlockRoot":%b,%b' % (msgspec.json.encode(root), rest))
    if payload.identifier == identifier:
        return payload.body
    return encode_result(identifier, payload.result)


def assembled_answer(assembled: AssembledPayload, identifier: bytes, version: int) -> bytes:
    """getPayload's answer (V3 or later) around a block made of flashblocks; its blockValue is 0x0."""
    requests = b',"executionRequests":[]' if version >= 4 else b""
    result = (
        b'{"executionPayload":%b,"blockValue":"0x0",'
        b'"blobsBundle":{"commitments":[],"proofs":[],"blobs":[]},"shouldOverrideBuilder":false,'
        b'"parentBeaconBlockRoot":%b%b}'
    ) % (assembled.execution_payload, msgspec.json.encode(assembled.parent_beacon_block_root), requests)
    return encode_result(identifier, result)
