"""The sequencer's half of op-node: one block a slot through the Engine API."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.real.nodes import ExecutionClient
from tests.real.rpc import RpcClient

ZERO_HASH = "0x" + "00" * 32
FEE_RECIPIENT = "0x4200000000000000000000000000000000000011"
BLOCK_TIME_S = 1  # between two blocks' timestamps, which are whole seconds
GET_PAYLOAD_LEAD_S = 0.05  # op-node asks about 50 ms before the block's time


@dataclass(frozen=True)
class Block:
    """What one slot produced. ``payload`` is the ExecutionPayloadV3 that getPayload answered."""

    payload: dict[str, Any]
    parent_beacon_block_root: str
    payload_id: str
    late_s: float  # when getPayload was answered, against the slot's end: negative is early

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
    """Drives ``engine`` slot by slot, skipping none: FCU with attributes, getPayload, newPayload, FCU.

    A slot takes ``slot_s`` of our time. When that is less than the chain's block time, the chain has to begin
    in the past (``begin``), so that it does not run into the future.
    """

    def __init__(self, engine: RpcClient, genesis_hash: str, slot_s: float = BLOCK_TIME_S) -> None:
        self._engine = engine
        self._genesis_hash = genesis_hash
        self._slot_s = slot_s
        self._due = 0.0
        self._timestamp = 0
        self.head = genesis_hash
        self.blocks: list[Block] = []

    def begin(self, behind_s: int = 0) -> None:
        """FCU without attributes tells the clients the head; the chain's clock is ``behind_s`` behind ours."""
        assert self._forkchoice_updated(None)["payloadStatus"]["status"] == "VALID"
        self._due = float(int(time.time()) + BLOCK_TIME_S)
        self._timestamp = int(self._due) - behind_s

    def run_slot(self, during: Callable[[], object] = do_nothing) -> Block:
        """The block of the next slot; ``during`` runs while it is being built."""
        self._timestamp += BLOCK_TIME_S
        self._due = max(self._due, time.time()) + self._slot_s  # a whole slot, whatever came between two of them
        _sleep_until(self._due - self._slot_s)
        answer = self._forkchoice_updated(self._attributes(self._timestamp))
        assert answer["payloadStatus"]["status"] == "VALID", answer
        during()
        _sleep_until(self._due - GET_PAYLOAD_LEAD_S)
        block = self._get_payload(answer["payloadId"])
        assert block.timestamp == self._timestamp
        self._insert(block)
        return block

    def _get_payload(self, payload_id: str) -> Block:
        answer = self._engine.call("engine_getPayloadV3", payload_id)
        late_s = time.time() - self._due
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
        return _forkchoice_updated(self._engine, self.head, self._genesis_hash, attributes)

    def _attributes(self, timestamp: int) -> dict[str, Any]:
        return {
            "timestamp": hex(timestamp),
            "prevRandao": "0x" + timestamp.to_bytes(32, "big").hex(),
            "suggestedFeeRecipient": FEE_RECIPIENT,
            "withdrawals": [],
            "parentBeaconBlockRoot": ZERO_HASH,
        }


def follow(engine: RpcClient, blocks: Sequence[Block], genesis_hash: str) -> None:
    """What the op-node of a builder tells it: all of ``blocks``, and that the last one is the head."""
    statuses = [new_payload(engine, block)["status"] for block in blocks]
    assert set(statuses) == {"VALID"}, statuses
    answer = _forkchoice_updated(engine, blocks[-1].hash, genesis_hash, None)
    assert answer["payloadStatus"]["status"] == "VALID", answer


def check_one_block_a_slot(blocks: Sequence[Block], el: ExecutionClient) -> None:
    """Each slot has the one block that getPayload answered, in time, on the block before, and ``el`` has that chain."""
    assert [block.number for block in blocks] == list(range(1, len(blocks) + 1))
    first = blocks[0].timestamp
    assert [block.timestamp for block in blocks] == list(range(first, first + len(blocks)))
    # Who waited for a client that is gone would wait for twice as long.
    assert max(block.late_s for block in blocks) < 10.0, "a block was answered after its slot"
    canonical = [el.block(number) for number in range(len(blocks) + 1)]
    hashes = [str(found and found["hash"]) for found in canonical]
    assert hashes[1:] == [block.hash for block in blocks]
    assert [block.payload["parentHash"] for block in blocks] == hashes[:-1]
    assert el.block(len(blocks) + 1) is None


def new_payload(engine: RpcClient, block: Block) -> dict[str, Any]:
    """PayloadStatusV1 of ``block``."""
    answer: dict[str, Any] = engine.call("engine_newPayloadV3", block.payload, [], block.parent_beacon_block_root)
    return answer


def _forkchoice_updated(
    engine: RpcClient, head: str, genesis_hash: str, attributes: dict[str, Any] | None
) -> dict[str, Any]:
    state = {"headBlockHash": head, "safeBlockHash": genesis_hash, "finalizedBlockHash": genesis_hash}
    answer: dict[str, Any] = engine.call("engine_forkchoiceUpdatedV3", state, attributes)
    return answer


def _sleep_until(wall_time: float) -> None:
    """Slots are wall-clock time: this is the pace of the chain, not a wait for somebody else."""
    time.sleep(max(0.0, wall_time - time.time()))
