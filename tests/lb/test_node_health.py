"""A node's health as a playbook: what happens, and what it may get then."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.lb.node_health import MAX_EJECTION_S, RETURN_CHECKS, HealthRules, NodeHealth, NodeState

RULES = HealthRules(max_fails=3, ejection_s=5.0, check_interval_s=2.0, slow_return_s=10.0)


def node(workers: int = 8) -> NodeHealth:
    return NodeHealth(RULES, workers, 0.0)


def ejected(at: float = 0.0) -> NodeHealth:
    health = node()
    for _ in range(3):
        health.request_failed("refused", at)
    assert health.state is NodeState.EJECTED
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


def test_failures_in_a_row_take_it_out() -> None:
    health = node()
    health.request_failed("refused", 1.0)
    health.request_failed("refused", 1.0)
    assert health.usable
    health.request_failed("timed out", 1.0)
    assert (health.state, health.capacity(1.0), health.ejections) == (NodeState.EJECTED, 0, 1)
    assert health.reason == "3 requests in a row failed, the last one: timed out"


def test_a_success_in_between_begins_the_count_anew() -> None:
    health = node()
    for _ in range(10):
        health.request_failed("refused", 1.0)
        health.request_failed("refused", 1.0)
        health.request_succeeded()
    assert health.state is NodeState.HEALTHY


def test_failing_checks_take_it_out_although_requests_succeed() -> None:
    health = node()
    for now in (0.0, 2.0, 4.0):
        health.request_succeeded()
        health.check_failed("status 500", now)
    assert health.state is NodeState.EJECTED
    assert health.reason == "3 checks in a row failed, the last one: status 500"


def test_passing_checks_do_not_forgive_failing_requests() -> None:
    health = node()
    for now in (0.0, 2.0, 4.0):
        health.check_passed(now)
        health.request_failed("refused", now)
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
    health.request_failed("refused", 7.0)
    assert (health.state, health.next_event(7.0)) == (NodeState.EJECTED, 17.0)
    assert health.reason == "failed while it was returning: refused"


def test_after_a_whole_return_the_pause_is_the_first_one_again() -> None:
    health = returning()
    health.tick(16.0)
    for _ in range(3):
        health.request_failed("refused", 20.0)
    assert health.next_event(20.0) == 25.0


def test_answers_to_what_was_sent_before_the_ejection_change_nothing() -> None:
    health = ejected()
    health.request_failed("late", 1.0)
    health.request_succeeded()
    health.check_passed(1.0)
    assert (health.state, health.ejections) == (NodeState.EJECTED, 1)


def test_its_next_event_while_it_returns_is_its_next_worker() -> None:
    health = returning()
    assert health.next_event(6.0) <= 6.0 + 10.0 / 8


def test_explain_says_what_an_operator_asks() -> None:
    health = ejected(1.0)
    assert health.explain(3.0) == {
        "state": "ejected",
        "for_s": 2.0,
        "reason": "3 requests in a row failed, the last one: refused",
        "failed_in_a_row": 0,
        "checks_failed_in_a_row": 0,
        "ejected_after": 3,
        "ejections": 1,
        "capacity": 0,
        "next_check_in_s": 3.0,
        "last_problem": "refused",
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
                health.request_succeeded()
            case "fail":
                health.request_failed("x", now)
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
            health.request_failed("x", now)
        elif event == "check fail":
            health.check_failed("x", now)
    for _ in range(200):
        now = max(health.next_event(now), now)
        if health.tick(now):
            health.check_passed(now)
    assert health.state is NodeState.HEALTHY
