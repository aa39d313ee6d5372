"""The EL's judgement for the flashblock plane, and the stream of an engine that has none."""

import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.errors import UnavailableError
from appliance.domain.payloads import BuildId, PayloadId, PayloadStatus
from appliance.engine.metrics import EngineMetrics
from appliance.engine.no_flashblocks import NoFlashblocks
from appliance.engine.ports import Build, FlashblockStream
from appliance.engine.upstream import Upstream
from appliance.engine.validation import BlockValidator
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, FakeUpstream, answers


async def test_validate_is_new_payload_on_the_el() -> None:
    el = FakeUpstream("l2")
    async with trio.open_nursery() as nursery:
        await nursery.start(el.run)
        metrics = EngineMetrics.create(CollectorRegistry())
        async with Upstream("l2", el.url, el.secret, metrics, timeout_s=SOON_S) as upstream:
            validator = BlockValidator(upstream)
            for status in PayloadStatus:
                el.behaviours["engine_newPayloadV4"] = answers(m.verdict(status))
                assert await validator.validate(m.Block("b").assembled()) is status
            for behaviour in (answers(b"x", 500), answers(m.error()), answers(b"garbage")):
                el.behaviours["engine_newPayloadV4"] = behaviour
                with pytest.raises(UnavailableError, match=f"l2 {el.url}"):
                    await validator.validate(m.Block("b").assembled())
        nursery.cancel_scope.cancel()


def test_without_flashblocks_there_is_no_assembled_block() -> None:
    stream: FlashblockStream = NoFlashblocks()
    build_id = BuildId(1)
    stream.build_started(Build(build_id, m.PARENT, m.TIMESTAMP, ("alpha",)))
    stream.builder_joined(build_id, "alpha", PayloadId("0x01"))
    stream.build_confirmed(build_id)
    assert stream.seal(build_id) is None
    stream.payload_returned(build_id, m.block_hash("b"))
    stream.head_changed(m.block_hash("b"), 7)
    stream.build_abandoned(build_id)
