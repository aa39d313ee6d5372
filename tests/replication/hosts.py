"""Hosts that replicate, in this process, on real sockets and real logs."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from appliance.domain.flashblocks import Entry, Flashblock
from appliance.flashlog import FlashLog, RetentionLimits, open_flashlog
from appliance.flashlog.metrics import FlashlogMetrics
from appliance.net.listening import open_listener
from appliance.replication.connection import Connection
from appliance.replication.metrics import ReplicationMetrics
from appliance.replication.service import Replication
from appliance.replication.settings import Peer, ReplicationSettings
from tests.flashlog.support import flashblock
from tests.support.eventually import eventually
from tests.support.ports import lasting_port


@dataclass
class Host:
    """One host: its log while `up`, its plane while `replicating`."""

    name: str
    folder: Path
    settings: ReplicationSettings
    port: int
    retention: RetentionLimits = field(default_factory=RetentionLimits)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    _log: FlashLog | None = None
    _replication: Replication | None = None
    _scope: trio.CancelScope | None = None
    _stopping: trio.Event = field(default_factory=trio.Event)
    _ended: trio.Event = field(default_factory=trio.Event)

    @property
    def log(self) -> FlashLog:
        assert self._log is not None
        return self._log

    @property
    def replication(self) -> Replication:
        assert self._replication is not None
        return self._replication

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Log and plane, until `stop`."""
        self._stopping, self._ended, self.registry = trio.Event(), trio.Event(), CollectorRegistry()
        try:
            async with open_flashlog(
                self.folder,
                commit_on_append=False,
                retention=self.retention,
                retention_interval_s=1e9,
                metrics=FlashlogMetrics.create(self.registry),
            ) as self._log:
                metrics = ReplicationMetrics.create(self.registry)
                self._replication = Replication(self.settings, self._log, metrics)
                listener = open_listener(f"127.0.0.1:{self.port}")
                with trio.CancelScope() as self._scope:
                    await self._replication.run(listener, stopping=self._stopping, task_status=task_status)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """In order: the plane commits what it can within a second."""
        self._stopping.set()
        await self._ended.wait()

    async def crash(self) -> None:
        """The plane ends at once; what its log has is what a kill would leave."""
        assert self._scope is not None
        self._scope.cancel()
        await self._ended.wait()

    async def append(self, payload: int, count: int, first: int = 0, text: str = "", size: int = 0) -> list[Entry]:
        """Originate flashblocks."""
        items = [flashblock(payload, index, text=text, size=size) for index in range(first, first + count)]
        return [await self.log.append(item, "builder") for item in items]

    async def take(self, item: Flashblock) -> Entry:
        return await self.log.append(item, "builder")

    def connections(self) -> list[Connection]:
        """In both directions."""
        runner = self.replication._runner
        assert runner is not None
        return list(runner.connections.values())

    def metric(self, name: str, **labels: str) -> float:
        """Its value; -1 while nothing of that name and those labels was counted yet."""
        found = self.registry.get_sample_value(f"replication_{name}", labels)
        return -1 if found is None else found

    @property
    def transactions(self) -> int:
        """How often the log was written to since the start, and so how many fsyncs that took."""
        return int(self.registry.get_sample_value("flashlog_batch_size_count") or 0)

    async def shown(self) -> list[tuple[str, int, bytes]]:
        """What subscribers may see: (payload id, index, body), in log order."""
        entries = await self.log.read(0, limit=2**40, max_bytes=2**40)
        return [(entry.payload_id, entry.index, entry.body) for entry in entries]

    async def held(self) -> list[tuple[str, int, bytes]]:
        """All that is on disk."""
        records = await self.log.records(0, limit=2**40, max_bytes=2**40)
        return [(record.payload_id, record.index, record.body) for record in records]


def make_hosts(
    folder: Path,
    names: Sequence[str],
    *,
    ports: dict[str, int] | None = None,
    learners: Sequence[str] = (),
    **keys: object,
) -> dict[str, Host]:
    """Hosts that know each other. ``ports`` may put proxies between them."""
    own = {name: lasting_port() for name in (*names, *learners)}
    secret = os.urandom(32)
    hosts = {}
    for name in (*names, *learners):
        peers = tuple(
            Peer(other, f"ws://127.0.0.1:{(ports or {}).get(f'{name}>{other}', own[other])}")
            for other in names
            if other != name
        )
        settings = ReplicationSettings(name, secret, peers, follow_only=name in learners, timeout_s=0.5)
        hosts[name] = Host(name, folder / name, replace(settings, **keys), own[name])  # type: ignore[arg-type]
    return hosts


@asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    """Start these, and stop at the end whatever runs."""
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(host.run)
        yield
        nursery.cancel_scope.cancel()


async def committed(*hosts: Host, entries: int, timeout_s: float = 60.0) -> None:
    """Wait until so many are shown on each."""
    for host in hosts:
        await eventually(lambda host=host: host.log.statistics()["entries"] == entries, timeout_s)  # type: ignore[misc]
        await eventually(lambda host=host: host.log.head == host.log.appended, timeout_s)  # type: ignore[misc]


async def agreed(*hosts: Host, timeout_s: float = 60.0) -> int:
    """Wait until these hold the same number of entries and show all of them; that number."""

    def is_so() -> bool:
        counts = {host.log.statistics()["entries"] for host in hosts}
        return len(counts) == 1 and all(host.log.head == host.log.appended for host in hosts)

    await eventually(is_so, timeout_s)
    return len(await hosts[0].held())
