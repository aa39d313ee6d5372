"""Every variant of the flashblock schema that was seen on a chain passes from ingest to subscriber unharmed."""

import json
from pathlib import Path

import brotli
import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.service import Fanout, FanoutSettings
from appliance.flashlog.service import open_flashlog
from appliance.net.http_server import open_listener
from appliance.wire.flashblock import decode
from tests.support.hosts import subscribe, take

FLASHBLOCKS = Path(__file__).parents[1] / "data" / "flashblocks"
VARIANTS = sorted([*FLASHBLOCKS.glob("schema/*.json"), FLASHBLOCKS / "base-mainnet-37646058-index10.json"])


def before(flashblock: Flashblock) -> list[bytes]:
    """Plain flashblocks that come before this one in its payload."""
    return [
        json.dumps(
            {
                "payload_id": flashblock.payload_id,
                "index": index,
                "metadata": {"block_number": flashblock.block_number},
            }
        ).encode()
        for index in range(flashblock.index)
    ]


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
async def test_a_variant_passes_unharmed(path: Path, encoding: Encoding, tmp_path: Path, nursery: trio.Nursery) -> None:
    text = path.read_bytes()
    body = text if encoding is Encoding.TEXT else brotli.compress(text)
    flashblock = decode(body, encoding)
    assert isinstance(flashblock, Flashblock)
    assert msgspec.json.decode(text)["payload_id"] == flashblock.payload_id
    stopping = trio.Event()
    async with open_flashlog(tmp_path) as log:
        for filler in before(flashblock):
            earlier = decode(filler, Encoding.TEXT)
            assert isinstance(earlier, Flashblock)
            await log.append(earlier, "builder")
        await log.append(flashblock, "builder")
        async with trio.open_nursery() as planes:
            listener = open_listener("127.0.0.1:0")
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            fanout = Fanout(FanoutSettings(), log, FanoutMetrics.create(CollectorRegistry()))

            async def run(task_status: trio.TaskStatus[object]) -> None:
                await fanout.run(listener, stopping=stopping, task_status=task_status)

            await planes.start(run)
            after = f"?payload_id={flashblock.payload_id}"
            async with subscribe(address, after) as inbox:
                assert (await take(inbox, flashblock.index + 1))[-1] == text
            async with subscribe(address, f"{after}&encoding=brotli") as inbox:
                last = (await take(inbox, flashblock.index + 1))[-1]
                assert brotli.decompress(last) == text
                assert encoding is Encoding.TEXT or last == body
            stopping.set()
