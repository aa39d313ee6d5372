"""A simulated op-node as sequencer: one block each block time, by the calls that op-node makes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgspec
import trio

from appliance.devnet.engine_client import EngineClient
from appliance.devnet.merkle import keccak
from appliance.devnet.messages import (
    ExecutionPayload,
    PayloadAttributes,
    RpcError,
    decode_as,
    forkchoice_json,
    hex_data,
    quantity,
)
from appliance.devnet.transactions import L1Origin, l1_attributes_deposit
from appliance.domain.errors import UnavailableError
from appliance.domain.payloads import PayloadStatus

SEQUENCER_FEE_VAULT: Final = "0x4200000000000000000000000000000000000011"
GET_PAYLOAD_LEAD_S: Final = 0.05  # op-node seals this long before the slot ends
L1_BLOCK_TIME_S: Final = 12
REPORTS_KEPT: Final = 512


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What came of one slot: a block, or the reason why there is none.

    `source` is who built the block, as `source_of` told; `latency_s` is how long getPayload took, in seconds.
    """

    number: int
    block_hash: str | None = None
    source: str = "unknown"
    transactions: int = 0
    gas_used: int = 0
    latency_s: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Times in seconds. `fork_version` is that of getPayload and newPayload (4 for Isthmus)."""

    block_time_s: float = 2.0
    gas_limit: int = 60_000_000
    eip1559_params: str = "0x000000fa00000006"
    fork_version: int = 4


class _MissedSlotError(Exception):
    """The engine's answer does not let this slot have a block."""


