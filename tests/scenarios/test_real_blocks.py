"""A block that was really produced on Unichain Sepolia, through the whole appliance as a real process.

Block 35535698 in five flashblocks (origin: tests/data/ORIGIN.md).
"""

from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.devnet.capture import read_capture
from appliance.devnet.engine_client import EngineClient, open_engine_client
from appliance.devnet.messages import forkchoice_json
from appliance.devnet.replay_network import Replay, ReplaySettings
from appliance.flashlog.maintenance import verify
from appliance.wire.jwt import load_secret
from tests.support.blocks import block_hash
from tests.support.hosts import HostFiles, started, subscribe, take
from tests.support.process import running

DATA = Path(__file__).parents[1] / "data"
CAPTURE = DATA / "flashblocks" / "unichain-sepolia-35535698.jsonl"
LINES = CAPTURE.read_bytes().splitlines()
NUMBER = 35535698
SEALED_HASH = "0xc463a3120c35268f610d969f5608b479332ef10953af77c7a6be806195831196"


async def build(engine: EngineClient, replay: Replay) -> Any:
    """The FCU with the block's attributes, as op-node sent it; the answer."""
    [captured] = replay.capture
    await replay.builder.websocket.wait_listeners()
    params = [forkchoice_json(captured.base.parent_hash), msgspec.to_builtins(captured.attributes())]
    return await engine.call("engine_forkchoiceUpdatedV3", params)


async def test_a_real_block_reaches_subscribers_byte_for_byte_and_op_node_as_it_was_sealed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    replay = Replay(read_capture(CAPTURE), tmp_path, ReplaySettings(interval_s=0.05))
    files = HostFiles(tmp_path, replay)
    async with started(nursery, replay), running(files.write) as appliance:
        engine_url = f"http://{appliance.addresses['engine']}"
        async with (
            open_engine_client(engine_url, load_secret(files.secret)) as engine,
            subscribe(appliance.addresses["fanout"]) as inbox,
        ):
            answer = await build(engine, replay)
            assert answer["payloadStatus"]["status"] == "VALID"
            assert await take(inbox, 5) == LINES
            envelope = await engine.call("engine_getPayloadV4", [answer["payloadId"]])
        line = await appliance.wait_for_event("returning block")
    sealed = msgspec.json.decode((DATA / "engine/unichain-sepolia-35535698-newPayloadV4.json").read_bytes())
    payload, versioned_hashes, beacon_root, requests = sealed["params"]
    assert envelope["executionPayload"] == payload
    assert (versioned_hashes, envelope["parentBeaconBlockRoot"], envelope["executionRequests"]) == (
        [],
        beacon_root,
        requests,
    )
    assert block_hash(envelope["executionPayload"], beacon_root) == SEALED_HASH
    assert (line["hash"], line["number"], line["context"]) == (SEALED_HASH, NUMBER, "builder")
    assert line["payload_id"] == answer["payloadId"]


async def test_after_kill_9_and_restart_a_subscriber_resumes_after_its_last_flashblock(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    replay = Replay(read_capture(CAPTURE), tmp_path, ReplaySettings(interval_s=0.05))
    files = HostFiles(tmp_path, replay)
    async with started(nursery, replay):
        async with running(files.write) as appliance:
            engine_url = f"http://{appliance.addresses['engine']}"
            async with (
                open_engine_client(engine_url, load_secret(files.secret)) as engine,
                subscribe(appliance.addresses["fanout"]) as inbox,
            ):
                await build(engine, replay)
                assert await take(inbox, 5) == LINES
                appliance.kill()
        async with running(files.write) as appliance:
            address = appliance.addresses["fanout"]
            async with subscribe(address, f"?block_number={NUMBER}&flashblock_index=1") as inbox:
                assert await take(inbox, 3) == LINES[2:]
            async with subscribe(address, "?payload_id=0x03c446f063e3735a&flashblock_index=3") as inbox:
                assert await take(inbox, 1) == LINES[4:]
            async with subscribe(address) as inbox:
                assert await take(inbox, 5) == LINES
    report = verify(files.log)
    assert report.problems == []
    assert (report.entries, report.payloads) == (5, 1)
