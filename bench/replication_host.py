"""One host of `bench.replication`: the appliance's log and replication plane in a process, and a publisher.

Requests: ``append`` (count, size, interval_s, wait_s) appends flashblocks and answers with how long each took to be on
disk, and to be committed, for which it waits ``wait_s``; with ``bare`` a row of the same size is committed to a SQLite
file of its own before each of them, and how long that took is in the answer; ``status``.
"""

import argparse
import contextlib
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


class BareFile:
    """Commits of one row each, as plainly as Python can: one file, WAL and synchronous=FULL as the log, no threads."""

    def __init__(self, path: pathlib.Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB)")

    def commit(self, size: int) -> float:
        """How many seconds one took."""
        began = time.perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO rows (body) VALUES (?)", (bytes(size),))
        self._connection.execute("COMMIT")
        return time.perf_counter() - began

    def close(self) -> None:
        self._connection.close()


class Publisher:
    """Appends flashblocks of blocks of ten."""

    def __init__(self, log: FlashLog, bare: BareFile) -> None:
        self._log = log
        self._bare = bare
        self._number = int(time.time()) * 1000  # a host that starts again does not repeat itself

    async def append(
        self, count: int, size: int, interval_s: float, wait_s: float, *, bare: bool = False
    ) -> dict[str, list[float]]:
        """Seconds on disk and committed, one of each for every flashblock; and of a bare commit before each."""
        times: dict[str, list[float]] = {"bare": [], "on_disk": [], "committed": []}
        for _ in range(count):
            if bare:
                times["bare"].append(self._bare.commit(size))
                await trio.sleep(interval_s)
            await self._append_one(size, wait_s, times)
            await trio.sleep(interval_s)
        return times

    async def _append_one(self, size: int, wait_s: float, times: dict[str, list[float]]) -> None:
        item = self._next(size)
        began = time.perf_counter()
        entry = await self._log.append(item, "bench")
        times["on_disk"].append(time.perf_counter() - began)
        with trio.move_on_after(wait_s):
            await self._log.wait_past(entry.position - 1)
            times["committed"].append(time.perf_counter() - began)

    def _next(self, size: int) -> Flashblock:
        payload, index = divmod(self._number, INDICES)
        self._number += 1
        body = b'{"payload_id":"0x%016x","index":%d,"metadata":{"block_number":%d},"x":"' % (payload, index, payload)
        body += b"x" * max(0, size - len(body) - 2) + b'"}'
        return Flashblock(PayloadId(f"0x{payload:016x}"), index, payload, None, None, body, Encoding.TEXT)


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
        with contextlib.closing(BareFile(given.folder / "bare.db")) as bare:
            publisher = Publisher(log, bare)
            async for request in requests():
                say(**await _answer(request, log, plane, publisher))
        nursery.cancel_scope.cancel()


async def _answer(request: dict[str, Any], log: FlashLog, plane: Replication, publisher: Publisher) -> dict[str, Any]:
    if request.pop("do") == "append":
        return await publisher.append(**request)
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
