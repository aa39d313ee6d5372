"""Engine API messages: what a decision needs is read, everything else stays the bytes that came."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.assembled import AssembledPayload
from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadId, PayloadStatus
from appliance.wire.engine import (
    MIRRORED_METHODS,
    BuiltPayload,
    Call,
    ForkchoiceUpdated,
    GetPayload,
    LatestBlock,
    Mirrored,
    NewPayload,
    Other,
    RefusedError,
    decode_call,
    decode_forkchoice,
    decode_latest_block,
    decode_payload,
    decode_verdict,
    refuse_error,
)
from appliance.wire.engine_bodies import (
    assembled_answer,
    get_payload_request,
    latest_block_request,
    new_payload_request,
    new_payload_request_of_assembled,
    payload_answer,
)
from appliance.wire.jsonrpc import decode_request

DATA = pathlib.Path(__file__).parents[1] / "data" / "engine"
REAL_NEW_PAYLOAD: dict[str, Any] = json.loads((DATA / "unichain-sepolia-35535698-newPayloadV4.json").read_text())
REAL_PAYLOAD, _, REAL_ROOT, REAL_REQUESTS = REAL_NEW_PAYLOAD["params"]
HEAD = "0x" + "aB" * 32


def call(method: str, params: object) -> Call:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return decode_call(decode_request(body))


def get_payload_answer(version: int = 4, identifier: object = 1, **more: object) -> bytes:
    envelope: dict[str, object] = {
        "executionPayload": REAL_PAYLOAD,
        "blockValue": "0x0",
        "blobsBundle": {"commitments": [], "proofs": [], "blobs": []},
        "shouldOverrideBuilder": False,
        "parentBeaconBlockRoot": REAL_ROOT,
        "executionRequests": REAL_REQUESTS,
    }
    result = REAL_PAYLOAD if version == 1 else {**envelope, **more}
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "result": result}).encode()


# --- requests ---


def test_forkchoice_without_attributes() -> None:
    for params in ([{"headBlockHash": HEAD}], [{"headBlockHash": HEAD}, None]):
        decoded = call("engine_forkchoiceUpdatedV3", params)
        assert isinstance(decoded, ForkchoiceUpdated)
        assert decoded.head == HEAD.lower()
        assert decoded.attributes is None


@pytest.mark.parametrize("version", [1, 2, 3, 4, 12])
def test_forkchoice_with_attributes_of_any_version(version: int) -> None:
    attributes = {
        "timestamp": "0x670d6db5",
        "transactions": ["0x7e01", "0x02"],
        "noTxPool": False,
        "gasLimit": "0x1",
        "suggestedFeeRecipient": "0x66",
        "withdrawals": [],
        "parentBeaconBlockRoot": REAL_ROOT,
        "somethingNew": {"a": [1]},
    }
    decoded = call(f"engine_forkchoiceUpdatedV{version}", [{"headBlockHash": HEAD, "new": 1}, attributes, "more"])
    assert isinstance(decoded, ForkchoiceUpdated)
    assert decoded.attributes is not None
    assert decoded.attributes.timestamp == 0x670D6DB5
    assert decoded.attributes.no_tx_pool is False
    assert decoded.attributes.transactions == (b'"0x7e01"', b'"0x02"')
    assert decoded.attributes.parent_beacon_block_root == REAL_ROOT
    assert (decoded.attributes.fee_recipient, decoded.attributes.prev_randao) == ("0x66", None)
    assert (decoded.attributes.gas_limit, decoded.attributes.withdrawals) == (1, ())


def test_real_payload_attributes_are_read() -> None:
    vectors: list[dict[str, Any]] = json.loads((DATA / "payload-id-vectors.json").read_text())
    assert vectors
    for vector in vectors:
        params = [{"headBlockHash": vector["parentHash"]}, vector["attributes"]]
        decoded = call("engine_forkchoiceUpdatedV3", params)
        assert isinstance(decoded, ForkchoiceUpdated), vector["name"]
        assert decoded.attributes is not None
        assert decoded.attributes.no_tx_pool == bool(vector["attributes"].get("noTxPool"))
        assert len(decoded.attributes.transactions) == len(vector["attributes"].get("transactions") or ())


@pytest.mark.parametrize(
    "params",
    [
        [],
        {},
        "x",
        [None],
        [{}],
        [{"headBlockHash": 5}],
        [{"headBlockHash": "0x12"}],
        [{"headBlockHash": HEAD}, {}],
        [{"headBlockHash": HEAD}, {"timestamp": 5}],
        [{"headBlockHash": HEAD}, {"timestamp": "0x1_0"}],
        [{"headBlockHash": HEAD}, {"timestamp": "0x" + "f" * 17}],
        [{"headBlockHash": HEAD}, []],
    ],
)
def test_a_forkchoice_that_cannot_be_read_is_left_to_the_execution_client(params: object) -> None:
    assert call("engine_forkchoiceUpdatedV3", params) == Other()


@pytest.mark.parametrize(("version", "payload_id"), [(1, "0x03D2dae446d2a86a"), (5, "0x00"), (6, "0xab")])
def test_get_payload(version: int, payload_id: str) -> None:
    expected = GetPayload(version, PayloadId(payload_id.lower()))
    assert call(f"engine_getPayloadV{version}", [payload_id]) == expected


@pytest.mark.parametrize("params", [[], [1], ["0x1", "0x2"], ["0x" + "1" * 80], [""], {"payloadId": "0x1"}])
def test_a_get_payload_that_cannot_be_read_is_left_to_the_execution_client(params: object) -> None:
    assert call("engine_getPayloadV3", params) == Other()


def test_new_payload_of_any_version_and_shape() -> None:
    real = REAL_NEW_PAYLOAD["params"][0]
    named = NewPayload(real["blockHash"], int(real["blockNumber"], 16))
    assert call("engine_newPayloadV4", REAL_NEW_PAYLOAD["params"]) == named
    assert call("engine_newPayloadV9", {"whatever": 1}) == NewPayload()


@pytest.mark.parametrize("method", sorted(MIRRORED_METHODS))
def test_mirrored_methods(method: str) -> None:
    assert call(method, []) == Mirrored(method)


@pytest.mark.parametrize(
    "method",
    [
        "engine_exchangeCapabilities",
        "engine_getPayloadBodiesByHashV1",
        "engine_getPayload",
        "engine_getPayloadV0",
        "engine_getPayloadV03",
        "engine_newPayloadV4x",
        "eth_chainId",
        "",
    ],
)
def test_other_methods(method: str) -> None:
    assert call(method, []) == Other()


# --- answers ---


def test_a_forkchoice_answer() -> None:
    status = b'{"status":"VALID","latestValidHash":"0x11", "validationError":null}'
    body = b'{"jsonrpc":"2.0","id":1,"result":{"payloadStatus":%b,"payloadId":"0x03D2"}}' % status
    result = decode_forkchoice(body)
    assert result.status is PayloadStatus.VALID
    assert result.payload_id == "0x03d2"
    assert result.payload_status == status


def test_a_forkchoice_answer_without_payload_id() -> None:
    body = b'{"id":1,"result":{"payloadStatus":{"status":"INVALID","validationError":"bad"},"payloadId":null}}'
    result = decode_forkchoice(body)
    assert (result.status, result.payload_id, result.validation_error) == (PayloadStatus.INVALID, None, "bad")


@pytest.mark.parametrize("status", list(PayloadStatus))
def test_every_verdict(status: PayloadStatus) -> None:
    body = json.dumps({"id": 1, "result": {"status": status, "validationError": "why"}}).encode()
    verdict = decode_verdict(body)
    assert (verdict.status, verdict.validation_error) == (status, "why")


Decode = Callable[[bytes], object]
DECODERS: list[Decode] = [
    decode_forkchoice,
    decode_verdict,
    decode_latest_block,
    refuse_error,
    lambda body: decode_payload(body, 1),
    lambda body: decode_payload(body, 3),
]


@pytest.mark.parametrize("decode", DECODERS)
def test_an_error_answer_is_a_refusal_with_code_and_text(decode: Decode) -> None:
    with pytest.raises(RefusedError, match="refused: -38001 Unknown payload"):
        decode(b'{"jsonrpc":"2.0","id":1,"error":{"code":-38001,"message":"Unknown payload"}}')


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"id":1,"result":null}', b"[" * 100_000])
def test_garbage_is_a_decode_error(decode: Decode, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body)


@given(st.binary(max_size=120))
def test_no_bytes_raise_anything_but_a_remote_error(body: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(DecodeError, RefusedError):
            decode(body)


@pytest.mark.parametrize(
    "result",
    [{"status": "FINE"}, {"status": None}, {}, {"status": "VALID "}, {"status": "valid"}, "VALID", ["VALID"]],
)
def test_nothing_but_the_known_words_is_a_verdict(result: object) -> None:
    with pytest.raises(DecodeError):
        decode_verdict(json.dumps({"id": 1, "result": result}).encode())


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_a_payload_is_judged_by_its_fields(version: int) -> None:
    payload = decode_payload(get_payload_answer(version), version)
    assert payload.block_hash == REAL_PAYLOAD["blockHash"]
    assert payload.block_number == 35535698
    assert payload.parent_hash == REAL_PAYLOAD["parentHash"]
    assert payload.gas_used == int(REAL_PAYLOAD["gasUsed"], 16)
    assert [json.loads(bytes(raw)) for raw in payload.transactions] == REAL_PAYLOAD["transactions"]
    assert (payload.fee_recipient, payload.prev_randao) == (REAL_PAYLOAD["feeRecipient"], REAL_PAYLOAD["prevRandao"])
    assert (payload.gas_limit, payload.withdrawals) == (int(REAL_PAYLOAD["gasLimit"], 16), ())
    assert payload.parent_beacon_block_root == (None if version == 1 else REAL_ROOT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("blockHash", "0x12"), ("blockNumber", "12"), ("timestamp", 5), ("gasUsed", "0x"), ("transactions", None)],
)
def test_a_payload_with_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    answer = json.loads(get_payload_answer())
    answer["result"]["executionPayload"][field] = value
    with pytest.raises(DecodeError, match=field):
        decode_payload(json.dumps(answer).encode(), 4)


def test_the_latest_block_needs_a_timestamp_alone() -> None:
    assert decode_latest_block(b'{"id":1,"result":{"timestamp":"0x10","number":"0x1"}}') == LatestBlock(1, 16)
    assert decode_latest_block(b'{"id":1,"result":{"timestamp":"0x10"}}') == LatestBlock(None, 16)


# --- bodies ---


@pytest.mark.parametrize(("version", "method"), [(3, "V3"), (4, "V4"), (5, "V4")])
def test_new_payload_of_a_built_block_is_the_real_one(version: int, method: str) -> None:
    payload = decode_payload(get_payload_answer(version), version)
    request = json.loads(new_payload_request(payload, None))
    assert request["method"] == f"engine_newPayload{method}"
    wanted = REAL_NEW_PAYLOAD["params"]
    assert request["params"] == (wanted if method == "V4" else wanted[:3])


@pytest.mark.parametrize("version", [1, 2])
def test_new_payload_before_cancun_takes_the_payload_alone(version: int) -> None:
    request = json.loads(new_payload_request(decode_payload(get_payload_answer(version), version), None))
    assert request["method"] == f"engine_newPayloadV{version}"
    assert request["params"] == [REAL_PAYLOAD]


def test_the_beacon_root_of_the_attributes_comes_first() -> None:
    payload = decode_payload(get_payload_answer(parentBeaconBlockRoot=None), 4)
    other = "0x" + "77" * 32
    assert json.loads(new_payload_request(payload, other))["params"][2] == other


def test_execution_requests_that_are_null_or_absent_become_an_empty_list() -> None:
    for answer in (get_payload_answer(executionRequests=None), get_payload_answer()):
        body = answer.replace(b', "executionRequests": []', b"")
        assert json.loads(new_payload_request(decode_payload(body, 4), None))["params"][3] == []


def test_the_payload_goes_through_byte_for_byte() -> None:
    """Odd spacing, unknown fields and big numbers of a builder stay as they are."""
    odd = json.dumps({**REAL_PAYLOAD, "unknown": [1]}).encode().replace(b'"unknown"', b'\n "unknown"  ') + b" "
    odd = odd.replace(b"[1]", b"12345678901234567890123e999")
    body = b'{"id":1,"result":{"executionPayload":%b,"executionRequests":["0x01" ]}}' % odd
    payload = decode_payload(body, 4)
    assert odd.strip() in new_payload_request(payload, REAL_ROOT)
    assert b'["0x01" ]' in new_payload_request(payload, REAL_ROOT)


def test_an_answer_under_its_own_id_is_the_very_same_object() -> None:
    body = get_payload_answer(identifier="a")
    payload = decode_payload(body, 4)
    assert payload_answer(payload, b'"a"') is body
    assert json.loads(payload_answer(payload, b"7")) == {**json.loads(body), "id": 7}


def assembled(has_withdrawals_root: bool = True) -> AssembledPayload:
    return AssembledPayload(
        payload_id=PayloadId("0x01"),
        builder="alpha",
        block_number=35535698,
        block_hash=REAL_PAYLOAD["blockHash"],
        parent_hash=REAL_PAYLOAD["parentHash"],
        gas_used=1,
        timestamp=2,
        parent_beacon_block_root=REAL_ROOT,
        has_withdrawals_root=has_withdrawals_root,
        execution_payload=json.dumps(REAL_PAYLOAD).encode(),
        transactions=(),
        flashblocks=5,
        validated=False,
    )


@pytest.mark.parametrize("has_withdrawals_root", [True, False])
def test_new_payload_of_an_assembled_block_follows_its_fork(has_withdrawals_root: bool) -> None:
    request = json.loads(new_payload_request_of_assembled(assembled(has_withdrawals_root)))
    wanted = REAL_NEW_PAYLOAD["params"]
    assert request["method"] == ("engine_newPayloadV4" if has_withdrawals_root else "engine_newPayloadV3")
    assert request["params"] == (wanted if has_withdrawals_root else wanted[:3])


@pytest.mark.parametrize("version", [3, 4, 5])
def test_an_assembled_block_is_answered_as_get_payload_does(version: int) -> None:
    body = assembled_answer(assembled(), b'"x"', version)
    answer = json.loads(body)
    assert answer["id"] == "x"
    assert answer["result"]["executionPayload"] == REAL_PAYLOAD
    assert answer["result"]["blockValue"] == "0x0"
    assert answer["result"]["parentBeaconBlockRoot"] == REAL_ROOT
    assert ("executionRequests" in answer["result"]) == (version >= 4)
    decoded = decode_payload(body, version)
    assert isinstance(decoded, BuiltPayload)
    assert decoded.block_hash == REAL_PAYLOAD["blockHash"]


def test_our_own_requests_are_calls_that_we_can_read() -> None:
    request = decode_request(get_payload_request(b'"op"', 3, PayloadId("0x0a")))
    assert (bytes(request.id), decode_call(request)) == (b'"op"', GetPayload(3, PayloadId("0x0a")))
    assert not decode_request(get_payload_request(b"", 3, PayloadId("0x0a"))).is_notification
    assert json.loads(latest_block_request())["params"] == ["latest", False]
