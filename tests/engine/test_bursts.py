"""Hundreds of forkchoiceUpdated a second, reorgs, and the chosen block's way to the builders: on real sockets."""

import json

import trio

from appliance.engine.service import EngineSettings
from tests.engine import messages as m
from tests.engine.fakes import SOON_S, RecordingStream, accepts, answers, gated
from tests.engine.rig import EL_ID, SECRET, block_of, rig

BURST = 400


async def test_in_a_burst_the_el_gets_every_forkchoice_and_a_slow_builder_only_the_newest() -> None:
    gate = trio.Event()
    async with rig("alpha") as it:
        alpha = it.builders["alpha"]
        alpha.behaviours["engine_forkchoiceUpdatedV3"] = gated(gate, accepts())
        heads = [m.block_hash(f"head {number}") for number in range(BURST)]
        for head in heads:
            await it.ask(m.forkchoice(head))
        seen = [json.loads(body)["params"][0]["headBlockHash"] for body in it.el.bodies("engine_forkchoiceUpdatedV3")]
        assert seen == heads, "each, and in order"
        gate.set()
        last = await alpha.wait_for("engine_forkchoiceUpdatedV3", 2)
        assert [json.loads(body)["params"][0]["headBlockHash"] for body in last] == [heads[0], heads[-1]]


async def test_a_burst_is_answered_by_the_el_alone_while_every_builder_hangs() -> None:
    async with rig("alpha", "beta") as it:
        for fake in it.builders.values():
            fake.behaviours["engine_forkchoiceUpdatedV3"] = gated(trio.Event(), accepts())
        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                for number in range(BURST):
                    nursery.start_soon(it.ask, m.forkchoice(m.block_hash(f"head {number}")))
        assert len(it.el.bodies("engine_forkchoiceUpdatedV3")) == BURST
        assert all(len(fake.requests) <= 4 for fake in it.builders.values())


async def test_in_a_burst_the_order_to_build_still_reaches_the_builder_last() -> None:
    stream = RecordingStream()
    gate = trio.Event()
    async with rig("alpha", stream=stream) as it:
        alpha = it.builders["alpha"]
        alpha.behaviours["engine_newPayloadV4"] = gated(gate, answers(m.verdict()))
        await it.ask(m.new_payload(m.Block("parent")))
        for number in range(50):
            await it.ask(m.forkchoice(m.block_hash(f"head {number}")))
        await it.order_build()
        gate.set()
        await it.joined(stream, "alpha")
        assert len(alpha.bodies("engine_forkchoiceUpdatedV3")) == 1, "the order moves the head as well"


async def test_after_a_reorg_the_block_is_the_new_branchs() -> None:
    stream = RecordingStream()
    sibling = m.block_hash("sibling")
    async with rig("alpha", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha")
        await it.ask(m.forkchoice(sibling))
        await it.ask(m.build(head=sibling))
        it.el.behaviours["engine_getPayloadV4"] = answers(m.Block("own", parent=sibling).answer())
        # The builder has not noticed: its block is the old branch's, and the EL would call it VALID.
        reply = json.loads(await it.ask(m.get_payload(EL_ID)))
        assert reply["result"]["executionPayload"]["parentHash"] == sibling
        assert stream.names().count("build_abandoned") == 1
        assert ("head_changed", sibling, None) in stream.calls


async def test_the_chosen_block_goes_to_all_builders_before_op_node_says_anything() -> None:
    stream = RecordingStream()
    async with rig("alpha", "beta", stream=stream) as it:
        await it.order_build()
        await it.joined(stream, "alpha", "beta")
        await it.ask(m.get_payload(EL_ID))
        for fake in it.builders.values():
            [body] = await fake.wait_for("engine_newPayloadV4")
            assert json.loads(body)["params"][0]["blockHash"] == block_of("alpha").hash


async def test_while_all_builders_are_ill_they_can_be_left_out_of_the_chain() -> None:
    settings = EngineSettings(
        SECRET, builder_deadline_s=0.2, health_check_interval_s=0.02, ignore_unhealthy_builders=True
    )
    async with rig("alpha", settings=settings) as it:
        alpha = it.builders["alpha"]
        alpha.behaviours["eth_getBlockByNumber"] = answers(m.error())
        with trio.fail_after(SOON_S):
            while (await it.get("/healthz")).status != 206:
                await trio.lowlevel.checkpoint()
        await it.ask(m.forkchoice())
        await it.ask(m.new_payload(m.Block("b")))
        await it.order_build()
        await it.ask(m.get_payload(EL_ID))
        await it.ask(m.request("miner_setExtra", ["0x01"]))
        await alpha.wait_for("miner_setExtra")
        assert [body for body in alpha.requests if b'"engine_' in body] == []
