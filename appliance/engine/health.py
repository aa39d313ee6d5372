"""Whether the EL and the builders make blocks, folded into one status: a pure machine.

An upstream is looked at in one way or two, each with a track of its own: its `head` (what probes find), and for
builders their `work` (what comes of getPayload); domain/hysteresis.py says when a track is ill.

                   strikes    good ones to return    time of a return
    EL             2          1                      none: its blocks are the chain's
    builder        3          3                      3 s, twice that after each relapse, at most 2 min; 3 s again
                                                     when it was well for ten times as long

    seen                                                      is to the track
    --------------------------------------------------------  ----------------------------------------------
    probe: no answer, an error                                bad for `head`
    probe: a head young enough                                good for `head`
      the same, but of the future, and for as long as a head  bad: our clock was set back, and says no more when
      may be old it was no other one                          a chain stands still
      the same, builder, more than MAX_LAG behind the best    bad: it does not follow
    probe: a head too old                                     bad for `head`
      the same, builder, level with the EL                    good: the chain stands still, not the builder
      the same, builder, while the EL's head is not known     nothing: it may be the EL's fault
    probe good, and for QUIET_S no word about `work`          good for `work`: a follower asks for no block, so a
                                                              builder must be able to return without one
    EL: getPayload answered with a block                      good for `head`
    EL: a call without an answer                              nothing, but it is to be probed at once
    builder: its block came in time, and was not refused      good for `work`
    builder: no build, no block, a late, wrong or INVALID one bad for `work`, and it is to be probed at once

So the EL's silence or SYNCING is never held against a builder, nor a builder's fault against the EL.

    status: 503 when the EL is not known to be well, else 206 when there are builders and all of them are ill
            (those that are not known yet are not), else 200. While builders are switched off, as without any.
    without an EL (the builder listener): 503 when no builder is well, 206 when one of them is ill, else 200.

Source of the codes: rollup-boost 0.7.17, health check and getPayload. op-conductor reads the status code, and a
change of it can move the leadership: that is why nothing changes at the first error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from appliance.domain.health import Health, HealthFact
from appliance.domain.hysteresis import Patience, Track
from appliance.engine.events import EL
from appliance.wire.engine_answers import LatestBlock

RECHECK_S: Final = 1.0
"""The longest wait for the next probe while something is suspected or ill, so that 206 and 503 do not stick."""

MAX_LAG: Final = 5
"""How many blocks a builder's head may be behind the EL's: both are asked side by side, so 1 or 2 are normal."""

QUIET_S: Final = 10.0
"""When nothing was heard of a builder's work for so long, its head speaks for it."""


EL_PATIENCE: Final = Patience(strikes=2, goods=1, return_s=0.0, max_return_s=0.0)
BUILDER_PATIENCE: Final = Patience(strikes=3, goods=3, return_s=3.0, max_return_s=120.0)


@dataclass(slots=True)
class _Builder:
    head: Track = field(default_factory=lambda: Track(BUILDER_PATIENCE))
    work: Track = field(default_factory=lambda: Track(BUILDER_PATIENCE))
    block: LatestBlock | None = None
    worked_at: float | None = None

    @property
    def ill(self) -> bool:
        return self.head.ill or self.work.ill

    @property
    def known(self) -> bool:
        return self.head.known or self.work.known

    @property
    def reason(self) -> str:
        if self.ill:
            return "; ".join(track.reason for track in (self.head, self.work) if track.ill)
        return self.head.reason if self.head.known else self.work.reason


