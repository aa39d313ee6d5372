"""One host of `bench.replication`: the appliance's log and replication plane in a process, and a publisher.

Requests: ``bare`` (count, size, interval_s) commits rows to a SQLite file of its own with synchronous=FULL and answers
with how long each took; ``append`` (the same, and ``wait_s``) appends flashblocks and answers with how long each took
to be on disk, and to be committed, for which it waits ``wait_s``; ``status``.
"""

import argparse
import gc
import pathlib
import sqlite3
import time
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Encoding, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.net.listening import open_listener
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.service import Replication
from appliance.replication.settings import Peer, ReplicationSettings
from appliance.telemetry.logging import configure
from bench.children import say
from bench.fanout_server import requests

SECRET = b"\x01" * 32
INDICES = 10


class Publisher:
    """Appends flashblocks of blocks of ten."""

    def __init__(self, log: FlashLog) -> None:
        self._log = log
        self._number = int(time.time()) * 1000  # a host that starts again does not repeat itself

    async def append(self, count: int, size: int, interval_s: float, wait_s: float) -> dict[str, list[float]]:
        """Seconds on disk and committed, one of each for every flashblock."""
        on_disk, committed = [], []
        for _ in range(count):
            item = self._next(size)
            began = time.perf_counter()
            entry = await self._log.append(item, "bench")
            on_disk.append(time.perf_counter() - began)
            with trio.move_on_after(wait_s):
                await self._log.wait_past(entry.position - 1)
                committed.append(time.perf_counter() - began)
            await trio.sleep(interval_s)
        return {"on_disk": on_disk, "committed": committed}

    def _next(self, size: int) -> Flashblock:
        payload, index = divmod(self._number, INDICES)
        self._number += 1
        body = b'{"payload_id":"0x%016x","index":%d,"metadata":{"block_number":%d},"x":"' % (payload, index, payload)
        body += b"x" * max(0, size - len(body) - 2) + b'"}'
        return Flashblock(PayloadId(f"0x{payload:016x}"), index, payload, None, None, body, Encoding.TEXT)


def bare_commits(path: pathlib.Path, count: int, size: int, interval_s: float) -> list[float]:
    """Seconds of each commit of one row, as plainly as Python can: WAL and synchronous=FULL, as the log."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB)")
    times = []
    for _ in range(count):
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows (body) VALUES (?)", (bytes(size),))
        connection.execute("COMMIT")
        times.append(time.perf_counter() - began)
        time.sleep(interval_s)
    connection.close()
    return times


async def serve(given: argparse.Namespace) -> None:
    """Until stdin ends."""
    configure(level="error")
    peers = tuple(Peer(*peer.split("=", 1)) for peer in given.peer)
    settings = ReplicationSettings(given.name, SECRET, peers, timeout_s=60.0)
    async with open_flashlog(given.folder, commit_on_append=False) as log, trio.open_nursery() as nursery:
        plane = Replication(settings, log, ReplicationMetrics.create(CollectorRegistry()))
        listener = open_listener(f"127.0.0.1:{given.port}")
        stopping = trio.Event()
        await nursery.start(lambda task_status: plane.run(listener, stopping=stopping, task_status=task_status))
        gc.freeze()
        say(ready=True)
        publisher = Publisher(log)
        async for request in requests():
            say(**await _answer(request, given.folder, log, plane, publisher))
        nursery.cancel_scope.cancel()


async def _answer(
    request: dict[str, Any], folder: pathlib.Path, log: FlashLog, plane: Replication, publisher: Publisher
) -> dict[str, Any]:
    if request["do"] == "bare":
        times = bare_commits(folder / "bare.db", request["count"], request["size"], request["interval_s"])
        return {"bare": times}
    if request["do"] == "append":
        return await publisher.append(request["count"], request["size"], request["interval_s"], request["wait_s"])
    return {"status": plane.statistics(), "appended": log.appended, "head": log.head}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replication_host", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL")
    trio.run(serve, parser.parse_args())


if __name__ == "__main__":
    main()
