"""A whole devnet: traffic, one execution client, n builders, and the leader that drives an engine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from appliance.devnet.builder import BuilderSettings, SimulatedBuilder
from appliance.devnet.endpoints import ANY_PORT, Endpoint, secret_in
from appliance.devnet.engine_client import open_engine_client
from appliance.devnet.execution import genesis
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.faults import FaultChoice, Role, parse_fault
from appliance.devnet.ledger import Ledger
from appliance.devnet.node import LeaderNode, NodeSettings, SlotReport
from appliance.devnet.server import SimulatedServer
from appliance.devnet.traffic import Traffic
from appliance.devnet.transactions import KnownTransactions, Wallet
from appliance.wire import jwt

CHAIN_ID: Final = 901
OP_RETH_ID_VERSION: Final = 4
FIRST_BLOCK_AT: Final = 1_735_689_600  # 2025-01-01, as if the chain had run since then
FIRST_TRANSACTIONS: Final = 10  # signed before the first slot: 6 ms each


@dataclass(frozen=True, slots=True)
class DevnetSettings:
    """What a devnet is made of. Times in seconds; addresses default to ports that the kernel chooses.

    `genesis_number` None counts blocks by the wall clock, so that a devnet that starts again on the same
    data folder never uses a block number twice.
    """

    builders: tuple[str, ...] = ("builder-1", "builder-2")
    block_time_s: float = 2.0
    flashblock_interval_s: float = 0.2
    transactions_per_flashblock: int = 3
    el_address: str = ANY_PORT
    builder_addresses: tuple[str, ...] = ()
    flashblocks_addresses: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    genesis_number: int | None = None


class Devnet:
    """Starts everything but the appliance; `start_node` drives the appliance once that is up.

    JWT secret files are written into `folder`. `on_slot` is given each slot's report.
    """

    def __init__(
        self,
        folder: Path,
        settings: DevnetSettings | None = None,
        *,
        on_slot: Callable[[SlotReport], None] = lambda _report: None,
    ) -> None:
        self.settings = settings or DevnetSettings()
        self._choices = [parse_fault(text, self.settings.builders) for text in self.settings.faults]
        self._folder = folder
        self._on_slot = on_slot
        self._known = KnownTransactions(CHAIN_ID)
        self._wallet = Wallet(self._known)
        self._genesis = self._make_genesis()
        self.traffic = Traffic(self._wallet)
        self.el = self._make_el()
        self.builders = tuple(map(self._make_builder, range(len(self.settings.builders))))
        self.node: LeaderNode | None = None
        self._nursery: trio.Nursery | None = None
        for choice in self._choices:
            self._switch(choice, on=True)

    def __repr__(self) -> str:
        return f"<Devnet {self.el!r}, {len(self.builders)} builders>"

    def _make_genesis(self) -> Ledger:
        now = int(time.time())
        number = self.settings.genesis_number
        if number is None:
            number = int((now - FIRST_BLOCK_AT) / self.settings.block_time_s)
        return Ledger(genesis(now, number=number), self._known)

    def _new_ledger(self) -> Ledger:
        return Ledger(self._genesis.head, self._known)

    def _make_el(self) -> SimulatedExecutionClient:
        per_block = self._flashblocks_per_block() * self.settings.transactions_per_flashblock
        return SimulatedExecutionClient(
            self._new_ledger(),
            secret=secret_in(self._folder, "el")[1],
            traffic=self.traffic,
            transactions_per_block=max(1, per_block * 2 // 3),
        )

    def _make_builder(self, index: int) -> SimulatedBuilder:
        """Odd builders name payloads as op-reth does, so that ids really differ between upstreams."""
        name = self.settings.builders[index]
        return SimulatedBuilder(
            self._new_ledger(),
            name=name,
            secret=secret_in(self._folder, name)[1],
            traffic=self.traffic,
            wallet=self._wallet,
            id_version=OP_RETH_ID_VERSION if index % 2 else None,
            peers=[self.el.ledger],
            settings=self._builder_settings(),
            flashblocks_address=_nth(self.settings.flashblocks_addresses, index),
        )

    def _builder_settings(self) -> BuilderSettings:
        return BuilderSettings(
            interval_s=self.settings.flashblock_interval_s,
            flashblocks=self._flashblocks_per_block(),
            transactions_per_flashblock=self.settings.transactions_per_flashblock,
        )

    def _flashblocks_per_block(self) -> int:
        return max(1, round(self.settings.block_time_s / self.settings.flashblock_interval_s))

    async def run(
        self,
        *,
        stopping: trio.Event | None = None,
        task_status: trio.TaskStatus["Devnet"] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stopping`; `started()` gives the devnet once all ports are open."""
        stopping = trio.Event() if stopping is None else stopping
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.traffic.run)
            await self.traffic.wait_signed(FIRST_TRANSACTIONS)
            await nursery.start(self.el.run, self.settings.el_address)
            for index, builder in enumerate(self.builders):
                await nursery.start(builder.run, _nth(self.settings.builder_addresses, index))
            task_status.started(self)
            await stopping.wait()
            nursery.cancel_scope.cancel()

    @property
    def el_endpoint(self) -> Endpoint:
        """The execution client, for `[engine.l2]`."""
        return Endpoint(self.el.name, self.el.url, secret_in(self._folder, self.el.name)[0])

    @property
    def builder_endpoints(self) -> tuple[Endpoint, ...]:
        """The builders, for `[[engine.builders]]`."""
        return tuple(
            Endpoint(builder.name, builder.url, secret_in(self._folder, builder.name)[0], builder.flashblocks_url)
            for builder in self.builders
        )

    async def start_node(self, engine_url: str, secret_file: Path) -> LeaderNode:
        """Start the leader on an engine; returns once it has learnt the head from it."""
        if self._nursery is None:
            raise RuntimeError("the devnet is not running")
        self.node = await self._nursery.start(self._run_node, engine_url, jwt.load_secret(secret_file))
        return self.node

    async def _run_node(
        self, url: str, secret: bytes, task_status: trio.TaskStatus[LeaderNode] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with open_engine_client(url, secret) as engine:
            node = LeaderNode(
                engine,
                settings=NodeSettings(block_time_s=self.settings.block_time_s),
                source_of=self.built_by,
                on_slot=self._on_slot,
            )
            await node.run(task_status=task_status)

    def built_by(self, block_hash: str) -> str | None:
        """The name of the client that showed this block first hand, or None."""
        clients = (self.el, *self.builders)
        return next((client.name for client in clients if block_hash in client.api.built), None)

    def flashblocks_of(self, block_hash: str) -> int | None:
        """How many flashblocks were published of the payload that became this block; None for an EL's block."""
        for builder in self.builders:
            payload_id = builder.api.built.get(block_hash)
            if payload_id is not None:
                hashes = [item.block_hash for item in builder.flashblocks_of(payload_id)]
                return hashes.index(block_hash) + 1 if block_hash in hashes else len(hashes)
        return None

    def set_fault(self, text: str, *, on: bool = True) -> None:
        """Switch a fault, `NAME` or `NAME:builder`; ConfigError when there is no such thing."""
        self._switch(parse_fault(text, self.settings.builders), on=on)

    def _switch(self, choice: FaultChoice, *, on: bool) -> None:
        clients: Sequence[SimulatedServer] = self.builders if choice.info.role is Role.BUILDER else (self.el,)
        for client in clients:
            if choice.target in (None, client.name):
                client.faults.set(choice.info.fault, on=on)

    def faults(self) -> list[str]:
        """What is switched on now, as `set_fault` takes it."""
        found = [f"el-{fault}" for fault in self.el.faults.active]
        found += [f"builder-{fault}:{each.name}" for each in self.builders for fault in each.faults.active]
        return sorted(found)

    def statistics(self) -> dict[str, object]:
        """Of each simulated program, by name."""
        return {client.name: client.statistics() for client in (self.el, *self.builders)}


def _nth(addresses: Sequence[str], index: int) -> str:
    return addresses[index] if index < len(addresses) else ANY_PORT
