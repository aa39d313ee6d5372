"""The fee rules of a block are those of the attributes, as far as they can be compared."""

import json
import pathlib
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.devnet.chain import extra_data_of
from appliance.wire.engine import ForkchoiceUpdated, decode_call
from appliance.wire.extra_data import FeeRules, fee_rules
from appliance.wire.jsonrpc import decode_request
from tests.engine import messages as m

DATA = pathlib.Path(__file__).parents[1] / "data" / "engine"
PARAMS = "000000fa00000006"
HOLOCENE = "0x00" + PARAMS
JOVIAN = "0x01" + PARAMS + f"{1_000_000:016x}"


def rules(params: object, minimum: object = None) -> FeeRules:
    return fee_rules(msgspec.Raw(json.dumps(params).encode()), msgspec.Raw(json.dumps(minimum).encode()))


@pytest.mark.parametrize("extra_data", [HOLOCENE, HOLOCENE.upper().replace("X", "x"), JOVIAN])
@pytest.mark.parametrize("params", ["0x" + PARAMS, "0x" + PARAMS.upper(), None, "0x" + "00" * 8])
def test_the_rules_that_were_asked_for_pass(params: str | None, extra_data: str) -> None:
    for minimum in (None, 1_000_000, hex(1_000_000)):
        assert rules(params, minimum).objection(extra_data) is None


def test_other_rules_are_an_objection() -> None:
    other = "0x000000fb00000006"
    assert rules(other).objection(HOLOCENE) == f"eip1559Params 0x{PARAMS}, asked for {other}"
    assert rules(other).objection(JOVIAN) == f"eip1559Params 0x{PARAMS}, asked for {other}"


@pytest.mark.parametrize("minimum", [0, 999_999, "0xf423f", 2**64 - 1])
@pytest.mark.parametrize("params", ["0x" + PARAMS, "0x" + "00" * 8])
def test_another_minimum_is_an_objection_also_beside_the_chains_constants(params: str, minimum: int | str) -> None:
    assert "minBaseFee 0x00000000000f4240, asked for" in str(rules(params, minimum).objection(JOVIAN))
    assert rules(params, minimum).objection(HOLOCENE) is None, "the EL knows whether there must be one"


@pytest.mark.parametrize("params", ["0x" + "00" * 8, "0x0000000000000006", "0x000000fa00000000"])
def test_zeros_stand_for_constants_that_are_not_known_here(params: str) -> None:
    assert rules(params) == FeeRules(None, None)


@pytest.mark.parametrize(
    "extra_data",
    [None, "0x", "", "0x00", "0x02" + "11" * 8, "0x01" + "11" * 8, "0x00" + "11" * 16, "0x00" + "11" * 32, "0x" * 10],
)
def test_what_is_in_no_known_form_is_for_the_el_to_judge(extra_data: str | None) -> None:
    assert rules("0x" + PARAMS, 5).objection(extra_data) is None


@pytest.mark.parametrize("params", [7, True, [], {}, "0x", "fa", "0x" + "zz" * 8, "0x" + "11" * 9])
@pytest.mark.parametrize("minimum", [1.5, -1, True, [], {}, "5", "0x", "0x" + "1" * 17])
def test_attributes_that_cannot_be_read_ask_for_nothing(params: object, minimum: object) -> None:
    assert rules(params, minimum) == FeeRules(None, None)


def test_digits_that_are_none_are_another_minimum() -> None:
    assert rules(None, 5).objection("0x01" + "11" * 8 + "zz" * 8) is not None
    assert rules(None, 5).objection("0x01" + "11" * 8 + "+000000000000005") is not None


@given(st.binary(min_size=8, max_size=8), st.none() | st.integers(0, 2**64 - 1))
def test_what_an_execution_client_makes_of_attributes_is_never_refused(params: bytes, minimum: int | None) -> None:
    extra_data = "0x" + extra_data_of(params, minimum).hex()
    for written in (minimum, None if minimum is None else hex(minimum)):
        assert rules("0x" + params.hex(), written).objection(extra_data) is None


def test_real_blocks_have_the_rules_of_their_attributes() -> None:
    """The header behind each set of attributes is the next capture's parent (OP Sepolia)."""
    captures = [json.loads(path.read_text()) for path in sorted(DATA.glob("opsepolia-2620796?.json"))]
    for ordered, after in pairwise(captures):
        asked = rules(ordered["executing_payload"]["eip1559Params"])
        assert asked.params == PARAMS
        assert asked.objection(after["parent_header"]["extraData"]) is None


def test_the_attributes_of_a_request_have_them() -> None:
    body = json.loads(m.build())
    body["params"][1] |= {"eip1559Params": "0x" + PARAMS, "minBaseFee": 7}
    call = decode_call(decode_request(json.dumps(body).encode()))
    assert isinstance(call, ForkchoiceUpdated)
    assert call.attributes is not None
    assert call.attributes.fees == FeeRules(PARAMS, 7)
