"""One answer for the whole process, from what its planes say of themselves. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.domain.health import STREAM, Health, HealthFact


@dataclass(frozen=True, slots=True)
class Report:
    """What one plane says: its health where it were alone, and the facts behind it."""

    health: Health
    facts: Sequence[HealthFact]

    @classmethod
    def of_facts(cls, facts: Sequence[HealthFact]) -> "Report":
        """A plane that serves, or does not."""
        well = all(fact.healthy for fact in facts)
        return cls(Health.OK if well else Health.UNAVAILABLE, facts)


def overall(blocks: Report | None, others: Sequence[Report], planes: Sequence[HealthFact]) -> Report:
    """``blocks`` is the engine's report, ``others`` those of the planes beside it, ``planes`` those that are down.

    On an engine's host nothing but the engine is a reason to hand over: blocks are built without L1 nodes, peers and
    subscribers for a while. Where there is no engine, and nobody among the others can serve, the host has no use.
    """
    facts = [*(blocks.facts if blocks else ()), *(fact for report in others for fact in report.facts), *planes]
    silent = any(fact.name == STREAM and not fact.healthy for fact in facts)
    health = blocks.health if blocks else Health.OK
    if silent or planes or any(report.health is not Health.OK for report in others):
        health = max(health, Health.PARTIAL)
    if blocks is None and others and all(report.health is Health.UNAVAILABLE for report in others):
        health = Health.UNAVAILABLE
    return Report(health, facts)
