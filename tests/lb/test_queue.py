"""The queue: order in all settings, bounds, cancellation, and the promise against a simple oracle."""

import gc
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.lb.queue import AGED_SHARE, ANYWHERE, Avoid, Priority, PriorityQueue, QueueRules

F, H, L = Priority.FAST_TRACK, Priority.HIGH, Priority.LOW


def filled(rules: QueueRules, fast: int = 0, high: int = 0, low: int = 0) -> PriorityQueue[str]:
    queue: PriorityQueue[str] = PriorityQueue(rules)
    for priority, count in ((L, low), (H, high), (F, fast)):
        for number in range(count):
            assert queue.push(f"{priority.name[0]}{number}", priority, 0.0)
    return queue


def order(queue: PriorityQueue[str]) -> str:
    """The initials in the order in which everything comes out."""
    out = ""
    while (item := queue.pop(0.0)) is not None:
        out += item[0]
    return out


@pytest.mark.parametrize(
    ("per_high", "drain", "expected"),
    [
        (1, False, "FHFHFHHHL"),
        (2, False, "FFHFHHHHL"),
        (3, False, "FFFHHHHHL"),
        (0, False, "HHHHHFFFL"),
        (2, True, "FFFHHHHHL"),
        (0, True, "FFFHHHHHL"),
    ],
)
def test_so_many_fast_track_for_one_high_and_low_last(per_high: int, drain: bool, expected: str) -> None:
    rules = QueueRules(fast_track_per_high=per_high, drain_first=drain)
    assert order(filled(rules, fast=3, high=5, low=1)) == expected


def test_low_comes_last_although_it_came_first() -> None:
    queue = filled(QueueRules(fast_track_per_high=1), low=1)
    for number in range(11):
        queue.push(f"H{number}", H, 0.0)
    for number in range(2):
        queue.push(f"F{number}", F, 0.0)
    assert queue.sizes() == (2, 11, 1)
    assert order(queue) == "FHFH" + "H" * 9 + "L"
    assert len(queue) == 0


def test_first_come_first_served_within_a_priority() -> None:
    queue = filled(QueueRules(), fast=3)
    assert [queue.pop(0.0) for _ in range(4)] == ["F0", "F1", "F2", None]


def test_fast_track_that_stays_alone_keeps_no_turn_from_itself() -> None:
    assert order(filled(QueueRules(fast_track_per_high=2), fast=7)) == "F" * 7


def test_a_request_that_needs_no_wait_counts_for_the_turns() -> None:
    queue = filled(QueueRules(fast_track_per_high=2), high=1)
    fresh: PriorityQueue[str] = PriorityQueue(QueueRules(fast_track_per_high=2))
    for _ in range(2):
        fresh.note_passed(F)
    fresh.push("H", H, 0.0)
    fresh.push("F", F, 0.0)
    assert order(fresh) == "HF"
    queue.push("F", F, 0.0)
    assert order(queue) == "FH"


def test_a_high_request_that_needs_no_wait_begins_the_turns_anew() -> None:
    queue: PriorityQueue[str] = PriorityQueue(QueueRules(fast_track_per_high=1))
    queue.note_passed(F)
    queue.note_passed(H)
    queue.push("H", H, 0.0)
    queue.push("F", F, 0.0)
    assert order(queue) == "FH"


@pytest.mark.parametrize("priority", list(Priority))
def test_a_full_queue_takes_nothing_and_the_others_do(priority: Priority) -> None:
    limits = [0, 0, 0]
    limits[priority] = 2
    queue: PriorityQueue[str] = PriorityQueue(QueueRules(limits=(limits[0], limits[1], limits[2])))
    for each in Priority:
        assert [queue.push(f"{each}{number}", each, 0.0) for number in range(3)] == [True, True, each is not priority]
    assert queue.pop(0.0) is not None


def test_there_is_room_again_after_a_pop_or_a_cancellation() -> None:
    queue: PriorityQueue[str] = PriorityQueue(QueueRules(limits=(0, 0, 1)))
    assert queue.push("a", L, 0.0)
    assert not queue.push("b", L, 0.0)
    assert queue.cancel("a", L)
    assert queue.push("c", L, 0.0)
    assert queue.pop(0.0) == "c"
    assert queue.push("d", L, 0.0)


def test_what_was_cancelled_never_comes_out() -> None:
    queue = filled(QueueRules(), high=3)
    assert queue.cancel("H1", H)
    assert not queue.cancel("H1", H)
    assert not queue.cancel("H9", H)
    assert [queue.pop(0.0) for _ in range(3)] == ["H0", "H2", None]


