"""Which endpoint a request goes to: the first in the configured order that is well. Pure.

Who is not well is used all the same when nobody is: first those that answer again and only wait for their return,
then, for reads, those that answer but lose transactions. A head that is old is held against an endpoint while a newer
one is known to exist: for `max_head_age_s` after anybody showed it. Later the group goes on with what there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.providers.endpoint_health import EndpointHealth, State, Thresholds


@dataclass(frozen=True, slots=True)
class Switch:
    """The active endpoint changed; names, None for nobody. ``why`` is what the first one was left for."""

    before: str | None
    after: str | None
    why: str


class Selection:
    """The ordered endpoints of a group. ``healths`` is in the configured order."""

    def __init__(self, healths: Mapping[str, EndpointHealth], thresholds: Thresholds) -> None:
        self._healths = healths
        self._memory_s = thresholds.max_head_age_s
        self._seen: dict[str, tuple[float, int]] = {}
        self.active: str | None = next(iter(healths), None)
        self.switches = 0

    def __repr__(self) -> str:
        return f"<Selection {self.active} of {', '.join(self._healths)}>"

    def saw_head(self, name: str, now: float, number: int, age_s: float) -> None:
        """The newest block of one endpoint; what it means for the others too."""
        self._seen[name] = (now, number)
        self._healths[name].saw_head(now, number, age_s)
        best = max(number for at, number in self._seen.values() if now - at <= self._memory_s)
        for health in self._healths.values():
            health.saw_best(now, best)

    def candidates(self, now: float, *, reading: bool) -> list[str]:
        """Whom to ask, the best first; empty when nobody is worth asking."""
        by_state: dict[State, list[str]] = {state: [] for state in State}
        for name, health in self._healths.items():
            by_state[health.state].append(name)
        if by_state[State.WELL] or by_state[State.RETURNING]:
            return by_state[State.WELL] + by_state[State.RETURNING]
        return [name for name in by_state[State.UNWELL] if reading and self._healths[name].answers(now)]

    def settle(self, now: float) -> Switch | None:
        """Choose the active endpoint anew; the switch when it is another one than before."""
        before = self.active
        after = next(iter(self.candidates(now, reading=True)), None)
        if after == before:
            return None
        self.active = after
        self.switches += 1
        return Switch(before, after, self._why(before, now))

    def why_nobody(self, now: float) -> str:
        """Each endpoint by name, and why it is not asked."""
        return ", ".join(f"{name} ({health.explain(now)})" for name, health in self._healths.items())

    def _why(self, before: str | None, now: float) -> str:
        if before is None:
            return "an endpoint answers again"
        health = self._healths[before]
        return "a preferred endpoint is well again" if health.state is State.WELL else health.explain(now)
