"""What a builder writes costs its own block at most: not what op-node reads, not everybody's time, not our memory."""

import json

import pytest
import structlog

from appliance.wire.scrutiny import MAX_VALUES
from tests.engine import messages as m
from tests.engine.fakes import answers
from tests.engine.rig import LOCAL, Rig, block_of, rig

ALPHA = block_of("alpha")
EVIL = "0x" + "66" * 32


async def returned(rig: Rig, answer: bytes) -> str:
    """The hash that op-node gets when alpha answers getPayload like this."""
    rig.builders["alpha"].behaviours["engine_getPayloadV4"] = answers(answer)
    await rig.order_build()
    body = json.loads(await rig.ask(m.get_payload()))
    return str(body["result"]["executionPayload"]["blockHash"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"blockValue"', f'"parentBeaconBlockRoot": "{EVIL}", "blockValue"'),
        ('"blockValue"', f'"ParentBeaconBlockRoot": "{EVIL}", "blockValue"'),
        ('"blockHash"', f'"BLOCKHASH": "{EVIL}", "blockHash"'),
        ('"result"', '"Result": {}, "result"'),
    ],
)
async def test_a_block_that_op_node_could_read_otherwise_is_not_returned(before: str, after: str) -> None:
    assert before in ALPHA.answer().decode()
    async with rig("alpha") as host:
        found = await returned(host, ALPHA.answer().decode().replace(before, after, 1).encode())
        assert found == LOCAL.hash
        assert host.metric("engine_candidates_lost_total", source="alpha", kind="failed") == 1


async def test_a_million_values_hold_nobody_up() -> None:
    answer = ALPHA.answer().replace(b'"transactions": [', b'"transactions": [' + b"0," * 5_000_000)
    async with rig("alpha") as host:
        with structlog.testing.capture_logs() as lines:
            assert await returned(host, answer) == LOCAL.hash
    assert any(f"more than {MAX_VALUES} values" in str(line) for line in lines), "refused before it is decoded"


async def test_the_words_of_a_refusal_are_kept_in_short() -> None:
    status = {"status": "SYNCING", "latestValidHash": None, "validationError": "x" * 3_000_000}
    async with rig("alpha") as host:
        host.builders["alpha"].behaviours["engine_forkchoiceUpdatedV3"] = answers(
            m.result({"payloadStatus": status, "payloadId": None})
        )
        assert await returned(host, ALPHA.answer()) == LOCAL.hash
        assert len(json.dumps(host.engine.history.recent())) < 5000
        assert len(json.dumps(host.engine.statistics())) < 20_000
