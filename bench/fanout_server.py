"""The measured half of `bench.fanout`: the appliance's log and fan-out in one process, and a publisher.

Requests: ``round`` (first, messages, rate, size) appends messages to the log and answers with the times at
which each append began; ``cpu``.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.service import Fanout, FanoutSettings
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.net.listening import open_listener
from appliance.telemetry.logging import configure
from appliance.telemetry.metrics import GarbageCollectionPauses
from appliance.wire import flashblock as wire
from bench.children import say
from bench.machine import raise_file_limit
from bench.messages import numbered


async def serve(folder: pathlib.Path, subscribers: int) -> None:
    """Until stdin ends."""
    settings = FanoutSettings(max_subscribers=subscribers, max_per_ip=subscribers)
    async with open_flashlog(folder) as log, trio.open_nursery() as nursery:
        registry = CollectorRegistry()
        fanout = Fanout(settings, log, FanoutMetrics.create(registry))
        listener = open_listener("127.0.0.1:0")
        port = listener.getsockname()[1]
        stopping = trio.Event()
        await nursery.start(lambda task_status: fanout.run(listener, stopping=stopping, task_status=task_status))
        GarbageCollectionPauses(registry).install()
        say(ready=True, port=port)
        async for request in requests():
            say(**(await _round(log, request) if request["do"] == "round" else {"cpu_s": time.process_time()}))
        nursery.cancel_scope.cancel()


async def requests() -> AsyncIterator[dict[str, Any]]:
    """What the parent asks."""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stream:
        unread = b""
        async for data in stream:
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


async def _round(log: FlashLog, request: dict[str, Any]) -> dict[str, Any]:
    published: list[float] = []
    began = time.monotonic()
    for number in range(request["messages"]):
        await trio.sleep(max(0.0, began + number / request["rate"] - time.monotonic()))
        message = _decode(numbered(request["first"] + number, request["size"]))
        published.append(time.monotonic())
        await log.append(message, "bench")
    return {"published": published}


def _decode(body: bytes) -> Flashblock:
    found = wire.decode(body, Encoding.TEXT)
    assert isinstance(found, Flashblock)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fanout_server", description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--subscribers", type=int, required=True)
    given = parser.parse_args()
    raise_file_limit()
    configure("warning", "text")  # to stderr: stdout is for the answers
    trio.run(serve, given.folder, given.subscribers)


if __name__ == "__main__":
    main()
