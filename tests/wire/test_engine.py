"""What op-node asks for: what a decision needs is read, everything else stays the bytes that came."""

import json
from typing import Any

import pytest

from appliance.domain.payloads import PayloadId
from appliance.wire.engine import (
    MIRRORED_METHODS,
    Call,
    ForkchoiceUpdated,
    GetPayload,
    Mirrored,
    NewPayload,
    Other,
    decode_call,
)
from appliance.wire.jsonrpc import decode_request
from tests.wire.real_payload import DATA, REAL_NEW_PAYLOAD, REAL_ROOT

HEAD = "0x" + "aB" * 32


def call(method: str, params: object) -> Call:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return decode_call(decode_request(body))


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
