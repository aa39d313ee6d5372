"""Whether subscribers are shown flashblocks of the blocks that are built here: a pure machine, one fact of health.

    a build, when its getPayload comes                                is
    ----------------------------------------------------------------  -------------------------------------------
    something of it was shown                                         good
    nothing was, though a builder with a websocket took part          bad, also while other hosts are waited for
      but it was built for less than `MIN_BUILDING_S`                 nothing: a chain that is being caught up with
      no such builder took part                                       nothing: that is the builders' fact
    none for `QUIET_S`                                                forgotten: somebody else leads

Three bad ones in a row make it ill, and it returns slowly, as builders do (domain/hysteresis.py).

It is shown, alarmed and counted, but it does not change what /healthz answers on the Engine API's port: op-conductor
(op-conductor/health, ErrRollupBoostPartiallyHealthy) takes 206 for unhealthy by default, stops the sequencer and moves
the leadership, and a new leader has the same builders. Blocks are made; that is what it asks.
"""

from collections.abc import Sequence
from typing import Final

from appliance.domain.health import STREAM, HealthFact
from appliance.domain.hysteresis import Patience, Track
from appliance.flashblocks.commands import Fenced

MIN_BUILDING_S: Final = 0.5
"""Two flashblocks' time and a validation."""

QUIET_S: Final = 60.0
PATIENCE: Final = Patience(strikes=3, goods=3, return_s=3.0, max_return_s=120.0)


class StreamHealth:
    """``sources`` are the builders with a websocket; ``now`` in seconds, monotonic."""

    def __init__(self, sources: Sequence[str], min_building_s: float = MIN_BUILDING_S) -> None:
        self._sources = frozenset(sources)
        self._min_building_s = min_building_s
        self._track = Track(PATIENCE)
        self._seen_at: float | None = None

    def fenced(self, build: Fenced, connected: int, now: float, *, held: int = 0) -> bool:
        """getPayload came for a build; true when the fact changed. ``connected`` counts the websockets that are.

        ``held`` of its flashblocks are in the log, and not shown before other hosts have them.
        """
        if not self._sources.intersection(build.builders) or now - build.since < self._min_building_s:
            return False
        self._expire(now)
        self._seen_at, was_ill = now, self._track.ill
        shown = max(0, build.handed - held)
        if shown:
            self._track.good(f"of the last block that builders built {shown} flashblocks were shown", now)
        else:
            reason = f"of the last block that builders built nothing was shown: {self._why(build, connected, held)}"
            self._track.bad(reason, now)
        return self._track.ill is not was_ill

    def fact(self, connected: int, now: float) -> HealthFact:
        """What is known now."""
        self._expire(now)
        if self._track.known:
            return HealthFact(STREAM, not self._track.ill, self._track.reason)
        return HealthFact(STREAM, healthy=True, reason=f"no block was built here lately, {self._websockets(connected)}")

    def _expire(self, now: float) -> None:
        if self._seen_at is not None and now - self._seen_at > QUIET_S:
            self._track, self._seen_at = Track(PATIENCE), None

    def _why(self, build: Fenced, connected: int, held: int) -> str:
        if held:
            return f"{held} flashblocks waited for other hosts when its getPayload came"
        return build.reason if connected else self._websockets(connected)

    def _websockets(self, connected: int) -> str:
        return f"{connected} of {len(self._sources)} websockets are connected"
