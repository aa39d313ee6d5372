"""Whether the EL and the builders make blocks, folded into one status: a pure machine.

    fact of each upstream                            becomes
    ---------------------------------------------    ---------------------------------------------------
    nothing known yet                                unhealthy, "not checked yet"
    probe: latest block younger than the bound       healthy
    probe: older, an error, no answer                unhealthy, with the reason
    getPayload answered with a block                 healthy
    getPayload failed                                as before, but it is to be probed at once: one failed
                                                     call alone must not move the leadership (a reported
                                                     fault of rollup-boost), two different ones may

    status: 503 when the EL is unhealthy, else 206 when there are builders and all are known to be unhealthy
            (at the start the EL's probe may be answered first), else 200.

Source: rollup-boost 0.7.17, health check and getPayload. op-conductor reads the status code.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from appliance.domain.health import Health, HealthFact
from appliance.engine.events import EL

RECHECK_S: Final = 5.0
"""The longest wait for the next probe while something is unhealthy, so that 206 and 503 do not stick."""


@dataclass(slots=True)
class _Side:
    healthy: bool = False
    reason: str = "not checked yet"
    known: bool = False

    def set(self, healthy: bool, reason: str) -> None:
        self.healthy, self.reason, self.known = healthy, reason, True

    @property
    def is_ill(self) -> bool:
        return self.known and not self.healthy


class HealthMachine:
    """``max_unsafe_interval_s`` is how old the latest block may be, in seconds of wall clock."""

    def __init__(self, builders: Iterable[str], max_unsafe_interval_s: float) -> None:
        self._max_age_s = max_unsafe_interval_s
        self._builders = tuple(builders)
        self._sides = {name: _Side() for name in (EL, *self._builders)}

    def block_seen(self, upstream: str, timestamp: int, wall_now: float) -> None:
        """A probe was answered; ``timestamp`` is the latest block's, ``wall_now`` Unix seconds."""
        age_s = wall_now - timestamp
        healthy = age_s <= self._max_age_s
        text = f"latest block is {age_s:.0f} s old"
        self._sides[upstream].set(healthy, text if healthy else f"{text}, more than {self._max_age_s:.0f} s")

    def probe_failed(self, upstream: str, reason: str) -> None:
        """A probe had no useful answer."""
        self._sides[upstream].set(False, reason)

    def produced(self, upstream: str, ok: bool) -> bool:
        """What came of getPayload; True when the upstream should be probed at once."""
        side = self._sides[upstream]
        if ok:
            side.set(True, "answered getPayload")
        return not ok and side.healthy

    def status(self) -> Health:
        """The fold."""
        if not self._sides[EL].healthy:
            return Health.UNAVAILABLE
        if self._builders and all(self._sides[name].is_ill for name in self._builders):
            return Health.PARTIAL
        return Health.OK

    def facts(self) -> list[HealthFact]:
        """Each upstream with its reason, the EL first."""
        return [HealthFact(name, side.healthy, side.reason) for name, side in self._sides.items()]

    def next_probe_s(self, interval_s: float) -> float:
        """How long to wait before the next round of probes."""
        well = all(side.healthy for side in self._sides.values())
        return interval_s if well else min(interval_s, RECHECK_S)
