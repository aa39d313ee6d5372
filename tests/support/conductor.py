"""op-conductor and its op-nodes in small: one leader builds, the others follow, and who is not well does not lead."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.devnet.endpoints import Endpoint, secret_in
from appliance.devnet.engine_client import open_engine_client
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.messages import ExecutionPayload, RpcError, decode_as, forkchoice_json, quantity
from appliance.devnet.network import Devnet
from appliance.devnet.node import LeaderNode, SlotReport
from appliance.domain.errors import UnavailableError
from appliance.net.http_client import HttpClient
from appliance.wire.jwt import load_secret
from tests.support.hosts import HostFiles
from tests.support.ports import lasting_port
from tests.support.pulse import Pulse, measured

CALL_TIMEOUT_S = 10.0
"""Those that fail here refuse at once; a machine that stands still for a moment is no failure."""


def another_el(devnet: Devnet, folder: Path, name: str) -> SimulatedExecutionClient:
    """A second host's execution client of the same chain."""
    return SimulatedExecutionClient(
        devnet._new_ledger(),
        name=name,
        secret=secret_in(folder, name)[1],
        traffic=devnet.traffic,
        transactions_per_block=8,
        peers=[devnet.el.ledger],
    )


@dataclass
class Site:
    """What one host is put in front of, and where op-node finds it."""

    folder: Path
    builder_endpoints: Sequence[Endpoint]
    el_endpoint: Endpoint
    port: int = field(default_factory=lasting_port)

    @property
    def files(self) -> HostFiles:
        """Its configuration, always on the same port."""
        self.folder.mkdir(exist_ok=True)
        keys = {"listen": f"127.0.0.1:{self.port}", "builder_deadline_ms": 100}
        return HostFiles(self.folder, self, {"engine": keys})

    @property
    def url(self) -> str:
        """Its Engine API."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Conductor:
    """Drives slots over several sites; ``leaders`` has who led each, ``reports`` what came of it."""

    devnet: Devnet
    sites: Sequence[Site]
    slot_s: float
    leader: int = 0
    leaders: list[int] = field(default_factory=list)
    reports: list[SlotReport] = field(default_factory=list)
    elections: int = 0
    pulse: Pulse = field(default_factory=Pulse)

    async def run(self, slots: int) -> None:
        """So many slots, each with its block or its error."""
        async with measured() as self.pulse:
            await self._run(slots)

    async def _run(self, slots: int) -> None:
        self._head = self.devnet.el.head
        self._node = LeaderNode(_Nobody())
        self._node._set_head(self._head.hash, self._head.number, self._head.header.timestamp)
        begin = trio.current_time()
        for slot in range(1, slots + 1):
            self.reports.append(await self._slot(begin + slot * self.slot_s))
            self.leaders.append(self.leader)
            await trio.sleep_until(begin + slot * self.slot_s)

    async def _slot(self, end: float) -> SlotReport:
        number, reason = self._node.head_number + 1, ""
        for _ in self.sites:
            try:
                return await self._build(number, end)
            except (RpcError, UnavailableError) as error:
                reason = str(error)
                self.leader = (self.leader + 1) % len(self.sites)
                self.elections += 1
        return SlotReport(number, error=reason)

    async def _build(self, number: int, end: float) -> SlotReport:
        attributes = self._node.attributes(number)
        state = forkchoice_json(self._node.head_hash)
        site = self.sites[self.leader]
        if await self.health(site) == 503:
            raise UnavailableError("not well")
        started = await self._call(site, "engine_forkchoiceUpdatedV3", [state, msgspec.to_builtins(attributes)])
        if started["payloadId"] is None:
            raise UnavailableError(f"no payload id: {started}")
        await trio.sleep_until(end - self.slot_s / 4)
        before = trio.current_time()
        envelope = await self._call(site, "engine_getPayloadV4", [started["payloadId"]])
        latency = trio.current_time() - before
        payload = decode_as(ExecutionPayload, envelope["executionPayload"])
        await self._insert(site, envelope, payload.block_hash)
        self._node._set_head(payload.block_hash, number, quantity(payload.timestamp))
        async with trio.open_nursery() as nursery:
            for follower in self.sites:
                if follower is not site:
                    nursery.start_soon(self._gossip, follower, envelope, payload.block_hash)
        source = self.devnet.built_by(payload.block_hash) or "el"
        return SlotReport(number, payload.block_hash, source, len(payload.transactions), latency_s=latency)

    async def _gossip(self, site: Site, envelope: dict[str, Any], block_hash: str) -> None:
        try:
            await self._insert(site, envelope, block_hash)
        except (RpcError, UnavailableError):
            return  # a follower that is away catches up by itself

    async def _insert(self, site: Site, envelope: dict[str, Any], block_hash: str) -> None:
        params = [envelope["executionPayload"], [], envelope["parentBeaconBlockRoot"], []]
        await self._call(site, "engine_newPayloadV4", params)
        await self._call(site, "engine_forkchoiceUpdatedV3", [forkchoice_json(block_hash), None])

    @staticmethod
    async def _call(site: Site, method: str, params: list[Any]) -> Any:
        async with open_engine_client(site.url, load_secret(site.files.secret), timeout_s=CALL_TIMEOUT_S) as client:
            return await client.call(method, params)

    @staticmethod
    async def health(site: Site) -> int:
        """What op-conductor reads; 0 for no answer."""
        async with HttpClient(site.url) as client:
            try:
                return (await client.request("GET", "/healthz", timeout_s=CALL_TIMEOUT_S)).status
            except UnavailableError:
                return 0


class _Nobody:
    """An engine for a node that only makes attributes."""

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Never called."""
        raise NotImplementedError
