from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.devnet.messages import (
    ZERO_HASH,
    ExecutionPayload,
    ForkchoiceState,
    PayloadAttributes,
    RpcError,
    decode_as,
    forkchoice_json,
    hex_data,
    parameter,
    quantity,
    status,
    unhex,
)
from tests.devnet.setting import load

UNICHAIN = load("engine/unichain-sepolia-35535698-newPayloadV4.json")["params"][0]
VECTORS = load("engine/payload-id-vectors.json")


@given(st.binary(max_size=100))
def test_hex_there_and_back(data: bytes) -> None:
    assert unhex(hex_data(data)) == data


@pytest.mark.parametrize("text", ["", "00", "0x0", "0xzz", "0X00", "x00"])
def test_what_is_no_hex_data(text: str) -> None:
    with pytest.raises(ValueError, match=r"hex|arg"):
        unhex(text)


@pytest.mark.parametrize(
    ("given_value", "value"), [("0x0", 0), ("0x64", 100), (100, 100), ("0xffffffffffffffff", 2**64 - 1)]
)
def test_quantities(given_value: str | int, value: int) -> None:
    assert quantity(given_value) == value


def test_payload_there_and_back_is_the_same_object() -> None:
    assert msgspec.to_builtins(decode_as(ExecutionPayload, UNICHAIN)) == UNICHAIN


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_attributes_there_and_back_are_the_same_object(vector: dict[str, Any]) -> None:
    assert msgspec.to_builtins(decode_as(PayloadAttributes, vector["attributes"])) == vector["attributes"]


def test_fields_of_a_later_fork_are_ignored() -> None:
    assert decode_as(ExecutionPayload, {**UNICHAIN, "slotNumber": "0x1"}) == decode_as(ExecutionPayload, UNICHAIN)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "ExecutionPayload: Expected `object`, got `null`"),
        ({}, "missing required field `parentHash`"),
        ({**UNICHAIN, "transactions": ["0x00", 1]}, r"Expected `str`, got `int` - at `\$\.transactions\[1\]`"),
        ({**UNICHAIN, "gasUsed": 7}, r"at `\$\.gasUsed`"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, message: str) -> None:
    with pytest.raises(RpcError, match=message) as caught:
        decode_as(ExecutionPayload, value)
    assert caught.value.code == -32602


def test_error_code_is_the_callers_to_choose() -> None:
    with pytest.raises(RpcError) as caught:
        decode_as(PayloadAttributes, {}, -38003)
    assert caught.value.code == -38003
    assert str(caught.value).endswith("(-38003)")


def test_forkchoice_has_no_safe_and_no_finalized_block_at_first() -> None:
    state = forkchoice_json("0x" + "ab" * 32)
    assert state == {
        "headBlockHash": "0x" + "ab" * 32,
        "safeBlockHash": ZERO_HASH,
        "finalizedBlockHash": ZERO_HASH,
    }
    assert decode_as(ForkchoiceState, {"headBlockHash": "0x" + "ab" * 32}) == ForkchoiceState("0x" + "ab" * 32)


def test_parameters_may_be_left_out_at_the_end() -> None:
    assert [parameter(["a"], index) for index in (0, 1)] == ["a", None]


def test_status_has_all_three_fields() -> None:
    assert status("SYNCING") == {"status": "SYNCING", "latestValidHash": None, "validationError": None}
