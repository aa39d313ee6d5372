"""An answer to getPayload that names no parentBeaconBlockRoot: Ethereum's has no such key, op-node reads it there."""

import msgspec
import pytest

from appliance.wire.engine_answers import decode_payload
from appliance.wire.engine_bodies import payload_answer
from tests.engine import messages as m
from tests.engine.test_offers import FULL_ORDER


def without_root(block: m.Block, version: int = 3) -> bytes:
    answer = msgspec.json.decode(block.answer(version=version))
    del answer["result"]["parentBeaconBlockRoot"]
    return msgspec.json.encode(answer)


def test_a_block_without_a_root_is_the_block_that_was_asked_for() -> None:
    assert FULL_ORDER.objection(decode_payload(without_root(m.Block("plain")), 3)) is None


def test_a_root_that_is_null_is_not() -> None:
    block = decode_payload(m.Block("null", beacon_root=None).answer(version=3), 3)
    assert FULL_ORDER.objection(block) == f"beacon root None, asked for {m.ROOT}"


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("identifier", [b"1", b'"other"'])
def test_op_node_is_told_the_root_of_its_own_order(version: int, identifier: bytes) -> None:
    body = without_root(m.Block("plain"), version)
    told = msgspec.json.decode(payload_answer(decode_payload(body, version), identifier, m.ROOT))
    assert told["id"] == msgspec.json.decode(identifier)
    assert told["result"].pop("parentBeaconBlockRoot") == m.ROOT
    assert told["result"] == msgspec.json.decode(body)["result"]


def test_an_answer_that_names_its_root_stays_byte_for_byte() -> None:
    body = m.Block("named").answer(version=4)
    assert payload_answer(decode_payload(body, 4), b"1", m.ROOT) == body
