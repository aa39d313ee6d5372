"""The last decisions, for `/api/v1/payloads`: what was there to choose from, and why the choice was made."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from appliance.domain.modes import ExecutionMode
from appliance.engine.decisions import Candidate, Decision
from appliance.engine.events import BlockCameLate

MAX_DECISIONS: Final = 256
"""Decisions kept, about nine minutes of 2 s blocks; the oldest is forgotten. A candidate takes under a KB."""


class PayloadHistory:
    """Newest decisions by age. ``wall_clock`` in seconds since 1970."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._decisions: deque[tuple[float, Decision]] = deque(maxlen=MAX_DECISIONS)

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, decision: Decision) -> None:
        """A choice was made just now."""
        self._decisions.append((self._wall_clock(), decision))

    def complete(self, late: BlockCameLate) -> None:
        """A block that came after the choice: its numbers are of interest all the same."""
        for place in reversed(range(len(self._decisions))):
            at, decision = self._decisions[place]
            if decision.build_id == late.build_id:
                self._decisions[place] = at, _with_late(decision, late)
                return

    def recent(self, limit: int = MAX_DECISIONS) -> list[dict[str, object]]:
        """JSON objects, newest first."""
        newest = [self._decisions[-1 - number] for number in range(min(limit, len(self._decisions)))]
        return [_as_object(at, decision) for at, decision in newest]

    def find(self, name: str) -> dict[str, object] | None:
        """The newest decision with a payload id (the execution client's or a builder's) or a block hash."""
        wanted = name.lower()
        for at, decision in reversed(self._decisions):
            if wanted in _names(decision):
                return _as_object(at, decision)
        return None


def _with_late(decision: Decision, late: BlockCameLate) -> Decision:
    candidates = (
        replace(each, facts=late.facts, arrived_s=late.seconds) if each.source == late.source else each
        for each in decision.candidates
    )
    return replace(decision, candidates=tuple(candidates))


def _names(decision: Decision) -> set[str]:
    hashes = {each.facts.block_hash for each in decision.candidates if each.facts}
    return {decision.payload_id, *hashes, *(each.payload_id for each in decision.candidates if each.payload_id)}


def _as_object(at: float, decision: Decision) -> dict[str, object]:
    returned = decision.candidate(decision.returned)
    facts = returned.facts if returned else None
    return {
        "payload_id": decision.payload_id,
        "block_hash": facts.block_hash if facts else None,
        "block_number": facts.block_number if facts else None,
        "parent_hash": decision.parent_hash,
        "timestamp": decision.timestamp,
        "decided_at": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "milliseconds": _milliseconds(decision.seconds),
        "execution_mode": str(decision.mode),
        "returned": decision.returned,
        "would_have_returned": decision.preferred if decision.mode is ExecutionMode.DRY_RUN else None,
        "promised_transactions": decision.promised,
        "candidates": [_candidate_object(each, decision) for each in decision.candidates],
    }


def _candidate_object(candidate: Candidate, decision: Decision) -> dict[str, object]:
    facts = candidate.facts
    return {
        "source": candidate.source,
        "builder": candidate.builder,
        "payload_id": candidate.payload_id,
        "result": _result(candidate, decision),
        "why": candidate.why,
        "block_hash": facts.block_hash if facts else None,
        "block_number": facts.block_number if facts else None,
        "gas_used": facts.gas_used if facts else None,
        "transactions": facts.transactions if facts else None,
        # A string: wei do not fit the numbers of JSON readers.
        "value_wei": str(facts.value) if facts and facts.value is not None else None,
        "arrived_ms": _milliseconds(candidate.arrived_s),
        "validation": candidate.verdict,
        "validation_ms": _milliseconds(candidate.validation_s),
        "keeps_promise": candidate.preserves,
    }


def _result(candidate: Candidate, decision: Decision) -> str:
    if candidate.source == decision.returned:
        return "returned"
    if candidate.source == decision.preferred:
        return "would have been returned"
    return candidate.standing


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
