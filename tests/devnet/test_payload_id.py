from typing import Any

import pytest

from appliance.devnet.messages import PayloadAttributes, decode_as
from appliance.devnet.payload_id import payload_id
from tests.devnet.setting import load

VECTORS: list[dict[str, Any]] = load("engine/payload-id-vectors.json")
MINIMAL = PayloadAttributes("0x1", "0x" + "00" * 32, "0x" + "00" * 20)
PARENT = "0x" + "11" * 32


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    attributes = decode_as(PayloadAttributes, vector["attributes"])
    assert payload_id(vector["parentHash"], attributes, vector["version"]) == vector["payloadId"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timestamp", "0x670d6db6"),
        ("prevRandao", "0x" + "00" * 32),
        ("suggestedFeeRecipient", "0x" + "22" * 20),
        ("withdrawals", [{"index": "0x1", "validatorIndex": "0x2", "address": "0x" + "33" * 20, "amount": "0x4"}]),
        ("parentBeaconBlockRoot", "0x" + "00" * 32),
        ("transactions", []),
        ("noTxPool", True),
        ("gasLimit", "0x1"),
        ("eip1559Params", "0x0000000000000000"),
        ("minBaseFee", 0),
    ],
)
def test_every_attribute_counts(field: str, value: Any) -> None:
    vector = VECTORS[0]
    changed = decode_as(PayloadAttributes, {**vector["attributes"], field: value})
    assert payload_id(vector["parentHash"], changed, 3) != vector["payloadId"]


def test_parent_and_version_count() -> None:
    assert payload_id(PARENT, MINIMAL, 3)[4:] == payload_id(PARENT, MINIMAL, 4)[4:]
    assert payload_id(PARENT, MINIMAL, 3)[:4] == "0x03"
    assert payload_id("0x" + "12" * 32, MINIMAL, 3) != payload_id(PARENT, MINIMAL, 3)


def test_attributes_without_op_fields_hash_as_ethereums() -> None:
    """With none of the OP fields nothing of them is hashed, not even an empty noTxPool byte."""
    explicit = decode_as(
        PayloadAttributes,
        {
            "timestamp": "0x1",
            "prevRandao": MINIMAL.prev_randao,
            "suggestedFeeRecipient": MINIMAL.suggested_fee_recipient,
            "noTxPool": False,
            "transactions": [],
        },
    )
    assert payload_id(PARENT, explicit, 2) == payload_id(PARENT, MINIMAL, 2)


def test_min_base_fee_as_quantity_and_as_number_is_the_same() -> None:
    attributes = VECTORS[1]["attributes"]
    as_text = decode_as(PayloadAttributes, {**attributes, "minBaseFee": "0x64"})
    assert payload_id(VECTORS[1]["parentHash"], as_text, 4) == VECTORS[1]["payloadId"]


def test_malformed_attribute_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="hex"):
        payload_id("nonsense", MINIMAL, 3)
