"""The health of one endpoint: pure, time comes in as ``now`` (monotonic seconds).

    WELL ── a fault ──▶ UNWELL ── a good probe, no fault left ──▶ RETURNING ── `return_after_s` of good probes ──▶ WELL
                          ▲                                           │
                          └──────────────── a fault ──────────────────┘

Faults (fuel-block-committer, pull request 217, and ours): another chain than the group's (`chain_guard`); refused for
good or a connection that is lost for good; `transient_error_threshold` errors in a row; `mempool_drop_threshold`
mempool drops within `mempool_drop_window_s`; a head that is old or lags, as long as another endpoint has a newer one
(when nobody has, the chain stands still).
An endpoint that relapses soon after it returned has to be well for twice as long the next time, up to eight times.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_PATIENCE: Final = 8
"""A return takes at most this many times `return_after_s`."""


class State(StrEnum):
    """Where an endpoint stands."""

    WELL = "well"
    RETURNING = "returning"
    UNWELL = "unwell"


class Fault(StrEnum):
    """What is held against an endpoint, the gravest first."""

    WRONG_CHAIN = "wrong_chain"
    REFUSED = "refused"
    ERRORS = "errors"
    STALE = "stale"
    MEMPOOL_DROPS = "mempool_drops"


_SILENCING: Final = frozenset({Fault.WRONG_CHAIN, Fault.REFUSED, Fault.ERRORS})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The keys of a `[[providers]]` table: counts, and times in seconds."""

    transient_error_threshold: int = 3
    mempool_drop_threshold: int = 3
    mempool_drop_window_s: float = 300.0
    max_head_age_s: float = 60.0
    max_head_lag: int = 5
    return_after_s: float = 30.0


