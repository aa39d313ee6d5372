"""Answers on the Engine API: what they are judged by is read, the rest stays the bytes that came."""

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.domain.payloads import PayloadStatus
from appliance.wire.engine_answers import (
    LatestBlock,
    RefusedError,
    decode_forkchoice,
    decode_latest_block,
    decode_payload,
    decode_verdict,
    refuse_error,
)
from tests.wire.real_payload import REAL_PAYLOAD, REAL_REQUESTS, REAL_ROOT


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