class LeaderNode:
    """Drives an engine: forkchoiceUpdated with attributes, getPayload, newPayload, forkchoiceUpdated.

    Slots follow trio's clock. After missed slots the chain catches up with the clock in slots of a quarter of
    the block time, as op-node does. Each slot ends in one `SlotReport`, given to `on_slot` and kept in
    `reports`; while the engine does not even tell its head, block time after block time is one of number 0.
    """

    def __init__(
        self,
        engine: EngineClient,
        *,
        settings: NodeSettings | None = None,
        source_of: Callable[[str], str | None] = lambda _hash: None,
        on_slot: Callable[[SlotReport], None] = lambda _report: None,
    ) -> None:
        self.settings = settings or NodeSettings()
        self.reports: deque[SlotReport] = deque(maxlen=REPORTS_KEPT)
        self.head_hash = ""
        self.head_number = -1
        self._head_timestamp = 0
        self._engine = engine
        self._source_of = source_of
        self._on_slot = on_slot
        self._slots = 0
        self._slot_ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus["LeaderNode"] = trio.TASK_STATUS_IGNORED) -> None:
        """Build until cancelled; `started()` gives the node once the engine told it the head."""
        await self._learn_head()
        task_status.started(self)
        first, start = self.head_number, trio.current_time()
        while True:
            scheduled = start + (self.head_number + 1 - first) * self.settings.block_time_s
            shortest = trio.current_time() + self.settings.block_time_s / 4
            await self._run_slot(max(scheduled, shortest))

    async def wait_slots(self, count: int) -> list[SlotReport]:
        """The reports of the next `count` slots, of which no more than are kept."""
        begin = self._slots
        while self._slots < begin + count:
            await self._slot_ended.wait()
        later = self._slots - (begin + count)  # slots that ended before this task ran
        return list(self.reports)[-count - later : len(self.reports) - later]

    async def _learn_head(self) -> None:
        next_report = trio.current_time() + self.settings.block_time_s
        while True:
            try:
                return await self._ask_head()
            except (RpcError, UnavailableError) as error:
                if trio.current_time() >= next_report:
                    next_report += self.settings.block_time_s
                    self._report(SlotReport(0, error=f"no head from the engine: {error}"))
            await trio.sleep(self.settings.block_time_s / 8)

    async def _ask_head(self) -> None:
        await self._engine.call("engine_exchangeCapabilities", [[]])
        block = await self._engine.call("eth_getBlockByNumber", ["latest", False])
        self._set_head(block["hash"], quantity(block["number"]), quantity(block["timestamp"]))

    def _set_head(self, block_hash: str, number: int, timestamp: int) -> None:
        self.head_hash, self.head_number, self._head_timestamp = block_hash, number, timestamp

    async def _run_slot(self, slot_end: float) -> None:
        number = self.head_number + 1
        try:
            report = await self._build(number, slot_end)
        except (RpcError, UnavailableError, _MissedSlotError) as error:
            report = SlotReport(number, error=str(error))
        self._report(report)
        await trio.sleep_until(slot_end)

    def _report(self, report: SlotReport) -> None:
        self.reports.append(report)
        self._slots += 1
        self._slot_ended.set()
        self._slot_ended = trio.Event()
        self._on_slot(report)

    async def _build(self, number: int, slot_end: float) -> SlotReport:
        attributes = self.attributes(number)
        payload_id = await self._start(attributes)
        lead = min(GET_PAYLOAD_LEAD_S, self.settings.block_time_s / 4)
        await trio.sleep_until(slot_end - lead)
        before = trio.current_time()
        envelope = await self._engine.call(f"engine_getPayloadV{self.settings.fork_version}", [payload_id])
        latency = trio.current_time() - before
        payload = decode_as(ExecutionPayload, envelope["executionPayload"])
        await self._insert(envelope, payload)
        return SlotReport(
            number=number,
            block_hash=payload.block_hash,
            source=self._source_of(payload.block_hash) or "unknown",
            transactions=len(payload.transactions),
            gas_used=quantity(payload.gas_used),
            latency_s=latency,
        )

    async def _start(self, attributes: PayloadAttributes) -> str:
        params = [forkchoice_json(self.head_hash), msgspec.to_builtins(attributes)]
        answer = await self._engine.call("engine_forkchoiceUpdatedV3", params)
        _require_valid(answer["payloadStatus"], "forkchoiceUpdated")
        if answer.get("payloadId") is None:
            raise _MissedSlotError("forkchoiceUpdated with attributes answered no payload id")
        return str(answer["payloadId"])

    async def _insert(self, envelope: dict[str, Any], payload: ExecutionPayload) -> None:
        """Make the block canonical. The payload goes back as it came, unknown fields included."""
        version = min(self.settings.fork_version, 4)
        params = [envelope["executionPayload"], [], envelope["parentBeaconBlockRoot"], []]
        status = await self._engine.call(f"engine_newPayloadV{version}", params[:version])
        _require_valid(status, "newPayload")
        answer = await self._engine.call("engine_forkchoiceUpdatedV3", [forkchoice_json(payload.block_hash), None])
        _require_valid(answer["payloadStatus"], "forkchoiceUpdated")
        self._set_head(payload.block_hash, quantity(payload.block_number), quantity(payload.timestamp))

    def attributes(self, number: int) -> PayloadAttributes:
        """What op-node would ask for on the present head: block `number`, its deposit first."""
        timestamp = self._head_timestamp + max(1, round(self.settings.block_time_s))
        deposit = l1_attributes_deposit(_l1_origin(timestamp), number % 6)
        return PayloadAttributes(
            timestamp=hex(timestamp),
            prev_randao=hex_data(sha256(b"randao %d" % number).digest()),
            suggested_fee_recipient=SEQUENCER_FEE_VAULT,
            withdrawals=[],
            parent_beacon_block_root=hex_data(sha256(b"beacon %d" % timestamp).digest()),
            transactions=[hex_data(deposit)],
            no_tx_pool=False,
            gas_limit=hex(self.settings.gas_limit),
            eip1559_params=self.settings.eip1559_params,
        )


def _l1_origin(timestamp: int) -> L1Origin:
    """The L1 block that is current at an L2 timestamp."""
    number = timestamp // L1_BLOCK_TIME_S
    return L1Origin(number, number * L1_BLOCK_TIME_S, keccak(b"l1 block %d" % number))


def _require_valid(status: dict[str, Any], method: str) -> None:
    if status["status"] != PayloadStatus.VALID:
        raise _MissedSlotError(f"{method} answered {status['status']}: {status.get('validationError')}")
