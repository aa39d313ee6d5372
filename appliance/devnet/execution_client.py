"""A simulated execution client: real checks, and blocks made of the devnet's traffic."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from appliance.devnet.engine_api import BuildJob, EngineApi
from appliance.devnet.execution import Block
from appliance.devnet.faults import Fault
from appliance.devnet.filling import extend
from appliance.devnet.ledger import Ledger
from appliance.devnet.merkle import keccak
from appliance.devnet.messages import hex_data, unhex
from appliance.devnet.server import SimulatedServer
from appliance.devnet.traffic import RunSync, Traffic
from appliance.devnet.transactions import InvalidTransactionError
from appliance.domain.payloads import PayloadStatus

SYNC_DELAY_S: Final = 0.5  # how long fetching missed blocks from a peer takes
TRANSACTIONS_AT_A_TIME: Final = 4  # 0.1 ms each: the loop is shared


class SimulatedExecutionClient(SimulatedServer):
    """An execution client of the devnet's chain.

    `peers` are ledgers from which missing blocks are fetched, as a node syncs. `transactions_per_block`
    bounds what an own block takes from the traffic. `id_version` is byte 0 of its payload ids: None for
    op-geth's rule, 4 for op-reth's.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        name: str = "el",
        secret: bytes | None = None,
        traffic: Traffic | None = None,
        id_version: int | None = None,
        transactions_per_block: int = 24,
        slow_s: float = 0.3,
        peers: Sequence[Ledger] = (),
        run_sync: RunSync = trio.to_thread.run_sync,
    ) -> None:
        super().__init__(name=name, secret=secret, slow_s=slow_s)
        self.api = EngineApi(ledger, name=name, id_version=id_version, on_build=self._on_build)
        self.api.alter = self._alter
        self.peers = tuple(peers)
        self.transactions_per_block = transactions_per_block
        self._traffic = traffic
        self._run_sync = run_sync

    @property
    def ledger(self) -> Ledger:
        """The chain that this client knows."""
        return self.api.ledger

    @property
    def head(self) -> Block:
        """The canonical head."""
        return self.ledger.head

    @property
    def blocks(self) -> dict[str, Block]:
        """The valid blocks by hash."""
        return self.ledger.blocks

    def statistics(self) -> dict[str, object]:
        """For a status page."""
        return {"head": self.head.number, "head_hash": self.head.hash, **super().statistics()}

    async def answer(self, method: str, params: list[Any]) -> Any:
        """What the chain says."""
        if method.startswith("eth_sendRawTransaction"):
            await self._decode_in_thread(params)
        result = self.api.call(method, params)
        self._sync_when_behind(params, result)
        return result

    async def _decode_in_thread(self, params: list[Any]) -> None:
        """Recover the sender where it does not hold the loop; what is wrong is said by the call itself."""
        try:
            await self._run_sync(self.ledger.known.decode, unhex(str(params[0])))
        except (InvalidTransactionError, ValueError, IndexError):
            return

    def _sync_when_behind(self, params: list[Any], result: Any) -> None:
        if not self.peers or self._nursery is None or not isinstance(result, dict):
            return
        if result.get("payloadStatus", result).get("status") != PayloadStatus.SYNCING:
            return
        wanted = params[0].get("headBlockHash") or params[0].get("parentHash")
        self._nursery.start_soon(self._sync, str(wanted))

    async def _sync(self, block_hash: str) -> None:
        await trio.sleep(SYNC_DELAY_S)
        self.ledger.adopt(block_hash, self._ask_peers)

    def _ask_peers(self, block_hash: str) -> Block | None:
        found = (peer.blocks.get(block_hash) for peer in self.peers)
        return next((block for block in found if block is not None), None)

    def _on_build(self, job: BuildJob) -> None:
        if self._nursery is None:
            raise RuntimeError(f"{self.name} builds only while `run` is running")
        self._nursery.start_soon(self._build, job)

    async def _build(self, job: BuildJob) -> None:
        """Fill the block at once, a few transactions at a time, until getPayload closes it."""
        left = 0 if job.attributes.no_tx_pool or Fault.EMPTY in self.faults else self.transactions_per_block
        while left > 0 and not job.closed:
            added = self._extend(job, min(left, TRANSACTIONS_AT_A_TIME))
            if not added:
                return
            left -= added
            await trio.lowlevel.checkpoint()

    def _extend(self, job: BuildJob, count: int) -> int:
        return extend(job.execution, self.api.mempool, self._traffic, count)

    def _alter(self, block: Block) -> Block:
        """A block as this client shows it."""
        if Fault.INVALID in self.faults:
            wrong = keccak(block.header.state_root)
            return replace(block, header=replace(block.header, state_root=wrong))
        if Fault.BAD_HASH in self.faults:
            return replace(block, claimed_hash=hex_data(keccak(block.header.hash)))
        return block
