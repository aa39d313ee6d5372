"""A simulated external builder: an execution client that publishes its block while it builds it."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import trio

from appliance.devnet.engine_api import BuildJob
from appliance.devnet.execution_client import SimulatedExecutionClient
from appliance.devnet.faults import Fault, Role
from appliance.devnet.flashblock_messages import encode, flashblock
from appliance.devnet.flashblock_server import FlashblockServer
from appliance.devnet.ledger import Ledger
from appliance.devnet.transactions import InvalidTransactionError, Transaction, Wallet
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId

PUBLISHED_KEPT: Final = 512
EARLY_S: Final = 0.1
LATE_FLASHBLOCKS: Final = 2
GARBAGE: Final[tuple[str | bytes, ...]] = (
    "{",
    '{"payload_id":7,"index":"one"}',
    "[]",
    b"\x00\xff\x13\x37 not brotli",
    '{"payload_id":"0x","index":-1,"diff":null}',
)


@dataclass(frozen=True, slots=True)
class Published:
    """One flashblock as it went out."""

    payload_id: PayloadId
    index: int
    block_hash: str
    message: str | bytes


@dataclass(frozen=True, slots=True)
class BuilderSettings:
    """How a builder publishes. Flashblock 0 holds the deposits, each later one a few transactions.

    `interval_s` in seconds between flashblocks; `flashblocks` at most in one block, index 0 included;
    `encoding` and `repeat_base` choose among the forms that production builders use.
    """

    interval_s: float = 0.2
    flashblocks: int = 10
    transactions_per_flashblock: int = 3
    encoding: Encoding = Encoding.TEXT
    repeat_base: bool = False


class SimulatedBuilder(SimulatedExecutionClient):
    """Engine API on one port, flashblocks on another. Its getPayload is what its flashblocks add up to.

    Each block carries one transaction of the builder itself, so that two builders' blocks differ.
    """

    role = Role.BUILDER

    def __init__(
        self,
        ledger: Ledger,
        *,
        name: str = "builder",
        settings: BuilderSettings | None = None,
        wallet: Wallet | None = None,
        flashblocks_address: str = "127.0.0.1:0",
        slow_s: float = 1.5,
        **options: Any,
    ) -> None:
        super().__init__(ledger, name=name, slow_s=slow_s, **options)
        self.settings = settings or BuilderSettings()
        self.websocket = FlashblockServer()
        self.published: deque[Published] = deque(maxlen=PUBLISHED_KEPT)
        self._wallet = wallet or Wallet(ledger.known)
        self._flashblocks_address = flashblocks_address
        self._signature: Transaction | None = None

    @property
    def flashblocks_url(self) -> str:
        """Where the flashblocks are, after `run` has started with an address."""
        return f"ws://{self._flashblocks_address}/ws"

    def flashblocks_of(self, payload_id: PayloadId) -> list[Published]:
        """What was published of one payload, in order."""
        return [item for item in self.published if item.payload_id == payload_id]

    def statistics(self) -> dict[str, object]:
        """For a status page."""
        own = {"flashblocks": len(self.published), "listeners": self.websocket.listeners}
        return {**super().statistics(), **own}

    async def _open_ports(self, nursery: trio.Nursery, address: str, stopping: trio.Event) -> str:
        self._flashblocks_address = await nursery.start(self.websocket.run, self._flashblocks_address)
        return await super()._open_ports(nursery, address, stopping)

    async def answer(self, method: str, params: list[Any]) -> Any:
        """What the chain says; with Fault.EARLY a started build is answered after its first flashblock."""
        result = await super().answer(method, params)
        if Fault.EARLY in self.faults and isinstance(result, dict) and result.get("payloadId"):
            await trio.sleep(EARLY_S)
        return result

    async def _build(self, job: BuildJob) -> None:
        """Publish flashblock 0 at once and one more each interval, until getPayload closes the job."""
        if job.attributes.no_tx_pool:
            return
        start = trio.current_time()
        published = self._publish(job, 0, 0)
        await self._sign_block(job)
        for index in range(1, self.settings.flashblocks):
            await trio.sleep_until(start + index * self.settings.interval_s)
            if job.closed:
                await self._publish_late(job, index, published)
                return
            self._add_transactions(job, index)
            published = self._publish(job, index, published)

    async def _sign_block(self, job: BuildJob) -> None:
        """The builder's own transaction. It is signed once for each of its blocks that becomes canonical."""
        nonce = job.execution.nonces.get(self._wallet.address(self.name), 0)
        if self._signature is None or self._signature.nonce != nonce:
            text = f"built by {self.name}".encode()
            self._signature = await self._run_sync(lambda: self._wallet.sign(self.name, nonce, data=text))

    def _add_transactions(self, job: BuildJob, index: int) -> None:
        if Fault.EMPTY in self.faults:
            return
        if index == 1 and self._signature is not None:
            try:
                job.execution.add(self._signature)
            except InvalidTransactionError:  # another job took the nonce, or the block is full
                self._signature = None
        self._extend(job, self.settings.transactions_per_flashblock)

    def _publish(self, job: BuildJob, index: int, start: int) -> int:
        """Send flashblock `index` as the faults have it; the number of transactions published so far."""
        message = flashblock(job, index, start, repeat_base=self.settings.repeat_base)
        if Fault.MUTE in self.faults:
            return len(job.execution.transactions)
        if Fault.GARBAGE in self.faults:
            self.websocket.publish(GARBAGE[index % len(GARBAGE)])
        if not (Fault.GAPS in self.faults and index % 3 == 2):
            self._send(job, message)
        if Fault.EQUIVOCATES in self.faults and index % 2:
            self._send(job, _other_body(message))
        return len(job.execution.transactions)

    def _send(self, job: BuildJob, message: dict[str, Any]) -> None:
        encoded = encode(message, self.settings.encoding)
        block_hash = message["diff"]["block_hash"]
        self.published.append(Published(job.payload_id, message["index"], block_hash, encoded))
        self.api.note_built(job)
        self.websocket.publish(encoded)

    async def _publish_late(self, job: BuildJob, index: int, start: int) -> None:
        """Fault.LATE: go on without new transactions after the fence, as a builder that missed it would."""
        if Fault.LATE not in self.faults:
            return
        for late in range(index, index + LATE_FLASHBLOCKS):
            self._publish(job, late, start)
            await trio.sleep(self.settings.interval_s)


def _other_body(message: dict[str, Any]) -> dict[str, Any]:
    """The same key with other content: the last transaction left out."""
    diff = {**message["diff"], "transactions": message["diff"]["transactions"][:-1]}
    return {**message, "diff": diff}
