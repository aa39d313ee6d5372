"""The sequencer's half of op-node: one block a slot through the Engine API."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.real.rpc import RpcClient

ZERO_HASH = "0x" + "00" * 32
FEE_RECIPIENT = "0x4200000000000000000000000000000000000011"
SLOT_S = 1
GET_PAYLOAD_LEAD_S = 0.05  # op-node asks about 50 ms before the block's time


@dataclass(frozen=True)
class Block:
    """What one slot produced. ``payload`` is the ExecutionPayloadV3 that getPayload answered."""

    payload: dict[str, Any]
    parent_beacon_block_root: str
    payload_id: str
    late_s: float  # when getPayload was answered, against the block's own time: negative is early

    @property
    def hash(self) -> str:
        return str(self.payload["blockHash"])

    @property
    def timestamp(self) -> int:
        return int(self.payload["timestamp"], 16)

    @property
    def number(self) -> int:
        return int(self.payload["blockNumber"], 16)

    @property
    def transactions(self) -> list[str]:
        return list(self.payload["transactions"])


def do_nothing() -> None:
    """For slots in which nobody sends anything."""


class OpNode:
    """Drives ``engine`` slot by slot, skipping none: FCU with attributes, getPayload, newPayload, FCU."""

    def __init__(self, engine: RpcClient, genesis_hash: str) -> None:
        self._engine = engine
        self._genesis_hash = genesis_hash
        self._timestamp = 0
        self.head = genesis_hash
        self.blocks: list[Block] = []

    def begin(self) -> None:
        """FCU without attributes tells the clients the head; the first slot is two whole seconds away."""
        assert self._forkchoice_updated(None)["payloadStatus"]["status"] == "VALID"
        self._timestamp = int(time.time()) + SLOT_S

    def run_slot(self, during: Callable[[], object] = do_nothing) -> Block:
        """The block of the next slot; ``during`` runs while it is being built."""
        self._timestamp += SLOT_S
        _sleep_until(self._timestamp - SLOT_S)
        answer = self._forkchoice_updated(self._attributes(self._timestamp))
        assert answer["payloadStatus"]["status"] == "VALID", answer
        during()
        _sleep_until(self._timestamp - GET_PAYLOAD_LEAD_S)
        block = self._get_payload(answer["payloadId"])
        assert block.timestamp == self._timestamp
        self._insert(block)
        return block

    def _get_payload(self, payload_id: str) -> Block:
        answer = self._engine.call("engine_getPayloadV3", payload_id)
        late_s = time.time() - self._timestamp
        root = answer.get("parentBeaconBlockRoot", ZERO_HASH)
        return Block(answer["executionPayload"], root, payload_id, late_s)

    def _insert(self, block: Block) -> None:
        assert block.payload["parentHash"] == self.head, "the block does not extend the head"
        status = new_payload(self._engine, block)
        assert status["status"] == "VALID", status
        self.head = block.hash
        assert self._forkchoice_updated(None)["payloadStatus"]["status"] == "VALID"
        self.blocks.append(block)

    def _forkchoice_updated(self, attributes: dict[str, Any] | None) -> dict[str, Any]:
        state = {
            "headBlockHash": self.head,
            "safeBlockHash": self._genesis_hash,
            "finalizedBlockHash": self._genesis_hash,
        }
        answer: dict[str, Any] = self._engine.call("engine_forkchoiceUpdatedV3", state, attributes)
        return answer

    def _attributes(self, timestamp: int) -> dict[str, Any]:
        return {
            "timestamp": hex(timestamp),
            "prevRandao": "0x" + timestamp.to_bytes(32, "big").hex(),
            "suggestedFeeRecipient": FEE_RECIPIENT,
            "withdrawals": [],
            "parentBeaconBlockRoot": ZERO_HASH,
        }


def new_payload(engine: RpcClient, block: Block) -> dict[str, Any]:
    """PayloadStatusV1 of ``block``."""
    answer: dict[str, Any] = engine.call("engine_newPayloadV3", block.payload, [], block.parent_beacon_block_root)
    return answer


def _sleep_until(wall_time: float) -> None:
    """Slots are wall-clock time: this is the pace of the chain, not a wait for somebody else."""
    time.sleep(max(0.0, wall_time - time.time()))
