"""A simulated chain: blocks by hash, one canonical branch, reorgs."""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True)
class Block:
    number: int
    hash: str
    parent: str
    timestamp: int
    logs: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        """As newHeads shows it."""
        return {
            "number": hex(self.number),
            "hash": self.hash,
            "parentHash": self.parent,
            "timestamp": hex(self.timestamp),
            "gasLimit": "0x1c9c380",
        }

    def block(self) -> dict[str, Any]:
        """As eth_getBlockByNumber answers it."""
        return {**self.header(), "transactions": [], "uncles": [], "withdrawals": [], "size": "0x220"}

    def log_entries(self) -> list[dict[str, Any]]:
        return [
            {
                "blockHash": self.hash,
                "blockNumber": hex(self.number),
                "data": data,
                "logIndex": hex(i),
                "removed": False,
            }
            for i, data in enumerate(self.logs)
        ]


@dataclass
class Chain:
    """``canonical`` by number; ``known`` also has what reorgs removed."""

    canonical: list[Block] = field(default_factory=list)
    known: dict[str, Block] = field(default_factory=dict)
    salt: int = 0

    def __post_init__(self) -> None:
        self.mine()

    @property
    def head(self) -> Block:
        return self.canonical[-1]

    def mine(self, *logs: str, age_s: float = 0) -> Block:
        """One more block on the canonical branch."""
        number = len(self.canonical)
        parent = self.canonical[-1].hash if self.canonical else "0x" + "00" * 32
        digest = hashlib.sha256(f"{number} {parent} {self.salt} {logs}".encode()).hexdigest()
        block = Block(number, "0x" + digest, parent, int(time.time() - age_s), logs)
        self.canonical.append(block)
        self.known[block.hash] = block
        return block

    def mine_many(self, count: int) -> list[Block]:
        return [self.mine() for _ in range(count)]

    def reorg(self, depth: int, length: int) -> list[Block]:
        """Take ``depth`` blocks off and mine ``length`` others."""
        self.salt += 1
        del self.canonical[len(self.canonical) - depth :]
        return self.mine_many(length)


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)
