"""Offers: the blocks that one getPayload chooses from, and what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from appliance.domain.assembled import AssembledPayload
from appliance.engine.decisions import BlockFacts
from appliance.engine.events import ASSEMBLED, EL
from appliance.wire.engine import Attributes
from appliance.wire.engine_answers import BuiltPayload
from appliance.wire.extra_data import FeeRules

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


_NO_RULES: Final = FeeRules()


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What a build was asked for, as far as a block can be held against it; None is what was not asked."""

    parent_hash: str
    timestamp: int
    parent_beacon_block_root: str | None
    transactions: tuple[bytes, ...]
    fee_recipient: str | None = None
    prev_randao: str | None = None
    gas_limit: int | None = None
    withdrawals: tuple[bytes, ...] | None = None
    fees: FeeRules = _NO_RULES

    @classmethod
    def asked(cls, parent_hash: str, attributes: Attributes) -> "BuildOrder":
        """What forkchoiceUpdated with attributes asks for."""
        return cls(
            parent_hash=parent_hash,
            timestamp=attributes.timestamp,
            parent_beacon_block_root=attributes.parent_beacon_block_root,
            transactions=attributes.transactions,
            fee_recipient=attributes.fee_recipient,
            prev_randao=attributes.prev_randao,
            gas_limit=attributes.gas_limit,
            withdrawals=attributes.withdrawals,
            fees=attributes.fees,
        )

    def objection(self, block: Block) -> str | None:
        """Why this block is not the one that was asked for; None when it is.

        VALID alone is not enough: the EL says it of every sound block, a stale one on another parent
        included, and returning that would reorg the chain. Nor may the other fields that the attributes fix
        differ: verifiers derive the block from them, and would get another one. Source: op-node,
        AttributesMatchBlock.
        """
        if block.parent_hash.lower() != self.parent_hash:
            return f"parent {block.parent_hash}, asked for {self.parent_hash}"
        if block.timestamp != self.timestamp:
            return f"timestamp {block.timestamp}, asked for {self.timestamp}"
        if not starts_with(block.transactions, self.transactions):
            return "does not begin with the transactions of the payload attributes"
        return self._other_attribute(block)

    def _other_attribute(self, block: Block) -> str | None:
        pairs = [
            ("fee recipient", block.fee_recipient, self.fee_recipient),
            ("prevRandao", block.prev_randao, self.prev_randao),
            ("gas limit", block.gas_limit, self.gas_limit),
        ]
        if _has_beacon_root(block):
            # newPayload is sent with the attributes' root, but op-node goes by the one in the answer.
            pairs.append(("beacon root", block.parent_beacon_block_root, self.parent_beacon_block_root))
        for name, have, want in pairs:
            if want is not None and _folded(have) != _folded(want):
                return f"{name} {str(have)[:80]}, asked for {want}"
        return self._other_withdrawals(block) or self.fees.objection(block.extra_data)

    def _other_withdrawals(self, block: Block) -> str | None:
        want, have = self.withdrawals, block.withdrawals
        # As bytes: on OP Stack there are none, so how an object may be written does not matter.
        if want is None or (have is not None and len(have) == len(want) and starts_with(have, want)):
            return None
        return "other withdrawals than the payload attributes"


def _has_beacon_root(block: Block) -> bool:
    """Whether op-node would read a root in this answer; where a builder names none, the order's is put in."""
    return not isinstance(block, BuiltPayload) or (block.version >= 3 and block.names_beacon_root)


def _folded(value: str | int | None) -> str | int | None:
    return value.lower() if isinstance(value, str) else value


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