class EndpointHealth:
    """One endpoint's observations, and what they add up to."""

    def __init__(self, thresholds: Thresholds, now: float) -> None:
        self.state = State.WELL
        self.head: int | None = None
        self.last_error = ""
        self.errors = self.drops = self.relapses = 0
        self._thresholds = thresholds
        self._since = now
        self._patience = 1
        self._refused = ""
        self.wrong_chain = ""
        self._errors_in_a_row = 0
        self._probe_errors_in_a_row = 0
        # As many as can matter: the oldest goes when the next one comes.
        self._drops: deque[float] = deque(maxlen=thresholds.mempool_drop_threshold)
        self._head_born = 0.0
        self._best: int | None = None

    def __repr__(self) -> str:
        return f"<EndpointHealth {self.state}, head {self.head}>"

    def succeeded(self, now: float) -> None:
        """A request was answered."""
        self._errors_in_a_row = self._probe_errors_in_a_row = 0
        self._settle(now)

    def failed(self, now: float, why: str) -> None:
        """A request or a notification stream failed in a way that may pass."""
        self.errors += 1
        self.last_error = why
        self._errors_in_a_row += 1
        self._settle(now)

    def refused(self, now: float, why: str) -> None:
        """A failure that will not pass by itself: a key that is not taken, a connection lost for good."""
        self.errors += 1
        self.last_error = self._refused = why
        self._settle(now)

    def probe_succeeded(self, now: float) -> None:
        """A probe was answered. What it says of the head is told by `saw_head`, before this."""
        self._refused = ""
        self._probe_errors_in_a_row = 0
        if self.state is not State.WELL:
            self._errors_in_a_row = 0  # no requests come here that could be answered
        self._settle(now, probed=True)

    def probe_failed(self, now: float, why: str) -> None:
        """A probe had no answer. Who is on the way back begins again."""
        self.errors += 1
        self.last_error = why
        self._probe_errors_in_a_row += 1
        if self.state is State.RETURNING:
            self._enter(State.UNWELL, now)
        self._settle(now)

    def dropped_from_mempool(self, now: float) -> None:
        """A transaction that this endpoint accepted is gone and was not mined."""
        self.drops += 1
        self._drops.append(now)
        self._settle(now)

    def saw_chain(self, now: float, wrong: str) -> None:
        """What is wrong with the chain that it is on; "" for nothing."""
        if wrong:
            self._refused, self._probe_errors_in_a_row = "", 0  # it answers, and no probe of its head will say so
        if wrong and not self.wrong_chain:
            self.errors += 1
            self.last_error = wrong
        self.wrong_chain = wrong
        self._settle(now)

    def saw_head(self, now: float, number: int, age_s: float) -> None:
        """Its newest block, and how long ago that was made by its timestamp."""
        if self.head is None or number != self.head:
            self.head, self._head_born = number, now - age_s
        self._settle(now)

    def saw_best(self, now: float, number: int) -> None:
        """The newest block that any endpoint of the group has."""
        self._best = number
        self._settle(now)

    def faults(self, now: float) -> dict[Fault, str]:
        """What is held against it now, each with its reason in words; empty when nothing is."""
        limits = self._thresholds
        found: dict[Fault, str] = {}
        if self.wrong_chain:
            found[Fault.WRONG_CHAIN] = self.wrong_chain
        if self._refused:
            found[Fault.REFUSED] = self._refused
        in_a_row = max(self._errors_in_a_row, self._probe_errors_in_a_row)
        if in_a_row >= limits.transient_error_threshold:
            found[Fault.ERRORS] = f"{in_a_row} errors in a row, the last one: {self.last_error}"
        stale = self._staleness(now)
        if stale:
            found[Fault.STALE] = stale
        drops = self._recent_drops(now)
        if drops >= limits.mempool_drop_threshold:
            found[Fault.MEMPOOL_DROPS] = f"{drops} mempool drops within {limits.mempool_drop_window_s:g} s"
        return found

    def answers(self, now: float) -> bool:
        """Whether it can be read from: well, on the way back, or held back only because it loses transactions."""
        return self.state is not State.UNWELL or set(self.faults(now)) == {Fault.MEMPOOL_DROPS}

    def is_silent(self, now: float) -> bool:
        """Whether whoever waits for its answer waits in vain."""
        return self.state is State.UNWELL and bool(_SILENCING & set(self.faults(now)))

    def explain(self, now: float) -> str:
        """Why it is in its state, in one line."""
        faults = self.faults(now)
        if faults:
            return "; ".join(faults.values())
        if self.state is State.WELL:
            return "no head seen yet" if self.head is None else f"head {self.head}"
        left_s = self._since + self._patience * self._thresholds.return_after_s - now
        if self.state is State.RETURNING:
            return f"answers again, returns in {max(left_s, 0):.0f} s"
        return f"waits for a good probe, the last error was: {self.last_error}"

    def _staleness(self, now: float) -> str:
        if self.head is None or self._best is None or self.head >= self._best:
            return ""
        age_s = now - self._head_born
        behind = self._best - self.head
        if behind > self._thresholds.max_head_lag:
            return f"head {self.head} is {behind} blocks behind {self._best}"
        if age_s > self._thresholds.max_head_age_s:
            return f"head {self.head} is {age_s:.0f} s old, and {self._best} exists"
        return ""

    def _recent_drops(self, now: float) -> int:
        return sum(1 for at in self._drops if now - at <= self._thresholds.mempool_drop_window_s)

    def _settle(self, now: float, *, probed: bool = False) -> None:
        faulty = bool(self.faults(now))
        if faulty:
            if self.state is State.WELL:
                self._relapse(now)
            elif self.state is State.RETURNING:
                self._enter(State.UNWELL, now)
        elif probed and self.state is State.UNWELL:
            self._enter(State.RETURNING, now)
        elif probed and self.state is State.RETURNING and now - self._since >= self._wait_s:
            self._enter(State.WELL, now)

    @property
    def _wait_s(self) -> float:
        return self._patience * self._thresholds.return_after_s

    def _relapse(self, now: float) -> None:
        """From well to unwell; the return takes longer when the last one was not long ago."""
        soon = self.relapses > 0 and now - self._since < 2 * self._wait_s
        self._patience = min(2 * self._patience, MOST_PATIENCE) if soon else 1
        self.relapses += 1
        self._enter(State.UNWELL, now)

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._since = now