def test_without_ageing_low_waits_for_ever() -> None:
    queue = filled(QueueRules(), low=1)
    for number in range(100):
        queue.push(f"H{number}", H, float(number))
        assert queue.pop(1000.0 + number) != "L0"


def test_an_aged_low_request_gets_a_turn_and_then_every_tenth_is_for_such() -> None:
    queue = filled(QueueRules(ageing_s=5.0), fast=50, low=5)
    out = ""
    for _ in range(35):
        item = queue.pop(6.0)
        assert item is not None
        out += item[0]
    others = "F" * AGED_SHARE
    assert out == ("L" + others) * 3 + "LF"


def test_a_young_low_request_gets_no_turn() -> None:
    queue = filled(QueueRules(ageing_s=5.0), fast=2, low=1)
    assert [queue.pop(4.9) for _ in range(3)] == ["F0", "F1", "L0"]


def test_what_came_back_goes_before_its_like_and_not_before_a_higher_one() -> None:
    queue = filled(QueueRules(), high=1, low=1)
    queue.push_back("returned", L, frozenset({"a"}), 1.0)
    assert queue.sizes() == (0, 1, 2)
    assert [queue.pop(1.0) for _ in range(3)] == ["H0", "returned", "L0"]


def test_what_came_back_waits_while_it_is_refused_and_others_pass() -> None:
    queue = filled(QueueRules(), high=2)
    avoid = frozenset({"a"})
    queue.push_back("returned", H, avoid, 1.0)
    assert queue.pop(1.0, lambda _, found: found == avoid) == "H0"
    assert queue.pop(1.0, lambda *_: False) == "returned"
    assert queue.pop(1.0, lambda *_: True) == "H1"
    assert len(queue) == 0


def test_what_came_back_can_be_cancelled_and_has_no_limit() -> None:
    queue: PriorityQueue[str] = PriorityQueue(QueueRules(limits=(1, 1, 1)))
    queue.push("fresh", L, 0.0)
    queue.push_back("a", L, frozenset({"x"}), 0.0)
    queue.push_back("b", L, frozenset({"x"}), 0.0)
    assert queue.cancel("a", L)
    assert [queue.pop(0.0), queue.pop(0.0), queue.pop(0.0)] == ["b", "fresh", None]


def test_only_fast_track_leaves_the_others_where_they_are() -> None:
    queue = filled(QueueRules(), fast=1, high=1)
    assert queue.pop(0.0, only_fast_track=True) == "F0"
    assert queue.pop(0.0, only_fast_track=True) is None
    assert queue.sizes() == (0, 1, 0)


def test_drain_empties_everything() -> None:
    queue = filled(QueueRules(), fast=1, high=1, low=1)
    queue.push_back("returned", H, frozenset({"a"}), 0.0)
    assert sorted(queue.drain()) == ["F0", "H0", "L0", "returned"]
    assert (len(queue), queue.pop(0.0), queue.oldest_of_all()) == (0, None, None)


def test_the_oldest_and_who_is_older() -> None:
    queue: PriorityQueue[str] = PriorityQueue(QueueRules())
    queue.push("low", L, 1.0)
    queue.push("fast", F, 3.0)
    assert queue.oldest_of_all() == 1.0
    assert queue.oldest(F) == 3.0
    assert queue.pop_older(0.5) is None
    assert queue.pop_older(1.0) == "low"
    assert queue.pop_older(3.0) == "fast"


def test_cancelled_requests_leave_no_trace_however_many_they_are() -> None:
    queue: PriorityQueue[int] = PriorityQueue(QueueRules())
    queue.push(-1, L, 0.0)
    for number in range(10_000):
        queue.push(number, L, 0.0)
        assert queue.cancel(number, L)
    assert len(queue._fifos[L]._order) < 100
    assert (queue.pop(0.0), queue.pop(0.0)) == (-1, None)


def test_repr_says_how_many_wait() -> None:
    assert repr(filled(QueueRules(), fast=1, low=2)) == "<PriorityQueue 1 fast-track, 0 high, 2 low>"


