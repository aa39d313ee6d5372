"""From a choice to its explanation: each candidate, and why it won or lost, in words."""

from appliance.domain.modes import ExecutionMode
from appliance.engine.builds import BuildRecord
from appliance.engine.decisions import Candidate, Decision
from appliance.engine.offers import Offer, Standing
from appliance.engine.selection import Selection

OVER = "no longer needed when the choice was made"


def explain(
    record: BuildRecord, selection: Selection, preferred: Offer | None, returned: Offer | None, now: float
) -> Decision:
    """The decision as it stands; ``preferred`` is what the choice fell on, ``returned`` what op-node got."""
    candidates = (_candidate(record, selection, offer, preferred) for offer in selection.offers.values())
    return Decision(
        build_id=record.build_id,
        payload_id=record.payload_id,
        mode=record.mode,
        parent_hash=record.order.parent_hash,
        timestamp=record.order.timestamp,
        returned=returned.source if returned else None,
        preferred=preferred.source if preferred else None,
        seconds=now - record.asked_at,
        promised=len(selection.promised),
        candidates=tuple(candidates),
    )


def _candidate(record: BuildRecord, selection: Selection, offer: Offer, preferred: Offer | None) -> Candidate:
    own_id = record.payload_id if offer.is_local else record.joined.get(offer.builder or "")
    return Candidate(
        source=offer.source,
        builder=offer.builder,
        payload_id=own_id,
        standing=str(offer.standing),
        facts=offer.facts,
        arrived_s=_since(record.asked_at, offer.arrived_at),
        verdict=offer.verdict,
        validation_s=_between(offer.validating_at, offer.judged_at),
        preserves=offer.preserves if selection.promised and offer.facts else None,
        why=_won(record, selection, offer) if offer is preferred else _not_chosen(selection, offer, preferred),
    )


def _won(record: BuildRecord, selection: Selection, offer: Offer) -> str:
    if offer.is_assembled:
        return "it is what the published flashblocks add up to"
    if offer.is_local and record.mode is ExecutionMode.DISABLED:
        return "builders are switched off"
    if all(other.standing is Standing.LOST for other in selection.offers.values() if other is not offer):
        return "no other block was left"
    among = "of the blocks that hold what was promised" if selection.promised and offer.preserves else "of all"
    return f"first {among} by the policy" + (", at the deadline" if selection.overdue else "")


def _not_chosen(selection: Selection, offer: Offer, preferred: Offer | None) -> str:
    if offer.standing is Standing.LOST:
        return offer.reason
    if offer.standing is not Standing.VALID and selection.overdue:
        return f"still {offer.standing} at the deadline"
    if offer.builder in selection.unhealthy:
        return "its builder was unhealthy when the choice began"
    if offer.standing is not Standing.VALID:
        return OVER
    if selection.promised and not offer.preserves:
        return "it does not hold what was promised to subscribers"
    return f"the policy prefers {preferred.source}" if preferred else "the choice was given up"


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else moment - start


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
