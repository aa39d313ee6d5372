"""Engine API messages that are made here: of what came, byte for byte."""

import json

import pytest

from appliance.domain.assembled import AssembledPayload
from appliance.domain.payloads import PayloadId
from appliance.wire.engine import (
    GetPayload,
    decode_call,
)
from appliance.wire.engine_answers import (
    BuiltPayload,
    decode_payload,
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
from tests.wire.real_payload import REAL_NEW_PAYLOAD, REAL_PAYLOAD, REAL_ROOT
from tests.wire.test_engine_answers import get_payload_answer


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
