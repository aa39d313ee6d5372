"""Why a block was returned: plain values about one getPayload, for people who ask afterwards."""

from dataclasses import dataclass

from appliance.domain.modes import ExecutionMode
from appliance.domain.payloads import BuildId, PayloadId


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """What a block is compared by. ``value`` in wei, as its builder claims it; None where it says nothing."""

    block_hash: str
    block_number: int
    gas_used: int
    transactions: int
    value: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One source in one decision; times in seconds after getPayload, None for what has not happened.

    ``standing`` is how far its block had come, ``verdict`` the execution client's own word on it.
    ``preserves`` says whether the block holds what was promised to subscribers; None without a promise or block.
    """

    source: str
    builder: str | None
    payload_id: PayloadId | None
    standing: str
    facts: BlockFacts | None
    arrived_s: float | None
    verdict: str | None
    validation_s: float | None
    preserves: bool | None
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One getPayload decided. ``returned`` names the source of the block that went out, None when none did.

    ``preferred`` is the source that the choice fell on: another one than ``returned`` in a dry run only.
    ``promised`` counts the transactions that subscribers had been shown.
    """

    build_id: BuildId
    payload_id: PayloadId
    mode: ExecutionMode
    parent_hash: str
    timestamp: int
    returned: str | None
    preferred: str | None
    seconds: float
    promised: int
    candidates: tuple[Candidate, ...]

    def candidate(self, source: str | None) -> Candidate | None:
        """The candidate of that source."""
        return next((each for each in self.candidates if each.source == source), None)
