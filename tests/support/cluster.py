"""Three `appliance run` processes that replicate, with a proxy on every link between them, and a devnet behind one."""

import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.cli.dev_files import LOOPBACK, EngineFiles, LocalHost, config_text
from appliance.devnet.network import Devnet
from appliance.domain.errors import UnavailableError
from appliance.net.http_client import HttpClient
from tests.support.ports import lasting_port
from tests.support.process import ApplianceProcess, running
from tests.support.proxy import Proxy, proxied

NAMES = ("a", "b", "c")
ORIGIN = "a"


def placed(folder: Path, name: str, *, engine: bool) -> LocalHost:
    """A host with ports that are kept over restarts, so that others find it again."""
    replication, fanout, admin, builds = (lasting_port() for _ in range(4))
    own = (builds, 0) if engine else (None, None)
    return LocalHost(name, folder / name, LOOPBACK, replication, fanout, admin, *own)


@dataclass
class ClusterHost:
    """One host: its files, and its process while it runs. ``ports`` has its place and its folder, too."""

    ports: LocalHost
    peers: dict[str, str]
    devnet: Devnet | None
    keys: dict[str, Any]
    nursery: trio.Nursery
    process: ApplianceProcess | None = None
    starts: int = 0
    _let_go: trio.Event = field(default_factory=trio.Event)
    _gone: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        """Its id."""
        return self.ports.name

    @property
    def data(self) -> Path:
        """Where the log is."""
        return self.ports.folder / "data"

    @property
    def secret(self) -> Path:
        """What op-node signs with."""
        return self.ports.folder / "op-node.jwt"

    def write(self) -> Path:
        """The configuration file: that of `appliance dev --hosts`, and what this cluster's hosts have besides."""
        self.ports.folder.mkdir(exist_ok=True)
        (self.ports.folder.parent / "replication.secret").write_text("ab" * 32)
        keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.keys.items())
        text = config_text(self.ports, self.peers, self._engine()).replace("[replication]\n", f"[replication]\n{keys}")
        self.ports.config.write_text(text + '[log]\nformat = "json"\n')
        return self.ports.config

    def _engine(self) -> EngineFiles | None:
        if self.devnet is None:
            return None
        if not self.secret.exists():
            self.secret.write_text(os.urandom(32).hex())
        return EngineFiles(self.secret, self.devnet.el_endpoint, self.devnet.builder_endpoints, 0.5)

    async def start(self) -> None:
        """Start the process; ready when this returns."""
        self._let_go, self._gone = trio.Event(), trio.Event()
        self.process = await self.nursery.start(self._run)
        self.starts += 1

    async def _run(self, *, task_status: trio.TaskStatus[ApplianceProcess]) -> None:
        try:
            async with running(self.write) as process:
                task_status.started(process)
                await self._let_go.wait()
        finally:
            self._gone.set()

    async def _forget(self) -> None:
        self._let_go.set()
        await self._gone.wait()
        self.process = None

    async def kill(self) -> None:
        """SIGKILL, and gone."""
        assert self.process is not None
        self.process.kill()
        await self.process.process.wait()
        await self._forget()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = await self.process.process.wait()
        await self._forget()
        return code

    async def status(self) -> dict[str, Any]:
        """`/api/v1/status`, empty when it does not answer."""
        try:
            async with HttpClient(f"http://127.0.0.1:{self.ports.admin}") as client:
                found: dict[str, Any] = json.loads((await client.request("GET", "/api/v1/status", timeout_s=2)).body)
                return found
        except UnavailableError:
            return {}

    async def wait_head(self, least: int) -> int:
        """Until it shows so many positions, which it says only when it answers; how many."""
        while (head := int((await self.log_status()).get("head", -1))) < least:  # noqa: ASYNC110 a process
            await trio.sleep(0.05)
        return head

    async def log_status(self) -> dict[str, Any]:
        """The part about the log."""
        found: dict[str, Any] = (await self.status()).get("flashlog", {})
        return found


@dataclass
class Cluster:
    """The hosts by name, and the proxy of the link by which one follows another, by ``follower>source``."""

    hosts: dict[str, ClusterHost]
    proxies: dict[str, Proxy]

    def links_of(self, name: str) -> list[Proxy]:
        """All proxies between a host and the others."""
        return [proxy for link, proxy in self.proxies.items() if name in link.split(">")]

    async def entries(self) -> list[tuple[int, int]]:
        """Of each host: entries, and how many positions are not shown yet."""
        found = [await host.log_status() for host in self.hosts.values()]
        return [(each.get("entries", -1), each.get("appended_position", 0) - each.get("head", -1)) for each in found]

    async def wait_equal(self, more_than: int = -1, timeout_s: float = 60.0) -> int:
        """Until all hosts show the same number of entries, all that they have; that number."""
        with trio.move_on_after(timeout_s):
            while True:
                found = await self.entries()
                if len(set(found)) == 1 and found[0][1] == 0 and found[0][0] > more_than:
                    return found[0][0]
                await trio.sleep(0.05)
        raise AssertionError(f"the hosts do not agree: {await self.entries()}")

    async def wait_quiet(self) -> int:
        """Until nothing new comes, and all hosts agree; how many entries there are."""
        before, now = -1, await self.wait_equal()
        while before != now:
            await trio.sleep(1.0)
            before, now = now, await self.wait_equal()
        return now

    async def wait_flowing(self, count: int, timeout_s: float = 60.0) -> None:
        """Until every host shows so many entries more than it does now."""
        begin: dict[str, int] = {}
        with trio.move_on_after(timeout_s):
            for name, host in self.hosts.items():
                begin[name] = await host.wait_head(0)
            for name, host in self.hosts.items():
                await host.wait_head(begin[name] + count)
            return
        raise AssertionError(f"the stream does not flow: {begin} -> {await self.entries()}")


@asynccontextmanager
async def cluster(
    folder: Path,
    devnet: Devnet | None = None,
    names: Sequence[str] = NAMES,
    *,
    learners: Sequence[str] = (),
    **keys: Any,
) -> AsyncIterator[Cluster]:
    """The hosts, started; ``keys`` are of the section [replication]."""
    everyone = (*names, *learners)
    ports = {name: placed(folder, name, engine=name == ORIGIN and devnet is not None) for name in everyone}
    links = [(follower, source) for follower in everyone for source in names if follower != source]
    targets = [("127.0.0.1", ports[source].replication) for _, source in links]
    async with proxied(*targets) as made, trio.open_nursery() as nursery:
        proxies = {f"{follower}>{source}": proxy for (follower, source), proxy in zip(links, made, strict=True)}
        hosts = {
            name: ClusterHost(
                ports[name],
                {other: proxies[f"{name}>{other}"].url for other in names if other != name},
                devnet if name == ORIGIN else None,
                keys | ({"follow_only": True} if name in learners else {}),
                nursery,
            )
            for name in everyone
        }
        for host in hosts.values():
            await host.start()
        yield Cluster(hosts, proxies)
        nursery.cancel_scope.cancel()
