"""Whether a node may get requests, and how many at a time: a machine of four states. Pure.

    state      gets                       leaves it
    ---------  -------------------------  ------------------------------------------------------------------
    healthy    up to all of its workers   `max_fails` failures in a row (of requests, or of checks) -> ejected
    ejected    nothing                    its pause is over -> probing
    probing    checks alone               a check fails -> ejected, for twice as long; RETURN_CHECKS pass -> returning
    returning  first one request at a     a failure -> ejected, for twice as long; `slow_return_s` is over -> healthy
               time, then more and more

Failures of requests are transport errors, timeouts (a node that hangs) and statuses of 500 and above. A status of
4xx is the request's own: it is no failure, and no success either; nor is one that the node answered others beside: a
node that hangs answers nobody. Requests and checks are counted apart, since a node that answers checks may still fail
requests, and the other way round.

A node that its requests alone took out is checked all the same, at once and while it is out. One client's requests may
fail on every node, so that such nodes are a last resort for as long as no check fails (`settle_last_resort`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

RETURN_CHECKS: Final = 2
"""Checks in a row that a node passes before it gets requests again."""

LEAST_STEP_S: Final = 0.05
"""Between two more workers of a slow return: each looks at all nodes."""

PROBE_INTERVAL_S: Final = 1.0
MAX_EJECTION_S: Final = 60.0
"""However often it relapses, a node is probed once a minute."""


class NodeState(StrEnum):
    """Where a node stands."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    PROBING = "probing"
    RETURNING = "returning"


@dataclass(frozen=True, slots=True)
class HealthRules:
    """``ejection_s`` is the first pause; ``check_interval_s`` is between checks of a node that gets requests."""

    max_fails: int = 3
    ejection_s: float = 5.0
    check_interval_s: float = 5.0
    slow_return_s: float = 10.0


