"""A node's health as a playbook: what happens, and what it may get then."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lb.node_health import (
    MAX_EJECTION_S,
    PROBE_INTERVAL_S,
    RETURN_CHECKS,
    HealthRules,
    NodeHealth,
    NodeState,
    settle_last_resort,
)

RULES = HealthRules(max_fails=3, ejection_s=5.0, check_interval_s=2.0, slow_return_s=10.0)


def node(workers: int = 8) -> NodeHealth:
    return NodeHealth(RULES, workers, 0.0)


def ejected(at: float = 0.0) -> NodeHealth:
    """Out for its requests and a check."""
    health = held_back(at)
    health.check_failed("refused", at)
    assert (health.state, health.held_back) == (NodeState.EJECTED, False)
    return health


def held_back(at: float = 0.0) -> NodeHealth:
    """Out for its requests alone."""
    health = node()
    for _ in range(3):
        health.request_failed("refused", at, at)
    assert (health.state, health.held_back) == (NodeState.EJECTED, True)
    return health


def returning(at: float = 5.0) -> NodeHealth:
    health = ejected(at - 5.0)
    for _ in range(RETURN_CHECKS):
        assert health.tick(at)
        health.check_passed(at)
        at = health.next_event(at)
    assert health.state is NodeState.RETURNING
    return health


def test_a_new_node_gets_all_it_can_and_is_checked_at_once() -> None:
    health = node()
    assert (health.capacity(0.0), health.usable, health.tick(0.0)) == (8, True, True)


def test_a_last_resort_that_fails_is_checked_soon_and_not_at_its_next_turn() -> None:
    health = held_back()
    assert health.tick(0.0)
    health.check_passed(0.0)
    settle_last_resort([health])
    assert health.last_resort
    due = health.next_event(0.1)
    for _ in range(2):
        health.request_failed("refused", 0.1, 0.1)
    assert health.next_event(0.1) == due
    health.request_failed("refused", 0.1, 0.1)
    assert health.next_event(0.1) == PROBE_INTERVAL_S < due
    for _ in range(300):
        health.request_failed("refused", 0.2, 0.2)
    assert not health.tick(0.9), "one check a second, however quickly it fails"
    assert health.tick(1.0)
    health.check_failed("refused", 1.0)
    settle_last_resort([health])
    assert health.capacity(1.0) == 0


def test_the_steps_of_a_slow_return_are_bounded_however_many_workers_there_are() -> None:
    health = returning()
    health.workers = 10_000
    assert health.next_event(6.5) == pytest.approx(6.55)


def test_failures_in_a_row_take_it_out() -> None:
    health = node()
    health.request_failed("refused", 1.0, 1.0)
    health.request_failed("refused", 1.0, 1.0)
    assert health.usable
    health.request_failed("timed out", 1.0, 1.0)
    assert (health.state, health.capacity(1.0), health.ejections) == (NodeState.EJECTED, 0, 1)
    assert health.reason == "3 requests in a row failed, the last one: timed out"


def test_a_success_in_between_begins_the_count_anew() -> None:
    health = node()
    for _ in range(10):
        health.request_failed("refused", 1.0, 1.0)
        health.request_failed("refused", 1.0, 1.0)
        health.request_succeeded(1.5)
    assert health.state is NodeState.HEALTHY


def test_failing_checks_take_it_out_although_requests_succeed() -> None:
    health = node()
    for now in (0.0, 2.0, 4.0):
        health.request_succeeded(now)
        health.check_failed("status 500", now)
    assert health.state is NodeState.EJECTED
    assert health.reason == "3 checks in a row failed, the last one: status 500"


def test_passing_checks_do_not_forgive_failing_requests() -> None:
    health = node()
    for now in (0.0, 2.0, 4.0):
        health.check_passed(now)
        health.request_failed("refused", now, now)
    assert health.state is NodeState.EJECTED


def test_it_is_left_alone_for_its_pause_and_then_checked() -> None:
    health = ejected()
    assert health.next_event(1.0) == 5.0
    assert not health.tick(4.9)
    assert health.state is NodeState.EJECTED
    assert health.tick(5.0)
    assert (health.state, health.capacity(5.0)) == (NodeState.PROBING, 0)


def test_a_failed_check_while_probing_takes_it_out_for_twice_as_long_up_to_a_minute() -> None:
    health, now, pauses = ejected(), 0.0, []
    for _ in range(6):
        until = health.next_event(now)
        pauses.append(until - now)
        assert health.tick(until)
        health.check_failed("refused", until)
        now = until
    assert pauses == [5.0, 10.0, 20.0, 40.0, MAX_EJECTION_S, MAX_EJECTION_S]


def test_it_comes_back_slowly() -> None:
    health = returning()
    begin = 6.0
    assert health.capacity(begin) == 1
    assert [health.capacity(begin + seconds) for seconds in (2.5, 5.0, 7.5, 10.0)] == [3, 5, 7, 8]
    health.tick(16.0)
    assert (health.state, health.capacity(16.0)) == (NodeState.HEALTHY, 8)


def test_a_failure_while_it_comes_back_takes_it_out_for_twice_as_long() -> None:
    health = returning()
    health.request_failed("refused", 7.0, 7.0)
    assert (health.state, health.reason) == (NodeState.EJECTED, "failed while it was returning: refused")
    health.check_failed("refused", 7.0)
    assert health.next_event(7.0) == 17.0


def test_after_a_whole_return_the_pause_is_the_first_one_again() -> None:
    health = returning()
    health.tick(16.0)
    for _ in range(3):
        health.request_failed("refused", 20.0, 20.0)
    health.check_failed("refused", 20.0)
    assert health.next_event(20.0) == 25.0


def test_answers_to_what_was_sent_before_the_ejection_change_nothing() -> None:
    health = ejected()
    health.request_failed("late", 1.0, 1.0)
    health.request_succeeded(1.0)
    health.check_passed(1.0)
    assert (health.state, health.ejections) == (NodeState.EJECTED, 1)


def test_a_failure_says_nothing_of_a_node_that_answered_others_meanwhile() -> None:
    health = node()
    for _ in range(10):
        health.request_succeeded(2.0)
        health.request_failed("no answer in time", 1.0, 4.0)  # one client's slow requests
    assert (health.state, health.explain(4.0)["last_problem"]) == (NodeState.HEALTHY, "no answer in time")
    for _ in range(3):
        health.request_failed("no answer in time", 2.5, 5.5)  # it hangs: nothing came after these were sent
    assert health.state is NodeState.EJECTED


def test_a_node_that_requests_took_out_is_checked_at_once_and_proves_itself() -> None:
    health = held_back(1.0)
    assert (health.next_event(1.0), health.tick(1.0), health.proven) == (1.0, True, False)
    health.check_passed(1.0)
    assert (health.state, health.held_back, health.proven) == (NodeState.EJECTED, True, True)
    assert health.next_event(1.0) == 3.0
    health.tick(6.0)
    assert (health.state, health.held_back) == (NodeState.PROBING, True)
    health.check_passed(6.0)
    health.check_passed(7.0)
    assert (health.state, health.held_back) == (NodeState.RETURNING, True)
    health.tick(17.0)
    assert (health.state, health.held_back, health.proven) == (NodeState.HEALTHY, False, False)


def test_a_check_that_failed_before_speaks_against_a_node_that_requests_take_out() -> None:
    health = node()
    health.check_failed("refused", 0.0)
    for _ in range(3):
        health.request_failed("refused", 0.0, 0.0)
    assert (health.state, health.held_back) == (NodeState.EJECTED, False)


def capacities(*nodes: NodeHealth) -> list[int]:
    settle_last_resort(nodes)
    return [each.capacity(6.0) for each in nodes]


def proven() -> NodeHealth:
    health = held_back(1.0)
    health.check_passed(1.0)
    return health


def test_requests_alone_hold_back_up_to_half_of_the_nodes() -> None:
    assert capacities(proven(), node()) == [0, 8]
    assert capacities(proven(), node(), node()) == [0, 8, 8]
    assert capacities(proven(), proven(), node(), node()) == [0, 0, 8, 8]


def test_when_they_would_hold_back_more_it_is_the_requests_and_all_serve() -> None:
    assert capacities(proven()) == [8]
    assert capacities(proven(), proven(), node()) == [8, 8, 8]
    assert capacities(proven(), ejected(), ejected()) == [8, 0, 0]


def test_a_node_that_has_not_passed_a_check_since_is_used_when_there_is_no_other() -> None:
    assert capacities(held_back(), held_back(), node()) == [0, 0, 8]
    assert capacities(held_back(), held_back(), ejected()) == [8, 8, 0]
    assert capacities(held_back(), proven()) == [0, 8]


def test_nodes_whose_checks_fail_are_no_last_resort() -> None:
    assert capacities(ejected(), ejected()) == [0, 0]
    health = proven()
    assert capacities(health) == [8]
    health.check_failed("refused", 2.0)
    assert capacities(health) == [0]


def test_a_slow_return_from_failed_checks_stays_slow() -> None:
    assert capacities(returning(), returning(), node()) == [1, 1, 8]


def test_its_next_event_while_it_returns_is_its_next_worker() -> None:
    health = returning()
    assert health.next_event(6.0) <= 6.0 + 10.0 / 8


def test_explain_says_what_an_operator_asks() -> None:
    health = ejected(1.0)
    assert health.explain(3.0) == {
        "state": "ejected",
        "for_s": 2.0,
        "reason": "3 requests in a row failed, the last one: refused; then a check failed: refused",
        "failed_in_a_row": 0,
        "checks_failed_in_a_row": 1,
        "ejected_after": 3,
        "ejections": 1,
        "last_resort": False,
        "capacity": 0,
        "next_check_in_s": 3.0,
        "last_problem": "check: refused",
        "last_problem_age_s": 2.0,
    }
    assert repr(health).startswith("<NodeHealth ejected: 3 requests")
    assert node().explain(0.0)["last_problem"] is None


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ok", "fail", "check ok", "check fail", "tick"]), st.floats(0, 20)), max_size=60
)


@given(EVENTS, st.integers(1, 20))
def test_whatever_happens_it_never_gets_more_than_its_workers_and_only_when_usable(
    events: list[tuple[str, float]], workers: int
) -> None:
    health, now = NodeHealth(RULES, workers, 0.0), 0.0
    for event, passed in events:
        now += passed
        match event:
            case "ok":
                health.request_succeeded(now)
            case "fail":
                health.request_failed("x", now, now)
            case "check ok":
                health.check_passed(now)
            case "check fail":
                health.check_failed("x", now)
            case _:
                health.tick(now)
        capacity = health.capacity(now)
        assert 0 <= capacity <= workers
        assert (capacity > 0) is health.usable
        assert health.next_event(now) - now <= MAX_EJECTION_S


@given(EVENTS)
def test_a_node_that_is_well_again_always_comes_back(events: list[tuple[str, float]]) -> None:
    health, now = node(), 0.0
    for event, passed in events:
        now += passed
        if event == "fail":
            health.request_failed("x", now, now)
        elif event == "check fail":
            health.check_failed("x", now)
    for _ in range(200):
        now = max(health.next_event(now), now)
        if health.tick(now):
            health.check_passed(now)
    assert health.state is NodeState.HEALTHY


@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_while_no_check_fails_some_node_always_gets_requests(histories: list[list[tuple[str, float]]]) -> None:
    nodes = [node() for _ in histories]
    now = 0.0
    for step in zip_longest(*histories):
        for health, happened in zip(nodes, step, strict=True):
            event, passed = happened or ("tick", 0.0)
            now += passed
            if event in ("fail", "check fail"):
                health.request_failed("x", now, now)
            elif event == "check ok":
                health.check_passed(now)
            elif event == "ok":
                health.request_succeeded(now)
            health.tick(now)
            settle_last_resort(nodes)
            assert any(each.capacity(now) for each in nodes)