class HealthMachine:
    """``max_unsafe_interval_s`` is how old the latest block may be, in seconds of wall clock.

    Without an EL (``has_el``) the builders are all there is.
    """

    def __init__(self, builders: Iterable[str], max_unsafe_interval_s: float, *, has_el: bool = True) -> None:
        self._max_age_s = max_unsafe_interval_s
        self._builders = {name: _Builder() for name in builders}
        self._el = Track(EL_PATIENCE) if has_el else None
        self._el_block: LatestBlock | None = None
        self._heads: dict[str, tuple[int, float]] = {}  # timestamp of each upstream's head, and since when it is that
        self._use_builders = True

    def use_builders(self, used: bool) -> None:
        """Whether builders count for the status; what probes find of them is kept in any case."""
        self._use_builders = used

    def block_seen(self, upstream: str, block: LatestBlock, wall_now: float, now: float) -> None:
        """A probe was answered; ``wall_now`` Unix seconds, as the block's timestamp."""
        young, text = self._age(upstream, block.timestamp, wall_now, now)
        if upstream != EL:
            self._builder_seen(self._builders[upstream], block, young, text, now)
        elif self._el is not None:
            self._el_block = block
            self._mark(self._el, young, text, now)

    def _age(self, upstream: str, timestamp: int, wall_now: float, now: float) -> tuple[bool, str]:
        """Whether a head is young, and in words."""
        age_s = wall_now - timestamp
        still_s = self._still(upstream, timestamp, now)
        if age_s > self._max_age_s:
            return False, f"latest block is {age_s:.0f} s old, more than {self._max_age_s:.0f} s"
        if age_s >= -self._max_age_s:
            return True, f"latest block is {max(age_s, 0.0):.0f} s old"
        text = f"latest block is {-age_s:.0f} s ahead of our clock"
        if still_s <= self._max_age_s:
            return True, text
        return False, f"{text}, and the same for {still_s:.0f} s"

    def _still(self, upstream: str, timestamp: int, now: float) -> float:
        """For how long the head has been this one, as far as probes tell."""
        seen, since = self._heads.get(upstream, (timestamp, now))
        if seen != timestamp:
            since = now
        self._heads[upstream] = timestamp, since
        return now - since

    def probe_failed(self, upstream: str, reason: str, now: float) -> None:
        """A probe had no useful answer."""
        if upstream != EL:
            self._builders[upstream].block = None
            self._builders[upstream].head.bad(reason, now)
        elif self._el is not None:
            self._el_block = None
            self._el.bad(reason, now)

    def produced(self, upstream: str, ok: bool, reason: str, now: float) -> bool:
        """What came of getPayload; True when the upstream should be probed at once."""
        if upstream == EL:
            if ok and self._el is not None:
                self._el.good("answered getPayload", now)
            return not ok and self._el is not None and not self._el.ill
        if not self._use_builders:
            return False  # a call that was stopped at the last door is no fault of its own
        builder = self._builders[upstream]
        builder.worked_at = now
        self._mark(builder.work, ok, reason or "answered getPayload", now)
        return not ok and not builder.head.ill

    def status(self) -> Health:
        """The fold."""
        builders = self._builders.values() if self._use_builders else ()
        if self._el is None:
            if not any(each.known and not each.ill for each in builders):
                return Health.UNAVAILABLE
            return Health.PARTIAL if any(each.ill for each in builders) else Health.OK
        if not self._el.known or self._el.ill:
            return Health.UNAVAILABLE
        return Health.PARTIAL if builders and all(each.ill for each in builders) else Health.OK

    def unhealthy(self) -> frozenset[str]:
        """The builders that are ill; those not known yet are not."""
        return frozenset(name for name, each in self._builders.items() if each.ill)

    def reason(self, builder: str) -> str:
        """Why a builder is well or ill, also while builders are switched off."""
        return self._builders[builder].reason

    def facts(self, *, everyone: bool = False) -> list[HealthFact]:
        """Each upstream with its reason, the EL first; builders that are switched off only with ``everyone``."""
        used = self._builders.items() if self._use_builders or everyone else ()
        facts = [HealthFact(name, each.known and not each.ill, each.reason) for name, each in used]
        if self._el is None:
            return facts
        return [HealthFact(EL, self._el.known and not self._el.ill, self._el.reason), *facts]

    def next_probe_s(self, interval_s: float) -> float:
        """How long to wait before the next round of probes."""
        heads = [each.head for each in self._builders.values()] + ([self._el] if self._el else [])
        calm = all(track.is_calm for track in [*heads, *(each.work for each in self._builders.values())])
        return interval_s if calm and all(track.known for track in heads) else min(interval_s, RECHECK_S)

    def _builder_seen(self, builder: _Builder, block: LatestBlock, young: bool, text: str, now: float) -> None:
        builder.block = block
        lag = self._lag(builder)
        if young and (lag is None or lag <= MAX_LAG):
            self._head_good(builder, text, now)
        elif young:
            builder.head.bad(f"head is {lag} blocks behind", now)
        elif self._el is None:
            builder.head.bad(text, now)
        elif lag is not None and lag <= MAX_LAG:
            self._head_good(builder, f"{text}, as is {EL}'s", now)
        elif lag is not None:
            builder.head.bad(f"{text}, and {lag} blocks behind", now)

    def _head_good(self, builder: _Builder, text: str, now: float) -> None:
        builder.head.good(text, now)
        if builder.work.known and (builder.worked_at is None or now - builder.worked_at >= QUIET_S):
            builder.work.good("its head speaks for it", now)

    def _lag(self, builder: _Builder) -> int | None:
        """Blocks behind the EL, or without one behind the best builder; None when that is not known."""
        blocks = [each.block for each in self._builders.values()] if self._el is None else [self._el_block]
        numbers = [block.number for block in blocks if block is not None and block.number is not None]
        if not numbers or builder.block is None or builder.block.number is None:
            return None
        return max(numbers) - builder.block.number

    @staticmethod
    def _mark(track: Track, good: bool, reason: str, now: float) -> None:
        if good:
            track.good(reason, now)
        else:
            track.bad(reason, now)
