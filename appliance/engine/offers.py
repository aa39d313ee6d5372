"""Offers: the blocks that one getPayload chooses from, and what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.engine.decisions import BlockFacts
from appliance.engine.events import ASSEMBLED, EL
from appliance.wire.engine import BuiltPayload

Block = BuiltPayload | AssembledPayload


class Standing(StrEnum):
    """How far an offer has come.

    pending --block--> offered --newPayload sent--> validating --VALID--> valid
            `---------------- the EL's own block: its word needs no proof ----^
    anything else, from anywhere --> lost
    """

    PENDING = "pending"
    OFFERED = "offered"
    VALIDATING = "validating"
    VALID = "valid"
    LOST = "lost"


@dataclass(slots=True)
class Offer:
    """One source's block, or the place that is kept for it.

    ``rank`` is the builder's place in the configuration. ``preserves`` says that the block holds what
    subscribers were promised; an offer that has not come yet may still do so. ``completed`` says that the EL has
    filled in its state root, so that its hash is not the one that its flashblocks have. ``facts`` outlive the block
    of an offer that was lost. Times in seconds, monotonic.
    """

    source: str
    rank: int
    builder: str | None = None
    standing: Standing = Standing.PENDING
    block: Block | None = None
    preserves: bool = True
    reason: str = ""
    facts: BlockFacts | None = None
    arrived_at: float | None = None
    validating_at: float | None = None
    judged_at: float | None = None
    verdict: str | None = None
    completed: bool = False

    @property
    def is_local(self) -> bool:
        """The EL's own block."""
        return self.source == EL

    @property
    def is_assembled(self) -> bool:
        """The block that the published flashblocks add up to."""
        return self.source == ASSEMBLED

    @property
    def gas_used(self) -> int | None:
        """None while the block has not come."""
        return self.block.gas_used if self.block else None

    def taken(self) -> Block:
        """The block of an offer that has come; asking sooner is a bug of ours."""
        if self.block is None:
            raise RuntimeError(f"the offer of {self.source} has no block: {self}")
        return self.block

    def __str__(self) -> str:
        return f"{self.standing}: {self.reason}" if self.reason else str(self.standing)


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What a build was asked for, as far as a block can be held against it."""

    parent_hash: str
    timestamp: int
    parent_beacon_block_root: str | None
    transactions: tuple[bytes, ...]

    def objection(self, block: Block) -> str | None:
        """Why this block is not the one that was asked for; None when it is.

        VALID alone is not enough: the EL says it of every sound block, a stale one on another parent
        included, and returning that would reorg the chain.
        """
        if block.parent_hash.lower() != self.parent_hash:
            return f"parent {block.parent_hash}, asked for {self.parent_hash}"
        if block.timestamp != self.timestamp:
            return f"timestamp {block.timestamp}, asked for {self.timestamp}"
        if not starts_with(block.transactions, self.transactions):
            return "does not begin with the transactions of the payload attributes"
        return None


def facts_of(block: Block) -> BlockFacts:
    """What people want to know of a block. Flashblocks say nothing of their value."""
    return BlockFacts(
        block_hash=block.block_hash,
        block_number=block.block_number,
        gas_used=block.gas_used,
        transactions=len(block.transactions),
        value=block.block_value if isinstance(block, BuiltPayload) else None,
    )


def starts_with(transactions: Sequence[bytes | msgspec.Raw], wanted: Sequence[bytes]) -> bool:
    """Whether a block begins with these transactions (JSON strings; upper- and lower-case hex are equal)."""
    if len(transactions) < len(wanted):
        return False
    return all(_same(bytes(have), want) for have, want in zip(transactions, wanted, strict=False))


def _same(one: bytes, other: bytes) -> bool:
    return one == other or one.lower() == other.lower()