class NodeHealth:
    """The machine of one node with ``workers`` slots. Times are seconds of one monotonic clock."""

    def __init__(self, rules: HealthRules, workers: int, now: float) -> None:
        self.state = NodeState.HEALTHY
        self.workers = workers
        self._rules = rules
        self._since = now
        self._reason = "no failure since it was added"
        self._fails = self._check_fails = self._checks_passed = 0
        self._ejection_s = rules.ejection_s
        self._until = 0.0  # of the pause, in EJECTED; of the slow return, in RETURNING
        self._next_check = now
        self._checked_at = -inf
        self._last_problem: tuple[float, str] | None = None
        self._last_answer = now
        self.ejections = 0
        self.held_back = False
        """It gets less than its workers for its requests alone: no check has failed."""
        self.proven = False
        """The same, and it has passed a check since."""
        self.last_resort = False
        """It gets requests as if it were healthy: see `settle_last_resort`."""

    def __repr__(self) -> str:
        return f"<NodeHealth {self.state}: {self._reason}>"

    @property
    def reason(self) -> str:
        """Why it is in its state."""
        return self._reason

    @property
    def usable(self) -> bool:
        """Whether its state lets it have requests."""
        return self.state is NodeState.HEALTHY or self.state is NodeState.RETURNING

    def capacity(self, now: float) -> int:
        """How many requests it may have at a time."""
        if self.state is NodeState.HEALTHY or self.last_resort:
            return self.workers
        if self.state is not NodeState.RETURNING:
            return 0
        passed = 1.0 - (self._until - now) / self._rules.slow_return_s
        return min(self.workers, 1 + int(self.workers * max(passed, 0.0)))

    def next_event(self, now: float) -> float:
        """When `tick` has something to do, or a check is due."""
        if self.state is NodeState.RETURNING:
            step_s = max(self._rules.slow_return_s / self.workers, LEAST_STEP_S)
            return min(self._next_check, now + step_s, self._until)
        return self._next_check_at()

    def tick(self, now: float) -> bool:
        """Let time pass; whether a check is to be made now."""
        if self.state is NodeState.EJECTED and now >= self._until:
            self._enter(NodeState.PROBING, now, f"the pause of {self._ejection_s:g} s is over: checks decide")
            self._checks_passed = 0
            self._next_check = now
        elif self.state is NodeState.RETURNING and now >= self._until:
            self._enter(NodeState.HEALTHY, now, f"no failure for {self._rules.slow_return_s:g} s after its return")
            self._ejection_s = self._rules.ejection_s
            self._hold_back(False)
        return not self._is_left_alone and now >= self._next_check

    def request_succeeded(self, now: float) -> None:
        """A node's answer came."""
        self._fails = 0
        self._last_answer = now

    def request_failed(self, problem: str, began: float, now: float) -> None:
        """A transport error, a timeout or a status of 500 and above, of a request that was sent at ``began``."""
        self._last_problem = (now, problem)
        if not (self.usable or self.last_resort) or began < self._last_answer:
            return  # sent before the ejection, or the node answered others meanwhile: it is the request's own
        self._fails += 1
        if not self.usable:
            self._doubt(now)
            return
        if self.state is NodeState.RETURNING:
            self._eject(now, f"failed while it was returning: {problem}", by_requests=True)
        elif self._fails >= self._rules.max_fails:
            self._eject(now, f"{self._fails} requests in a row failed, the last one: {problem}", by_requests=True)

    def _doubt(self, now: float) -> None:
        """What is the last resort may be dead: only a check can say that, and not at its next turn."""
        if self._fails >= self._rules.max_fails:
            self._fails = 0
            self._next_check = min(self._next_check, max(now, self._checked_at + PROBE_INTERVAL_S))

    def check_passed(self, now: float) -> None:
        """The node answered a check."""
        self._check_fails = 0
        self.proven = self.held_back
        self._plan_check(now)
        if self.state is not NodeState.PROBING:
            return
        self._checks_passed += 1
        if self._checks_passed >= RETURN_CHECKS:
            self._fails = 0
            self._enter(NodeState.RETURNING, now, f"passed {self._checks_passed} checks in a row")
            self._until = now + self._rules.slow_return_s

    def check_failed(self, problem: str, now: float) -> None:
        """The node did not answer a check, or with a status of 400 and above."""
        self._last_problem = (now, f"check: {problem}")
        self._check_fails += 1
        self._plan_check(now)
        if self.state is NodeState.PROBING:
            self._eject(now, f"a check failed: {problem}")
        elif self.state is NodeState.RETURNING or (self.usable and self._check_fails >= self._rules.max_fails):
            self._eject(now, f"{self._check_fails} checks in a row failed, the last one: {problem}")
        elif self.held_back:
            self._hold_back(False)
            self._reason = f"{self._reason}; then a check failed: {problem}"

    def explain(self, now: float) -> dict[str, object]:
        """Why it stands where it stands, for the operator; ages in seconds."""
        problem = self._last_problem
        return {
            "state": str(self.state),
            "for_s": round(now - self._since, 3),
            "reason": self._reason,
            "failed_in_a_row": self._fails,
            "checks_failed_in_a_row": self._check_fails,
            "ejected_after": self._rules.max_fails,
            "ejections": self.ejections,
            "last_resort": self.last_resort,
            "capacity": self.capacity(now),
            "next_check_in_s": round(max(self._next_check_at() - now, 0.0), 3),
            "last_problem": None if problem is None else problem[1],
            "last_problem_age_s": None if problem is None else round(now - problem[0], 3),
        }

    @property
    def _is_left_alone(self) -> bool:
        return self.state is NodeState.EJECTED and not self.held_back

    def _next_check_at(self) -> float:
        if self.state is not NodeState.EJECTED:
            return self._next_check
        return min(self._next_check, self._until) if self.held_back else self._until

    def _plan_check(self, now: float) -> None:
        self._checked_at = now
        probing = self.state is NodeState.PROBING
        self._next_check = now + (
            min(PROBE_INTERVAL_S, self._rules.check_interval_s) if probing else self._rules.check_interval_s
        )

    def _eject(self, now: float, reason: str, *, by_requests: bool = False) -> None:
        if self.state is not NodeState.HEALTHY:
            self._ejection_s = min(self._ejection_s * 2, max(MAX_EJECTION_S, self._rules.ejection_s))
        self._enter(NodeState.EJECTED, now, reason)
        self._until = now + self._ejection_s
        self._next_check = now
        self._hold_back(by_requests and not self._check_fails)
        self._fails = self._check_fails = 0
        self.ejections += 1

    def _hold_back(self, held_back: bool) -> None:
        self.held_back, self.proven, self.last_resort = held_back, False, False

    def _enter(self, state: NodeState, now: float, reason: str) -> None:
        self.state, self._since, self._reason = state, now, reason


def settle_last_resort(nodes: Sequence[NodeHealth]) -> None:
    """Say to each of all the nodes whether it gets requests although its own held it back.

    Those that have passed a check since do while they are more than half of the nodes that are well: then the requests
    are to blame, and the rest would drown. Any that no check has spoken against do when there would be no node at all.
    (Envoy's panic threshold does the same, and asks no checks.)
    """
    proven = sum(node.proven for node in nodes)
    well = sum(node.proven or node.usable for node in nodes)
    for node in nodes:
        node.last_resort = node.proven if 2 * proven > well else (node.held_back and not well)