def test_nothing_is_slower_because_many_wait() -> None:
    """A coarse guard against anything quadratic; `python -m bench.lb` measures."""

    def seconds(count: int) -> float:
        queue: PriorityQueue[int] = PriorityQueue(QueueRules())
        began = time.process_time()
        for number in range(count):
            queue.push(number, Priority(number % 3), 0.0)
        for number in range(0, count, 5):
            queue.cancel(number, Priority(number % 3))
        while queue.pop(0.0) is not None:
            pass
        return time.process_time() - began

    gc.disable()  # what it takes depends on all that this process has done
    try:
        assert min(seconds(60_000) for _ in range(3)) < 40 * max(min(seconds(3_000) for _ in range(3)), 1e-3)
    finally:
        gc.enable()


@dataclass
class Oracle:
    """The rules once more, with lists and without any care for time."""

    rules: QueueRules
    waiting: list[tuple[int, Priority, Avoid, float]] = field(default_factory=list)
    run: int = 0

    def of(self, priority: Priority) -> list[tuple[int, Priority, Avoid, float]]:
        return [each for each in self.waiting if each[1] is priority]

    def pop(self, refused: Avoid | None) -> int | None:
        first = F if self._fast_turn() else H
        for priority in (first, *(each for each in (F, H) if each is not first), L):
            allowed = [each for each in self.of(priority) if each[2] == ANYWHERE or each[2] != refused]
            if allowed:
                # Those that came back are before the fresh ones.
                chosen = next((each for each in allowed if each[2]), allowed[0])
                self.waiting.remove(chosen)
                return chosen[0]
        return None

    def _fast_turn(self) -> bool:
        if not self.of(F):
            self.run = 0
            return False
        if self.rules.drain_first:
            return True
        self.run += 1
        if self.run > self.rules.fast_track_per_high:
            self.run = 0
            return False
        return True


class QueueAgainstOracle(RuleBasedStateMachine):
    """Order, fairness, bounds and cancellation, in any sequence of what can happen."""

    @initialize(
        per_high=st.integers(0, 4),
        drain=st.booleans(),
        limits=st.tuples(*[st.sampled_from([0, 1, 3])] * 3),
    )
    def begin(self, per_high: int, drain: bool, limits: tuple[int, int, int]) -> None:
        rules = QueueRules(fast_track_per_high=per_high, drain_first=drain, limits=limits)
        self.queue: PriorityQueue[int] = PriorityQueue(rules)
        self.oracle = Oracle(rules)
        self.number = 0

    @rule(priority=st.sampled_from(Priority))
    def push(self, priority: Priority) -> None:
        self.number += 1
        fresh = [each for each in self.oracle.of(priority) if not each[2]]
        limit = self.oracle.rules.limits[priority]
        fits = not limit or len(fresh) < limit
        assert self.queue.push(self.number, priority, float(self.number)) is fits
        if fits:
            self.oracle.waiting.append((self.number, priority, ANYWHERE, float(self.number)))

    @rule(priority=st.sampled_from(Priority), avoid=st.sampled_from(["a", "b"]))
    def come_back(self, priority: Priority, avoid: str) -> None:
        self.number += 1
        self.queue.push_back(self.number, priority, frozenset({avoid}), float(self.number))
        self.oracle.waiting.append((self.number, priority, frozenset({avoid}), float(self.number)))

    @rule(refused=st.sampled_from([None, "a", "b"]))
    def pop(self, refused: str | None) -> None:
        which = None if refused is None else frozenset({refused})
        expected = self.oracle.pop(which)
        refuses = None if which is None else lambda _, avoid: avoid == which
        assert self.queue.pop(float(self.number), refuses) == expected

    @precondition(lambda self: self.oracle.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.oracle.waiting))
        assert self.queue.cancel(chosen[0], chosen[1])
        assert not self.queue.cancel(chosen[0], chosen[1])
        self.oracle.waiting.remove(chosen)

    @invariant()
    def the_same_wait(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.sizes() == tuple(len(self.oracle.of(priority)) for priority in Priority)
            assert len(self.queue) == len(self.oracle.waiting)


QueueAgainstOracle.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestQueueAgainstOracle = QueueAgainstOracle.TestCase


@given(per_high=st.integers(1, 5), fast=st.integers(0, 30), high=st.integers(0, 30))
def test_nobody_of_high_waits_for_more_fast_track_than_the_rule_says(per_high: int, fast: int, high: int) -> None:
    out = order(filled(QueueRules(fast_track_per_high=per_high), fast=fast, high=high))
    while_both = out[: max(out.rfind("H"), 0)]
    assert "F" * (per_high + 1) not in while_both
    assert out.count("F") == fast
